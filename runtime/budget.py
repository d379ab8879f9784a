"""Memory arithmetic: sizes in words, the ceiling on a process's peak resident set, and what it holds and held."""

from __future__ import annotations

import ctypes
import functools
import gc
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tam_edge.runtime.device import DeviceProfile
from tam_edge.runtime.errors import UsageError

DEFAULT_SHARE = 0.8
"""Part of the memory that could be had that is taken where no ceiling is given."""

MIB = 1024**2
MAPPED_BLOCK_BYTES = MIB // 4
"""Blocks from this size on are mapped one by one."""
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h
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


def memory_limit(memory: int | str | None, device: DeviceProfile) -> MemoryLimit:
    """The ceiling that was asked for, in bytes or as text such as "2GiB"; None is `default_limit`.

    Raises:
        UsageError: no such size.
    """
    if memory is None:
        return default_limit(device)
    return MemoryLimit(parse_size(memory), memory) if isinstance(memory, str) else MemoryLimit(memory, "as given")


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


def give_back(*, cycles: bool = True) -> None:
    """Return freed memory to the system, as far as the C library can: what it keeps for later counts all the same.

    Reference `cycles` hold decoders and arrays that nobody uses any more, so those are collected first.
    """
    if cycles:
        gc.collect()
    _trim()(0)


@functools.cache
def steady_heap() -> None:
    """Have the C library map large blocks one by one, and return them when they are freed (glibc; once a process).

    By default it raises the size from which it does so whenever such a block is freed, to 32 MiB in the end.
    Activations then come from its heaps, and how much stays of them depends on what ran before, and where. An encoder
    with 8 frames at once on two threads took 23 MiB the first time and 47 the fourth; so it takes 17 every time, a
    tenth slower.
    """
    try:
        mallopt: Callable[[int, int], object] = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    mallopt(_M_MMAP_THRESHOLD, MAPPED_BLOCK_BYTES)
    mallopt(_M_TRIM_THRESHOLD, MAPPED_BLOCK_BYTES)


@functools.cache
def _trim() -> Callable[[int], object]:
    try:
        trim: Callable[[int], object] = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):  # only glibc has it; others keep little
        return lambda _: None
    return trim


def size_text(size_bytes: int) -> str:
    """Bytes as a person writes them, in MiB or GiB."""
    return f"{size_bytes / 1024**3:.2f} GiB" if size_bytes >= 1024**3 else f"{size_bytes / MIB:.1f} MiB"
