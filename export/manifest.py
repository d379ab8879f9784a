"""The manifest of a bundle whose files are written: names, hashes, sizes, and peak memory measured engine by engine."""

from __future__ import annotations

import hashlib
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tam_edge.export.facts import BundleFacts
from tam_edge.export.inductor import INPUTS, PRECISION, InductorExport
from tam_edge.export.language import Precision
from tam_edge.export.peak import Inputs, graph_peak_bytes, language_peak_bytes
from tam_edge.models.config import LanguageConfig, TallVAConfig, VisionConfig
from tam_edge.runtime.manifest import (
    EncoderSpec,
    InductorSpec,
    LanguageSpec,
    Manifest,
    ProjectorSpec,
    StrategySpec,
)
from tam_edge.runtime.schema import EngineSpec, FileSpec
from tam_edge.runtime.vision import CHUNK_FRAMES

VISION_FILE, TOKENIZER_FILE = "vision.onnx", "tokenizer.json"
LANGUAGE_FILES: dict[Precision, str] = {"f16": "language-f16.gguf", "Q8_0": "language-q8_0.gguf"}
"""GGUF files in order of preference: f16 is what was compared with PyTorch."""


def projector_file(grid: int) -> str:
    """Name of the graph of one grid."""
    return f"projector-{grid}.onnx"


def draft_manifest(
    folder: Path,
    facts: BundleFacts,
    config: TallVAConfig,
    inductor: InductorExport,
    training: dict[str, float | int | str],
) -> Manifest:
    """Everything about the files in `folder` but how far they are from PyTorch; measures every engine.

    Raises:
        EngineError: an engine cannot be opened or run.
    """
    ladder = enumerate(config.projector.grids, start=1)
    return Manifest(
        name=facts.name,
        version=facts.version,
        license=facts.license,
        description=facts.description,
        created_by=f"tam-edge {version('tam-edge')}",
        inductor=_inductor(inductor),
        encoders={facts.encoder: _encoder(folder, facts, config.vision)},
        projectors={grid: _projector(folder, expert, grid, config) for expert, grid in ladder},
        strategies=(StrategySpec(name="tam", encoders=(facts.encoder,)),),
        language=_language(folder, facts, config.language),
        prompt=facts.prompt,
        routing=facts.routing.model_copy(update={"confidence_threshold": inductor.threshold}),
        training=training,
    )


def inductor_engine(path: Path, max_tokens: int) -> EngineSpec:
    """An Inductor's graph with its hash, and its peak memory measured on the longest question.

    Raises:
        EngineError: it cannot be opened or run.
    """
    shape = (1, max_tokens)
    return _graph(path, {name: ("int64", shape) for name in INPUTS}, PRECISION)


def _inductor(inductor: InductorExport) -> InductorSpec:
    return InductorSpec(
        engines=(inductor_engine(inductor.engine, inductor.max_tokens),),
        tokenizer=FileSpec(**_file(inductor.tokenizer)),
        tasks=inductor.tasks,
        max_tokens=inductor.max_tokens,
        temperature=inductor.temperature,
    )


def _encoder(folder: Path, facts: BundleFacts, vision: VisionConfig) -> EncoderSpec:
    inputs = {"pixels": ("float32", (CHUNK_FRAMES, 3, vision.image_px, vision.image_px))}
    return EncoderSpec(
        image_px=vision.image_px,
        patch_px=vision.patch_px,
        grid_side=vision.grid_side,
        width=vision.width,
        preprocessing=facts.preprocessing,
        engines=(_graph(folder / VISION_FILE, inputs),),
    )


def _projector(folder: Path, expert: int, grid: int, config: TallVAConfig) -> ProjectorSpec:
    path = folder / projector_file(grid)
    features = ("float32", (CHUNK_FRAMES, config.vision.grid_side**2, config.vision.width))
    inputs: Inputs = {"features": features}
    if config.projector.change:
        inputs["previous_features"] = features
    if config.projector.position is not None:
        inputs["time_fraction"] = ("float32", (CHUNK_FRAMES,))
    return ProjectorSpec(expert=expert, inputs=tuple(inputs), engines=(_graph(path, inputs),))


def _language(folder: Path, facts: BundleFacts, config: LanguageConfig) -> LanguageSpec:
    engines = tuple(
        EngineSpec(
            **_file(folder / file),
            backend="gguf",
            precision=precision,
            peak_bytes=language_peak_bytes(folder / file, config.context),
        )
        for precision, file in LANGUAGE_FILES.items()
    )
    return LanguageSpec(
        engines=engines,
        tokenizer=FileSpec(**_file(folder / TOKENIZER_FILE)),
        embedding_width=config.width,
        context=config.context,
        stop=(facts.stop,),
        max_output_tokens=facts.max_output_tokens,
    )


def _graph(path: Path, inputs: Inputs, precision: str = "fp32") -> EngineSpec:
    return EngineSpec(**_file(path), backend="onnx", precision=precision, peak_bytes=graph_peak_bytes(path, inputs))


def _file(path: Path) -> dict[str, Any]:
    data = path.read_bytes()
    return {"file": path.name, "sha256": hashlib.sha256(data).hexdigest(), "size_bytes": len(data)}
