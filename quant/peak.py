"""What an engine needs in memory, measured in a process of its own: what ran before would hide in its peak.

    python -m tam_edge.quant.peak '{"path": ..., "backend": "gguf", "context": 2048}'

`peak_bytes` is one number with the engine's largest piece of work; `memory` (Linux only, where a process may reset its
peak) tells apart what opening takes, what stays, the code of the library, and what each size of work adds. The library
itself is loaded before the count starts; several engines share it. Every size is run three times where that is
quick: a later run finds a heap that the first has broken up, and takes a little more.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tam_edge.models.config import LanguageConfig
from tam_edge.quant.child import run_module
from tam_edge.runtime.budget import give_back, peak_resident_bytes, resident_bytes, steady_heap
from tam_edge.runtime.engines.llamacpp import (
    CELLS_STEP,
    CHUNK_TOKENS,
    PLAIN_ATTENTION_BYTES,
    LlamaCppEngine,
    load_library,
)
from tam_edge.runtime.engines.onnx import OnnxEngine
from tam_edge.runtime.errors import EngineError
from tam_edge.runtime.figures import MEASURED_THREADS, running_bytes
from tam_edge.runtime.schema import Attention, EngineMemory, Sized

Inputs = Mapping[str, tuple[str, tuple[int, ...]]]
"""Number format and shape of each input of a graph, for the most it runs at once."""
Figures = dict[str, Any]
"""`peak_bytes` and `memory` of an `EngineSpec`."""

LLAMA_BYTES = 24 * 1024**2
"""What llama.cpp holds whatever the model."""
QUICK_SECONDS = 5.0
"""A size that runs longer than this is run once."""
RUNS = 3
LONG_SECONDS = 10.0
"""A language model's largest size follows from the line through the two before where filling one took longer."""
WAYS: tuple[Attention, ...] = ("plain", "flash", "q8_0")


def graph_figures(path: Path, inputs: Inputs, axis: int = 0) -> Figures:
    """Figures of the ONNX graph at `path`; `inputs` grow along `axis`: frames, or an Inductor's tokens.

    Raises:
        EngineError: the graph cannot be opened or run.
    """
    return _in_a_child({"path": str(path), "backend": "onnx", "inputs": dict(inputs), "axis": axis})


def language_figures(path: Path, context: int) -> Figures:
    """Figures of the GGUF at `path` with up to `context` cells filled.

    Raises:
        EngineError: the model cannot be opened or run.
    """
    return _in_a_child({"path": str(path), "backend": "gguf", "context": context})


def cells_curve(
    engine: LlamaCppEngine, sizes: Sequence[int], way: Attention, *, long_seconds: float = LONG_SECONDS
) -> tuple[Sized, ...]:
    """What filling so many cells takes beside the cells themselves, up to the size that takes longer than that.

    From there the line through the last two goes on to the largest.

    Raises:
        EngineError: this model cannot attend in that way.
    """
    points, cell_bytes = list[Sized](), engine.cell_bytes(way)
    for cells in sizes:
        start = time.perf_counter()
        points.append(_filled(engine, cells, way, cell_bytes))
        if time.perf_counter() - start > long_seconds and len(points) > 1 and cells < sizes[-1]:
            before, last = points[-2:]
            slope = max(0.0, (last.bytes - before.bytes) / (last.size - before.size))
            points.append(Sized(size=sizes[-1], bytes=round(last.bytes + slope * (sizes[-1] - last.size))))
            break
    return tuple(points)


