"""The new engines of a bundle, part by part: each file written, measured, and named for the manifest."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tam_edge.models.evaluate.derive import graph_engine
from tam_edge.quant.bundle import IMAGES, engine_spec
from tam_edge.quant.encoder import ExpertType, GraphType, shrink
from tam_edge.quant.graph_file import move_graph
from tam_edge.quant.language import LanguageType, quantise_language
from tam_edge.quant.layers import Feed
from tam_edge.quant.samples import Sample, pixel_frames
from tam_edge.runtime.bundle import Bundle
from tam_edge.runtime.calibrate.memory import Inputs, graph_figures, language_figures
from tam_edge.runtime.engines.onnx import OnnxEngine
from tam_edge.runtime.errors import UsageError
from tam_edge.runtime.manifest import EncoderSpec, ProjectorInput
from tam_edge.runtime.schema import EngineSpec
from tam_edge.runtime.vision import CHUNK_FRAMES, PatchFeatures, preprocess

CALIBRATION_FRAMES = 12
"""Frames on which graphs are calibrated and compared; of a full-size encoder each takes seconds."""

_FULL = ("f16", "bf16", "f32", "fp16", "fp32")  # what bundles call a GGUF that was not rounded


@dataclass(frozen=True, slots=True)
class Made:
    """New engines by role ("language", "encoder NAME", "projector GRID", IMAGES), and what is to be said about each."""

    engines: dict[str, EngineSpec] = field(default_factory=dict)
    """For the manifest."""
    details: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Figures for the report."""


@dataclass(frozen=True, slots=True)
class Workbench:
    """What making an engine needs."""

    source: Bundle
    """The bundle that is read."""
    folder: Path
    """Where files are made."""
    samples: Sequence[Sample]
    """Calibration data."""
    features: Sequence[PatchFeatures]
    """Patch features of the samples, by the source's own encoder."""
    error_most: float | None
    """Largest error of a graph's output; None: as the type allows."""
    threads: int
    """CPU threads."""
    progress: Callable[[str], None]
    """Told what is done next."""


def make_vision(bench: Workbench, dense: GraphType | None, experts: ExpertType | None) -> Made:
    """Every encoder with its matrices and experts in these types.

    Raises:
        UsageError: an encoder is no ONNX graph in fp32, or has nothing of that kind.
    """
    made = Made()
    for name, spec in bench.source.manifest.encoders.items():
        engine = graph_engine(spec.engines, f"encoder {name}")
        [pixels] = input_names(bench.source.file(engine))
        frames = pixel_frames(bench.samples, CALIBRATION_FRAMES)
        feeds = [{pixels: preprocess(frame.pixels, spec)} for frame in frames]
        peak: Inputs = {pixels: ("float32", (CHUNK_FRAMES, 3, spec.image_px, spec.image_px))}
        _graph(bench, made, f"encoder {name}", engine, (dense, experts), feeds, peak)
    return made


def make_projectors(bench: Workbench, kind: GraphType) -> Made:
    """The projector of every grid in this type.

    Raises:
        UsageError: the bundle has no projectors, or one is no ONNX graph in fp32.
    """
    manifest, made = bench.source.manifest, Made()
    if not manifest.projectors:
        raise UsageError(f"{bench.source.path.name} has no projectors: leave --projectors out")
    encoder = manifest.encoders[manifest.strategies[0].encoders[0]]
    roles = {f"projector {grid}": (spec.engines, spec.inputs) for grid, spec in manifest.projectors.items()}
    if manifest.images is not None:
        roles[IMAGES] = (manifest.images.projector, ("features",))
    done: dict[str, str] = {}
    for role, (engines, inputs) in roles.items():
        engine = graph_engine(engines, role)
        if engine.file in done:  # that of images is often the one of the largest grid
            made.engines[role] = made.engines[done[engine.file]]
            continue
        feeds = list(_projector_feeds(bench.features, inputs))
        _graph(bench, made, role, engine, (kind, None), feeds, _projector_shapes(inputs, encoder))
        done[engine.file] = role
    return made


