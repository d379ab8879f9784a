"""The child process that `memory.py` starts for one engine: what ran before would hide in its peak.

    python -m tam_edge.runtime.calibrate.peak '{"path": ..., "backend": "gguf", "threads": 2, "context": 2048}'

`peak_bytes` is one number with the engine's largest piece of work; `memory` (Linux only, where a process may reset its
peak) tells apart what opening takes, what stays, the code of the library, and what each size of work adds. The library
itself is loaded before the count starts; several engines share it. Every size is run three times where that is
quick: a later run finds a heap that the first has broken up, and takes a little more.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from tam_edge.runtime.budget import give_back, peak_resident_bytes, resident_bytes, steady_heap
from tam_edge.runtime.engines import llamacpp, onnx
from tam_edge.runtime.engines.llamacpp import CELLS_STEP, CHUNK_TOKENS, LlamaCppEngine
from tam_edge.runtime.engines.onnx import OnnxEngine
from tam_edge.runtime.errors import EngineError, TamEdgeError
from tam_edge.runtime.figures import prolonged, whole_peak
from tam_edge.runtime.schema import Attention, EngineMemory, Sized

QUICK_SECONDS = 5.0
"""A size that runs longer than this is run once."""
RUNS = 3
LONG_SECONDS = 10.0
"""Where a bundle is made, more cells are not filled if that takes longer: the line through the last two goes on."""


def _measure(task: Mapping[str, Any]) -> dict[str, Any]:
    path = Path(task["path"])
    steady_heap()  # as in the process that answers
    if task["backend"] == "onnx":
        onnx.load_library()
        return _graph(path, task)
    llamacpp.load_library()
    return _language(path, task)


def _graph(path: Path, task: Mapping[str, Any]) -> dict[str, Any]:
    axis, threads = task["axis"], task["threads"]
    whole = {name: _values(dtype, tuple(shape)) for name, (dtype, shape) in task["inputs"].items()}
    most = next((values.shape[axis] for values in whole.values()), 1)
    sizes = task["sizes"].get("run") or sorted({max(1, most // part) for part in (8, 4, 2, 1)})
    feeds = {
        size: {name: np.ascontiguousarray(all_.take(range(size), axis)) for name, all_ in whole.items()}
        for size in sizes
    }
    before, opening = _now(), _Peak()
    engine = OnnxEngine(path, threads=threads, device="cpu")
    opened = opening.bytes_above(before.resident_bytes) - (_now().file_bytes - before.file_bytes)
    if "" in whole:  # an encoder's only input, whatever its name
        feeds = {size: {engine.input_names[0]: feed[""]} for size, feed in feeds.items()}
    engine.run(feeds[sizes[0]])
    give_back()
    idle = _now()
    curve = _curve(sizes, lambda size: _peak_of(partial(engine.run, feeds[size])), task["most_seconds"])
    return _figures(before, idle, _now(), max(0, opened), idle.own_bytes - before.own_bytes, {"run": curve}, {})


def _language(path: Path, task: Mapping[str, Any]) -> dict[str, Any]:
    before, opening = _now(), _Peak()
    engine = LlamaCppEngine(path, threads=task["threads"], device="cpu")
    mapped = path.stat().st_size
    opened = opening.bytes_above(before.resident_bytes)
    _fill(engine, CELLS_STEP, engine.way_for(CELLS_STEP))
    engine.release()
    give_back()
    idle = _now()
    curves: dict[str, tuple[Sized, ...]] = {}
    cell_bytes: dict[str, int] = {}
    given, most_seconds = task["sizes"], task["most_seconds"] or LONG_SECONDS
    for way, sizes in (given or _sizes(engine, task["context"])).items():
        try:
            each = engine.cell_bytes(way)
            filled = partial(_filled, engine, way=way, cell_bytes=each)
            points = _curve(sizes, filled, most_seconds, least=1 if given else 2)
        except EngineError:
            continue  # not for this model
        if points:
            curves[way], cell_bytes[way] = points if given else prolonged(points, sizes[-1]), each
    own = idle.own_bytes - before.own_bytes + mapped
    return _figures(before, idle, _now(), max(opened, own), own, curves, cell_bytes, mapped)


def _sizes(engine: LlamaCppEngine, context: int) -> dict[Attention, list[int]]:
    most = max(1, context // CELLS_STEP)
    sizes = sorted({CELLS_STEP * min(most, 2**power) for power in range(most.bit_length() + 1)})
    plain = [cells for cells in sizes if engine.way_for(cells) == "plain"]
    return {way: plain if way == "plain" else sizes for way in get_args(Attention)}


def _curve(
    sizes: Iterable[int], taken: Callable[[int], int], most_seconds: float | None, least: int = 1
) -> tuple[Sized, ...]:
    """What each size takes; after the `least` first none is begun that would run for longer, by the one before."""
    points, each_seconds = list[Sized](), 0.0
    for size in sizes:
        if len(points) >= least and size * each_seconds > (most_seconds or math.inf):
            break
        start = time.perf_counter()
        points.append(Sized(size=size, bytes=taken(size)))
        each_seconds = (time.perf_counter() - start) / size
    return tuple(points)


def _filled(engine: LlamaCppEngine, cells: int, way: Attention, cell_bytes: int) -> int:
    def work() -> None:
        _fill(engine, cells, way)
        engine.release()

    return max(0, _peak_of(work) - cells * cell_bytes)


def _fill(engine: LlamaCppEngine, cells: int, way: Attention) -> None:
    engine.reserve(cells, way=way)
    rows = _values("float32", (CHUNK_TOKENS, engine.embedding_width)).astype(np.float32)
    while engine.length < cells - 1:
        engine.append_embeddings(rows[: cells - 1 - engine.length])
    engine.append_tokens([0])
    engine.logits()


def _figures(
    before: _Held,
    idle: _Held,
    after: _Held,
    opened: int,
    stays: int,
    curves: dict[str, tuple[Sized, ...]],
    cell_bytes: dict[str, int],
    mapped: int = 0,
) -> dict[str, Any]:
    if idle.file_bytes == 0:  # this system does not tell them apart
        return {"peak_bytes": max(0, peak_resident_bytes() - before.resident_bytes), "memory": None}
    memory = EngineMemory(
        opening_bytes=opened,
        open_bytes=max(0, stays),
        library_bytes=max(0, after.file_bytes - before.file_bytes - mapped),
        running=curves,
        cell_bytes=cell_bytes,
    )
    return {"peak_bytes": whole_peak(memory), "memory": memory.model_dump()}


@dataclass(frozen=True, slots=True)
class _Held:
    """What this process holds now, in bytes; `file_bytes` is 0 where the system does not tell."""

    resident_bytes: int
    file_bytes: int

    @property
    def own_bytes(self) -> int:
        return self.resident_bytes - self.file_bytes


def _now() -> _Held:
    status = Path("/proc/self/status")
    if not status.exists():
        return _Held(resident_bytes(), 0)
    text = status.read_text(encoding="ascii", errors="replace")
    resident, file = (1024 * int(text.partition(f"{field}:")[2].split()[0]) for field in ("VmRSS", "RssFile"))
    return _Held(resident, file)


class _Peak:
    """The peak from now on, where the system lets a process forget an earlier one."""

    def __init__(self) -> None:
        refs = Path("/proc/self/clear_refs")
        if refs.exists():
            refs.write_text("5", encoding="ascii")

    def bytes_above(self, resident: int) -> int:
        return max(0, peak_resident_bytes() - resident)


def _peak_of(work: Callable[[], object]) -> int:
    """Growth of the resident set while `work` is done, RUNS times if it is quick, with nothing kept from before."""
    give_back()
    before, peak = _now(), _Peak()
    start = time.perf_counter()
    work()
    for _ in range(RUNS - 1 if time.perf_counter() - start < QUICK_SECONDS else 0):
        work()
    found = peak.bytes_above(before.resident_bytes)
    give_back()
    return found


def _values(dtype: str, shape: tuple[int, ...]) -> NDArray[np.generic]:
    if np.issubdtype(np.dtype(dtype), np.integer):
        return np.ones(shape, dtype)
    values: NDArray[np.generic] = np.random.default_rng(0).standard_normal(shape, np.float32).astype(dtype)
    return values


if __name__ == "__main__":
    try:
        print(json.dumps(_measure(json.loads(sys.argv[1]))))
    except TamEdgeError as error:
        sys.exit(str(error))
