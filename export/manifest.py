"""The manifest of a bundle whose files are written: names, hashes, sizes, and peak memory measured engine by engine."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

from tam_edge.export.facts import BundleFacts
from tam_edge.export.inductor import INPUTS, PRECISION, InductorExport
from tam_edge.export.language import Precision
from tam_edge.models.config import LanguageConfig, TallVAConfig, VisionConfig
from tam_edge.quant.graph_file import weights_file
from tam_edge.runtime.calibrate.memory import Inputs, graph_figures, language_figures
from tam_edge.runtime.integrity import file_sha256
from tam_edge.runtime.manifest import (
    EncoderSpec,
    ImagePreprocessing,
    InductorSpec,
    LanguageSpec,
    Manifest,
    ProjectorInput,
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
    return Manifest(
        name=facts.name,
        version=facts.version,
        license=facts.license,
        description=facts.description,
        created_by=created_by(),
        inductor=inductor_spec(inductor),
        encoders={facts.encoder: encoder_spec(folder, facts.preprocessing, config.vision)},
        projectors=projector_specs(folder, config),
        strategies=(StrategySpec(name="tam", encoders=(facts.encoder,)),),
        language=_language(folder, facts, config.language),
        prompt=facts.prompt,
        routing=facts.routing.model_copy(update={"confidence_threshold": inductor.threshold}),
        training=training,
    )


def created_by() -> str:
    """This program and its version."""
    return f"tam-edge {version('tam-edge')}"


def inductor_engine(path: Path, max_tokens: int) -> EngineSpec:
    """An Inductor's graph with its hash, and its peak memory measured on the longest question.

    Raises:
        EngineError: it cannot be opened or run.
    """
    shape = (1, max_tokens)
    return graph_engine(path, {name: ("int64", shape) for name in INPUTS}, PRECISION, axis=1)


def inductor_spec(inductor: InductorExport) -> InductorSpec:
    """An exported Inductor, its engine measured.

    Raises:
        EngineError: it cannot be opened or run.
    """
    return InductorSpec(
        engines=(inductor_engine(inductor.engine, inductor.max_tokens),),
        tokenizer=file_spec(inductor.tokenizer),
        tasks=inductor.tasks,
        max_tokens=inductor.max_tokens,
        temperature=inductor.temperature,
    )


def encoder_spec(folder: Path, preprocessing: ImagePreprocessing, vision: VisionConfig) -> EncoderSpec:
    """The image encoder in VISION_FILE, its engine measured.

    Raises:
        EngineError: it cannot be opened or run.
    """
    inputs = {"pixels": ("float32", (CHUNK_FRAMES, 3, vision.image_px, vision.image_px))}
    return EncoderSpec(
        image_px=vision.image_px,
        patch_px=vision.patch_px,
        grid_side=vision.grid_side,
        width=vision.width,
        preprocessing=preprocessing,
        engines=(graph_engine(folder / VISION_FILE, inputs),),
    )


def projector_specs(folder: Path, config: TallVAConfig) -> dict[int, ProjectorSpec]:
    """The projector of every grid of the ladder, each measured.

    Raises:
        EngineError: one cannot be opened or run.
    """
    return {
        grid: _projector(folder / projector_file(grid), expert, config)
        for expert, grid in enumerate(config.projector.grids, start=1)
    }


def _projector(path: Path, expert: int, config: TallVAConfig) -> ProjectorSpec:
    features = ("float32", (CHUNK_FRAMES, config.vision.grid_side**2, config.vision.width))
    shapes: dict[ProjectorInput, tuple[str, tuple[int, ...]]] = {"features": features}
    if config.projector.change:
        shapes["previous_features"] = features
    if config.projector.position is not None:
        shapes["time_fraction"] = ("float32", (CHUNK_FRAMES,))
    return ProjectorSpec(
        expert=expert,
        inputs=tuple(shapes),
        engines=(graph_engine(path, {name: shape for name, shape in shapes.items()}),),
    )


def _language(folder: Path, facts: BundleFacts, config: LanguageConfig) -> LanguageSpec:
    engines = tuple(
        language_engine(folder / file, precision, config.context) for precision, file in LANGUAGE_FILES.items()
    )
    return LanguageSpec(
        engines=engines,
        tokenizer=file_spec(folder / TOKENIZER_FILE),
        embedding_width=config.width,
        context=config.context,
        stop=(facts.stop,),
        max_output_tokens=facts.max_output_tokens,
    )


def language_engine(path: Path, precision: str, context: int) -> EngineSpec:
    """A GGUF file, and its memory measured with up to `context` cells filled.

    Raises:
        EngineError: it cannot be opened or run.
    """
    figures = language_figures(path, context)
    return EngineSpec(**file_spec(path).model_dump(), backend="gguf", precision=precision, **figures)


def graph_engine(path: Path, inputs: Inputs, precision: str = "fp32", axis: int = 0) -> EngineSpec:
    """An ONNX graph, the file beside it that may hold its weights, and its memory measured for sizes along `axis`.

    Raises:
        EngineError: it cannot be opened or run.
    """
    beside = weights_file(path)
    return EngineSpec(
        **file_spec(path).model_dump(),
        backend="onnx",
        precision=precision,
        **graph_figures(path, inputs, axis),
        weights=file_spec(beside) if beside.is_file() else None,
    )


def file_spec(path: Path) -> FileSpec:
    """Name, hash and size of a file of the bundle."""
    return FileSpec(file=path.name, sha256=file_sha256(path), size_bytes=path.stat().st_size)
