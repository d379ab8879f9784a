"""What engines need in memory, each measured in a process of its own: for a bundle that is made, and on a device.

Engines pack weights by what the CPU can do, and kernels and threads differ, so what was measured where a bundle was
made is a little off elsewhere. Here every engine that the device opens is measured again, with the sizes of work that
fit below the ceiling and do not take long; the bundle's own figures go on from there.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tam_edge.runtime.calibrate.child import run_module
from tam_edge.runtime.calibrate.vision import Fits, encoder_names
from tam_edge.runtime.engines import choose_engine
from tam_edge.runtime.engines.llamacpp import CELLS_STEP
from tam_edge.runtime.errors import EngineError
from tam_edge.runtime.figures import MEASURED_THREADS, refined, threads_bytes
from tam_edge.runtime.footprint import Case, Thrift
from tam_edge.runtime.manifest import EncoderSpec, Manifest, ProjectorInput
from tam_edge.runtime.parts import Parts
from tam_edge.runtime.schema import EngineMemory, EngineSpec
from tam_edge.runtime.vision import CHUNK_FRAMES

MOST_SECONDS = 30.0
"""On a device no size of work is begun that would run for longer: filling the context of a 7B model takes an hour."""

Inputs = Mapping[str, tuple[str, tuple[int, ...]]]
"""Number format and shape of each input of a graph, for the most it runs at once; "" is the only one."""
Figures = dict[str, Any]
"""`peak_bytes` and `memory` of an `EngineSpec`."""


def graph_figures(path: Path, inputs: Inputs, axis: int = 0) -> Figures:
    """Figures of the ONNX graph at `path`; `inputs` grow along `axis`: frames, or an Inductor's tokens.

    Raises:
        EngineError: the graph cannot be opened or run.
    """
    return _in_a_child(path, {"backend": "onnx", "inputs": dict(inputs), "axis": axis})


def language_figures(path: Path, context: int) -> Figures:
    """Figures of the GGUF at `path` with up to `context` cells filled.

    Raises:
        EngineError: the model cannot be opened or run.
    """
    return _in_a_child(path, {"backend": "gguf", "context": context})


def inductor_inputs(manifest: Manifest) -> Inputs:
    """What an Inductor gets for the longest question; grows along axis 1."""
    return {name: ("int64", (1, manifest.inductor.max_tokens)) for name in ("input_ids", "attention_mask")}


def encoder_inputs(spec: EncoderSpec, frames: int = CHUNK_FRAMES) -> Inputs:
    """What an encoder gets for so many frames at once."""
    return {"": ("float32", (frames, 3, spec.image_px, spec.image_px))}


def projector_inputs(manifest: Manifest, names: tuple[ProjectorInput, ...], frames: int = CHUNK_FRAMES) -> Inputs:
    """What a projector with these inputs gets for so many frames at once."""
    encoder = manifest.encoders[manifest.strategies[0].encoders[0]]
    features = (frames, encoder.grid_side**2, encoder.width)
    shapes = {"features": features, "previous_features": features, "time_fraction": (frames,)}
    return {name: ("float32", shapes[name]) for name in names}


def measured_memory(parts: Parts, fits: Fits, progress: Callable[[str], None]) -> dict[str, EngineMemory]:
    """What each engine that this device opens holds, by its file; empty where the system or a GPU does not tell.

    Raises:
        EngineError: one cannot be opened or run.
    """
    found = dict[str, EngineMemory]()
    if parts.may_use_gpu:  # what lies on a GPU is not in the resident set of a process
        return found
    for engine in _engines(parts, fits):
        if engine.spec.file in found:  # that of images is often the one of the largest grid
            continue
        if engine.spec.memory is None and engine.most < engine.whole:
            continue  # nothing to go on from
        progress(f"the memory of {engine.spec.file}")
        here = _in_a_child(parts.bundle.file(engine.spec), _task(engine, parts.threads))["memory"]
        if here is not None:
            found[engine.spec.file] = _as_counted(here, engine.spec.memory, parts.threads)
    return found


@dataclass(frozen=True, slots=True)
class _Engine:
    """An engine, with the largest piece of work that fits here, and the largest there is."""

    spec: EngineSpec
    most: int
    whole: int
    inputs: Inputs | None = None
    axis: int = 0


def _engines(parts: Parts, fits: Fits) -> Iterator[_Engine]:
    manifest = parts.bundle.manifest
    inductor, tokens = manifest.inductor, manifest.inductor.max_tokens
    chosen = choose_engine("inductor.engines", inductor.engines).spec
    yield _Engine(chosen, tokens, tokens, inductor_inputs(manifest), axis=1)
    frames = _most_frames(fits)
    for name in encoder_names(parts):
        encoder = manifest.encoders[name]
        chosen = choose_engine(f"encoders.{name}.engines", encoder.engines).spec
        yield _Engine(chosen, frames, CHUNK_FRAMES, encoder_inputs(encoder, frames))
    for grid, projector in manifest.projectors.items():
        chosen = choose_engine(f"projectors.{grid}.engines", projector.engines).spec
        yield _Engine(chosen, frames, CHUNK_FRAMES, projector_inputs(manifest, projector.inputs, frames))
    if manifest.images is not None:
        chosen = choose_engine("images.projector", manifest.images.projector).spec
        yield _Engine(chosen, frames, CHUNK_FRAMES, projector_inputs(manifest, ("features",), frames))
    cells = max(CELLS_STEP, manifest.language.context)
    chosen = choose_engine("language.engines", manifest.language.engines).spec
    yield _Engine(chosen, _most_cells(cells, fits), cells)


def _most_frames(fits: Fits) -> int:
    frames = CHUNK_FRAMES
    while frames > 1 and not fits(Case(frames=frames), Thrift(chunk_frames=frames)):
        frames //= 2
    return frames


def _most_cells(cells: int, fits: Fits) -> int:
    text, thrift = CELLS_STEP // 4, Thrift(chunk_frames=1, in_turn=True, no_spare_cells=True)
    while cells > CELLS_STEP and not fits(Case(visual_tokens=cells - text, room_tokens=text), thrift):
        cells = max(CELLS_STEP, cells // 2)
    return cells


def _task(engine: _Engine, threads: int) -> dict[str, Any]:
    """The bundle's own sizes, as far as they fit; without any, all that an export measures."""
    task: dict[str, Any] = {"threads": threads}
    if engine.spec.memory is not None:
        curves = engine.spec.memory.running.items()
        sizes = {way: [one.size for one in curve if one.size <= engine.most] for way, curve in curves}
        task |= {"sizes": sizes, "most_seconds": MOST_SECONDS}
    if engine.inputs is None:
        return task | {"backend": "gguf", "context": engine.most}
    return task | {"backend": "onnx", "inputs": dict(engine.inputs), "axis": engine.axis}


def _as_counted(here: EngineMemory, made: EngineMemory | None, threads: int) -> EngineMemory:
    """What a prediction reads, which counts further threads by itself."""
    own = here.model_copy(update={"open_bytes": max(0, here.open_bytes - threads_bytes(threads))})
    return own if made is None else refined(made, own)


def _in_a_child(path: Path, task: Mapping[str, Any]) -> Figures:
    usual = {"path": str(path), "threads": MEASURED_THREADS, "sizes": {}, "most_seconds": None}
    done = run_module("tam_edge.runtime.calibrate.peak", usual | dict(task))
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or [_no_reason(done.returncode)])[-1]
        raise EngineError(f"{path.name} could not be measured: {last}")
    figures: Figures = json.loads(done.stdout)
    return figures | {"memory": figures["memory"] and EngineMemory.model_validate(figures["memory"], strict=False)}


def _no_reason(returncode: int) -> str:
    if returncode < 0:
        return f"the system ended the process that had it open (signal {-returncode}): memory may be short"
    return "no reason given"