def make_language(bench: Workbench, kind: LanguageType, imatrix: Path | None) -> Made:
    """The language model as this type, with the importance of inputs from a file if there is one.

    Raises:
        UsageError: the bundle has no GGUF in f16, bf16 or f32.
    """
    spec = bench.source.manifest.language
    full = [one for one in spec.engines if one.backend == "gguf" and one.precision.lower() in _FULL]
    if not full:
        raise UsageError(
            f"{spec.engines[0].file} is {spec.engines[0].precision}: --language needs a GGUF in f16 or f32"
        )
    engine, made = full[0], Made()
    name = _file_name(engine.file, kind)
    bench.progress(f"language model: {kind}")
    draft = bench.folder / "language.draft.gguf"
    stored = quantise_language(bench.source.file(engine), draft, kind, imatrix=imatrix, threads=bench.threads)
    draft.replace(bench.folder / name)  # never written in place: a file of that name there is the source's own, linked
    bench.progress(f"measuring the memory of {name}")
    figures = language_figures(bench.folder / name, spec.context)
    made.engines["language"] = engine_spec(bench.folder / name, name, "gguf", kind, figures)
    made.details["language"] = {"type": kind, **asdict(stored), "with_imatrix": imatrix is not None}
    return made


def _graph(
    bench: Workbench,
    made: Made,
    role: str,
    engine: EngineSpec,
    types: tuple[GraphType | None, ExpertType | None],
    feeds: Sequence[Feed],
    peak: Inputs,
) -> None:
    dense, experts = types
    draft = bench.folder / f"{role.replace(' ', '-')}.draft.onnx"
    bench.progress(f"{role}: {', '.join(kind for kind in (dense, experts and f'experts {experts}') if kind)}")
    result = shrink(
        bench.source.file(engine), draft, feeds, dense=dense, experts=experts, error_most=bench.error_most,
        threads=bench.threads, progress=bench.progress,
    )  # fmt: skip
    name = _file_name(engine.file, result.precision)
    path = bench.folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    move_graph(draft, path)
    bench.progress(f"measuring the memory of {name}")
    made.engines[role] = engine_spec(path, name, "onnx", result.precision, graph_figures(path, peak))
    made.details[role] = result.to_json()


def _projector_feeds(features: Sequence[PatchFeatures], inputs: Sequence[ProjectorInput]) -> Sequence[Feed]:
    frames = np.concatenate([one.values for one in features])
    chosen = np.unique(np.linspace(0, len(frames) - 1, min(CALIBRATION_FRAMES, len(frames))).round().astype(int))
    times = np.linspace(0, 1, len(chosen), dtype=np.float32)
    values: list[dict[str, NDArray[np.float32]]] = [
        {
            "features": frames[index : index + 1],
            "previous_features": frames[max(0, index - 1) : max(1, index)],
            "time_fraction": times[step : step + 1],
        }
        for step, index in enumerate(chosen)
    ]
    return [{name: one[name] for name in inputs} for one in values]


def _projector_shapes(inputs: Sequence[ProjectorInput], encoder: EncoderSpec) -> Inputs:
    features = (CHUNK_FRAMES, encoder.grid_side**2, encoder.width)
    shapes = {"features": features, "previous_features": features, "time_fraction": (CHUNK_FRAMES,)}
    return {name: ("float32", shapes[name]) for name in inputs}


def input_names(path: Path) -> tuple[str, ...]:
    """Names of a graph's inputs, in its order."""
    engine = OnnxEngine(path, threads=1, device="cpu")
    engine.close()
    return engine.input_names


def _file_name(file: str, kind: str) -> str:
    """vision.onnx, int8 -> vision-int8.onnx; a precision that the name already has is replaced."""
    stem, dot, ending = file.rpartition(".")
    stem = re.sub(r"-(fp?16|bf16|fp?32)$", "", stem)
    return f"{stem}-{re.sub('[^a-z0-9_]+', '-', kind.lower())}{dot}{ending}"
