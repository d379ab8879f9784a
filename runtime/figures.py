"""What one engine needs in memory: read from its measurements, or assumed where a bundle has none. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar

from pydantic import BaseModel

from tam_edge.runtime.schema import Attention, EngineMemory, EngineSpec, Sized

MEASURED_THREADS = 2
"""Threads of an engine while it was measured."""
THREAD_BYTES = 256 * 1024
"""What every further thread of an engine holds: touched stack, and a heap of its own in the C library."""
Described = TypeVar("Described")


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


def whole_peak(memory: EngineMemory) -> int:
    """Peak with the largest piece of work, in the way it is done when there is memory enough."""
    most = max((curve[-1].size for curve in memory.running.values()), default=1)
    way = next((way for way, curve in memory.running.items() if curve[-1].size == most), "run")
    running = running_bytes(memory, way, most) + memory.cell_bytes.get(way, 0) * most
    return memory.library_bytes + max(memory.opening_bytes, memory.open_bytes + running)


def refined(made: EngineMemory, here: EngineMemory) -> EngineMemory:
    """A bundle's figures with what was measured on this device, which may not be every size.

    Larger sizes go on as the bundle's do, with as much more as the last one measured here took, and never with less.
    Ways of running stay the bundle's.
    """
    running = {way: _continued(curve, here.running.get(way, ())) for way, curve in made.running.items()}
    return here.model_copy(update={"running": running, "cell_bytes": made.cell_bytes})


def prolonged(curve: Sequence[Sized], size: int) -> tuple[Sized, ...]:
    """A curve that goes on to `size` as the line through its last two points, and never falls there."""
    last = curve[-1]
    if size <= last.size:
        return tuple(curve)
    return (*curve, Sized(size=size, bytes=max(last.bytes, _along(curve, size))))


def with_memory(value: Described, memory: Mapping[str, EngineMemory]) -> Described:
    """The same manifest, or part of one, with these figures for the engines in these files."""
    if isinstance(value, EngineSpec):
        return value.model_copy(update={"memory": memory.get(value.file, value.memory)})
    if isinstance(value, BaseModel):
        parts = {name: with_memory(getattr(value, name), memory) for name in type(value).model_fields}
        return value.model_copy(update=parts)
    if isinstance(value, dict):
        return type(value)((key, with_memory(item, memory)) for key, item in value.items())
    if isinstance(value, tuple):
        return type(value)(with_memory(item, memory) for item in value)
    return value


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


def _continued(made: Sequence[Sized], here: Sequence[Sized]) -> tuple[Sized, ...]:
    if not here:
        return tuple(made)
    last = here[-1]
    more = max(0, last.bytes - _along(made, last.size))
    return (*here, *(Sized(size=one.size, bytes=one.bytes + more) for one in made if one.size > last.size))


def _along(curve: Sequence[Sized], size: int) -> int:
    """Between two points their chord, before the first its value, after the last the line through the last two."""
    if size <= curve[0].size or len(curve) == 1:
        return curve[0].bytes
    upper = next((i for i, point in enumerate(curve) if point.size >= size), len(curve) - 1)
    low, high = curve[upper - 1], curve[upper]
    grown = (high.bytes - low.bytes) * (size - low.size) / (high.size - low.size)
    return max(0, round(low.bytes + grown))
