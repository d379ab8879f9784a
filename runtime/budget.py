"""Memory arithmetic: a ceiling on the process's peak resident set, and whether a plan's needs stay below it."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tam_edge.runtime.device import DeviceProfile
from tam_edge.runtime.errors import MemoryLimitError, UsageError

DEFAULT_SHARE = 0.8
"""Part of the memory that could be had that is taken where no ceiling is given."""

MIB = 1024**2
_UNITS = {"b": 1, "kb": 10**3, "kib": 2**10, "mb": 10**6, "mib": 2**20, "gb": 10**9, "gib": 2**30}
_SIZE = re.compile(r"(\d{1,15}(?:\.\d{1,6})?)\s*([KMG]i?B|B)", re.IGNORECASE | re.ASCII)


@dataclass(frozen=True, slots=True)
class MemoryLimit:
    """A ceiling on the process's peak resident set."""

    limit_bytes: int
    """The ceiling in bytes."""
    source: str
    """Where it comes from, for messages: an option, or how it was computed."""


def parse_size(text: str) -> int:
    """Turn "900MiB", "2 GiB" or "1.5GB" into bytes; B, KB, KiB, MB, MiB, GB and GiB are known, in any case.

    Raises:
        UsageError: no such size, or nothing at all.
    """
    match = _SIZE.fullmatch(text.strip())
    size = int(float(match[1]) * _UNITS[match[2].lower()]) if match else 0
    if size < 1:
        raise UsageError(f"{text[:40]!r} is no memory size: write a number and a unit, such as 900MiB or 2GiB")
    return size


def default_limit(device: DeviceProfile) -> MemoryLimit:
    """80% of what this process could have: the memory free now and what it already holds."""
    available = device.memory_free_bytes + resident_bytes()
    source = f"{DEFAULT_SHARE:.0%} of the {size_text(available)} that are free now or already held"
    return MemoryLimit(int(available * DEFAULT_SHARE), source)


def admit(limit: MemoryLimit, predicted: Mapping[str, int]) -> None:
    """Refuse, before anything is loaded, what cannot stay below the ceiling.

    `predicted` names each need (what the process holds already among them) and its bytes; they count together.

    Raises:
        MemoryLimitError: their sum is above the limit; names every need and the smallest ceiling that would do.
    """
    needed = sum(predicted.values())
    if needed <= limit.limit_bytes:
        return
    needs = ", ".join(f"{name} {size_text(size)}" for name, size in predicted.items())
    allowed, smallest = size_text(limit.limit_bytes), math.ceil(needed / MIB)
    message = f"{allowed} of memory ({limit.source}) is too little: {needs}; allow at least {smallest}MiB"
    raise MemoryLimitError(limit.limit_bytes, needed, message)


def resident_bytes() -> int:
    """Resident set of this process now, in bytes."""
    import psutil

    return int(psutil.Process().memory_info().rss)


def peak_resident_bytes() -> int:
    """Largest resident set this process ever had, in bytes.

    On Linux VmHWM: `ru_maxrss` of a child starts at its parent's size there.
    """
    if sys.platform == "linux":
        status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
        return 1024 * int(status.partition("VmHWM:")[2].split()[0])
    if sys.platform == "win32":
        import psutil

        return int(psutil.Process().memory_info().peak_wset)
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS


def size_text(size_bytes: int) -> str:
    """Bytes as a person writes them, in MiB or GiB."""
    return f"{size_bytes / 1024**3:.2f} GiB" if size_bytes >= 1024**3 else f"{size_bytes / MIB:.1f} MiB"