def counted_language_figures(file_bytes: int, config: LanguageConfig, context: int, *, exact: bool = False) -> Figures:
    """What `language_figures` would measure, counted instead: filling the context of a 7B model takes an hour.

    The mapped file, key-value cells (float16, float32 where `exact`), one chunk's activations and attention scores, and
    llama.cpp's own 24 MiB. For small models it is at most half more than the measurement.
    """
    values = 2 * config.layers * config.kv_heads * config.head_width
    each_score = 2 * 4 * CHUNK_TOKENS * config.heads
    most_plain = context if exact else min(context, 2 * PLAIN_ATTENTION_BYTES // each_score // CELLS_STEP * CELLS_STEP)

    def running(way: Attention, cells: int) -> Sized:
        states = 4 * CHUNK_TOKENS * (3 * config.ffn_width + 8 * config.width) + 4 * CHUNK_TOKENS * cells
        return Sized(size=cells, bytes=states + (each_score * cells if way == "plain" else 0))

    curves: dict[str, tuple[Sized, ...]] = {
        way: (running(way, CELLS_STEP), running(way, most))
        for way, most in (("plain", most_plain), *((way, 0 if exact else context) for way in WAYS[1:]))
        if most > CELLS_STEP
    }
    if config.head_width % 32:
        curves.pop("q8_0", None)
    cell_bytes = {"plain": values * (4 if exact else 2), "flash": values * 2, "q8_0": values * 34 // 32}
    memory = EngineMemory(
        opening_bytes=file_bytes + LLAMA_BYTES,
        open_bytes=file_bytes + 8 * config.vocab_size + LLAMA_BYTES,
        library_bytes=0,
        running=curves,
        cell_bytes={way: cell_bytes[way] for way in curves},
    )
    return {"peak_bytes": _whole_peak(memory), "memory": memory}


def _in_a_child(task: dict[str, Any]) -> Figures:
    done = run_module("tam_edge.quant.peak", task)
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise EngineError(f"{Path(task['path']).name} could not be measured: {last}")
    figures: Figures = json.loads(done.stdout)
    return figures | {"memory": figures["memory"] and EngineMemory.model_validate(figures["memory"], strict=False)}


def _measure(task: dict[str, Any]) -> Figures:
    path = Path(task["path"])
    steady_heap()  # as in the process that answers
    if task["backend"] == "onnx":
        import onnxruntime  # noqa: F401

        return _graph(path, task["inputs"], task["axis"])
    load_library()
    return _language(path, task["context"])


def _graph(path: Path, inputs: Inputs, axis: int) -> Figures:
    whole = {name: _values(dtype, tuple(shape)) for name, (dtype, shape) in inputs.items()}
    most = next((shape[axis] for _, shape in inputs.values()), 1)
    sizes = sorted({max(1, most // part) for part in (8, 4, 2, 1)})
    feeds = {
        size: {name: np.ascontiguousarray(all_.take(range(size), axis)) for name, all_ in whole.items()}
        for size in sizes
    }
    before, opening = _now(), _Peak()
    engine = OnnxEngine(path, threads=MEASURED_THREADS, device="cpu")
    opened = opening.bytes_above(before.resident_bytes) - (_now().file_bytes - before.file_bytes)
    engine.run(feeds[sizes[0]])
    give_back()
    idle = _now()
    curve = tuple(Sized(size=size, bytes=_peak_of(partial(engine.run, feeds[size]))) for size in sizes)
    return _figures(before, idle, _now(), max(0, opened), idle.own_bytes - before.own_bytes, {"run": curve}, {})


def _language(path: Path, context: int) -> Figures:
    before, opening = _now(), _Peak()
    engine = LlamaCppEngine(path, threads=MEASURED_THREADS, device="cpu")
    mapped = path.stat().st_size
    opened = opening.bytes_above(before.resident_bytes)
    _fill(engine, CELLS_STEP, engine.way_for(CELLS_STEP))
    engine.release()
    give_back()
    idle = _now()
    most = max(1, context // CELLS_STEP)
    sizes = sorted({CELLS_STEP * min(most, 2**power) for power in range(most.bit_length() + 1)})
    curves: dict[str, tuple[Sized, ...]] = {}
    cell_bytes: dict[str, int] = {}
    for way in WAYS:
        plain = [cells for cells in sizes if engine.way_for(cells) == "plain"]
        try:
            points = cells_curve(engine, plain if way == "plain" else sizes, way)
        except EngineError:
            continue  # not for this model
        if points:
            curves[way], cell_bytes[way] = points, engine.cell_bytes(way)
    own = idle.own_bytes - before.own_bytes + mapped
    return _figures(before, idle, _now(), max(opened, own), own, curves, cell_bytes, mapped)


def _filled(engine: LlamaCppEngine, cells: int, way: Attention, cell_bytes: int) -> Sized:
    def work() -> None:
        _fill(engine, cells, way)
        engine.release()

    return Sized(size=cells, bytes=max(0, _peak_of(work) - cells * cell_bytes))


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
) -> Figures:
    if idle.file_bytes == 0:  # this system does not tell them apart
        return {"peak_bytes": max(0, peak_resident_bytes() - before.resident_bytes), "memory": None}
    memory = EngineMemory(
        opening_bytes=opened,
        open_bytes=max(0, stays),
        library_bytes=max(0, after.file_bytes - before.file_bytes - mapped),
        running=curves,
        cell_bytes=cell_bytes,
    )
    return {"peak_bytes": _whole_peak(memory), "memory": memory.model_dump()}


def _whole_peak(memory: EngineMemory) -> int:
    """Peak with the largest piece of work, in the way it is done when there is memory enough."""
    most = max((curve[-1].size for curve in memory.running.values()), default=1)
    way = next((way for way, curve in memory.running.items() if curve[-1].size == most), "run")
    running = running_bytes(memory, way, most) + memory.cell_bytes.get(way, 0) * most
    return memory.library_bytes + max(memory.opening_bytes, memory.open_bytes + running)


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
    print(json.dumps(_measure(json.loads(sys.argv[1]))))
