"""What this machine is: facts a plan or a person may need, read without opening a GPU library."""

from __future__ import annotations

import os
import platform
import sys
from dataclasses import dataclass
from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup")
_NVIDIA_DRIVER = Path("/proc/driver/nvidia/gpus")
_BOARD = Path("/proc/device-tree/model")
_CPU = Path("/proc/cpuinfo")


@dataclass(frozen=True, slots=True)
class DeviceProfile:
    """The machine as found now."""

    machine: str
    """Board name where the firmware gives one, else operating system and processor architecture."""
    cpu_count: int
    """Processors this process may use."""
    memory_total_bytes: int
    """Physical memory, in bytes."""
    memory_free_bytes: int
    """Memory that can be had now without swapping and within the container's limit, in bytes."""
    gpus: tuple[str, ...]
    """Names of NVIDIA GPUs the driver shows."""


def probe_device() -> DeviceProfile:
    """Look at this machine; opens no GPU library and starts no program."""
    import psutil

    memory = psutil.virtual_memory()
    container_free = container_free_bytes(_CGROUP)
    free = memory.available if container_free is None else min(memory.available, container_free)
    return DeviceProfile(
        machine=_text(_BOARD).rstrip("\0\n") or f"{platform.system()} {platform.machine()}",
        cpu_count=usable_cpus(),
        memory_total_bytes=memory.total,
        memory_free_bytes=free,
        gpus=driver_gpus(_NVIDIA_DRIVER),
    )


def container_free_bytes(cgroup: Path) -> int | None:
    """Bytes left below the memory limit of the control group mounted at `cgroup`; None where it sets no limit.

    Page cache counts as used there but is given back on demand, so it is added again.
    """
    v2, v1 = cgroup, cgroup / "memory"
    limit = _text(v2 / "memory.max") or _text(v1 / "memory.limit_in_bytes")
    used = _text(v2 / "memory.current") or _text(v1 / "memory.usage_in_bytes")
    if not (limit.isdigit() and used.isdigit()):
        return None
    statistics = _text(v2 / "memory.stat") or _text(v1 / "memory.stat")
    cache = [line.split()[1] for line in statistics.splitlines() if line.startswith("inactive_file ")]
    return max(0, int(limit) - int(used) + sum(map(int, cache)))


def driver_gpus(driver: Path) -> tuple[str, ...]:
    """Names of the GPUs in the NVIDIA driver's folder `driver`, in its order; empty without such a driver."""
    lines = [line for gpu in sorted(driver.glob("*/information")) for line in _text(gpu).splitlines()]
    return tuple(line.partition(":")[2].strip() for line in lines if line.startswith("Model:"))


def has_vnni(cpuinfo: Path = _CPU) -> bool:
    """Whether this x86 processor adds up products of 8-bit numbers in 32 bits; False where nothing says so."""
    flags = next((line for line in _text(cpuinfo).splitlines() if line.startswith("flags")), "").split()
    return "avx512_vnni" in flags or "avx_vnni" in flags


def processor_name(cpuinfo: Path = _CPU) -> str:
    """What this processor calls itself; empty where nothing says so."""
    lines = (line for line in _text(cpuinfo).splitlines() if line.lower().startswith(("model name", "hardware")))
    return next(lines, "").partition(":")[2].strip()


def cache_folder() -> Path:
    """Where this user's records and device-made files live: TAM_EDGE_CACHE, else the platform's cache folder.

    The folder need not exist. Bundles are read-only, so nothing is ever written beside them.
    """
    if chosen := os.environ.get("TAM_EDGE_CACHE"):
        return Path(chosen)
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or Path("~/AppData/Local").expanduser()
    elif sys.platform == "darwin":
        base = Path("~/Library/Caches").expanduser()
    else:
        base = os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()
    return Path(base) / "tam-edge"


def usable_cpus() -> int:
    """Processors this process may use."""
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _text(path: Path) -> str:
    """Content of a small system file, stripped; empty where it cannot be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
