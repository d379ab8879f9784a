"""What one engine needs in memory: read from its measurements, or assumed where a bundle has none. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from tam_edge.runtime.schema import Attention, EngineMemory, EngineSpec, Sized

MEASURED_THREADS = 2
"""Threads of an engine while it was measured."""
THREAD_BYTES = 256 * 1024
"""What every further thread of an engine holds: touched stack, and a heap of its own in the C library."""


def memory_of(spec: EngineSpec) -> EngineMemory:
    """The measured figures of an engine; without any, its whole peak counts while it is open, whatever it does.

    A language model's file counts whole even where its peak was measured before all of it was touched.
    """
    if spec.memory is not None:
        return spec.memory
    peak = max(spec.peak_bytes, spec.size_bytes) if spec.backend == "gguf" else spec.peak_bytes
    return EngineMemory(opening_bytes=peak, open_bytes=peak, library_bytes=0, running={})


def running_bytes(memory: EngineMemory, way: str, size: int) -> int:
    """Peak above `open_bytes` while `size` is run at once in one way; 0 where that way was not measured."""
    return _along(memory.running[way], size) if way in memory.running else 0


def ways_to_attend(memory: EngineMemory, cells: int) -> tuple[Attention, ...]:
    """Ways a language model can run with so many cells, the one it takes by itself first, then ever smaller ones.

    Plain attention was measured for as many cells as it is taken for; one name alone where nothing was measured.
    """
    plain = memory.running.get("plain")
    own: tuple[Attention, ...] = ("plain",) if plain is not None and cells <= plain[-1].size else ()
    smaller: tuple[Attention, ...] = ("flash", "q8_0")
    return own + tuple(way for way in smaller if way in memory.running) or ("plain",)


def threads_bytes(threads: int) -> int:
    """What an engine's threads hold beyond those it was measured with."""
    return THREAD_BYTES * max(0, threads - MEASURED_THREADS)


def code_bytes(specs: Iterable[EngineSpec]) -> dict[str, int]:
    """Code of each backend's library that these engines read in; they share most of it."""
    read: dict[str, int] = {}
    for spec in specs:
        read[spec.backend] = max(read.get(spec.backend, 0), memory_of(spec).library_bytes)
    return read


def _along(curve: Sequence[Sized], size: int) -> int:
    """Between two points their chord, before the first its value, after the last the line through the last two."""
    if size <= curve[0].size or len(curve) == 1:
        return curve[0].bytes
    upper = next((i for i, point in enumerate(curve) if point.size >= size), len(curve) - 1)
    low, high = curve[upper - 1], curve[upper]
    grown = (high.bytes - low.bytes) * (size - low.size) / (high.size - low.size)
    return max(0, round(low.bytes + grown))
