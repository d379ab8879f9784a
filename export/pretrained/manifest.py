"""The manifest of an imported checkpoint whose files are written."""

from __future__ import annotations

import re
from pathlib import Path

from tam_edge.export.language import Precision
from tam_edge.export.manifest import (
    TOKENIZER_FILE,
    created_by,
    encoder_spec,
    file_spec,
    graph_engine,
    projector_specs,
)
from tam_edge.export.pretrained.folder import CheckpointFolder
from tam_edge.export.pretrained.inductor import TakenInductor
from tam_edge.export.pretrained.rules import output_tokens, routing_of, rules_for
from tam_edge.export.pretrained.sizes import CheckpointSizes
from tam_edge.export.pretrained.source import ImportOptions, Source
from tam_edge.quant.counted import counted_language_figures
from tam_edge.runtime.consistency import problems
from tam_edge.runtime.errors import BundleError
from tam_edge.runtime.manifest import (
    ImagesSpec,
    LanguageSpec,
    Manifest,
    ProjectorSpec,
    StrategySpec,
)
from tam_edge.runtime.schema import EngineSpec
from tam_edge.runtime.vision import CHUNK_FRAMES

ENCODER = "siglip"
NEWLINE_FILE = "newline.f32"
IMAGE_PROJECTOR_FILE = "projector-image.onnx"
Figures = dict[str, float | int | str]
"""Named figures for the manifest."""


def draft_manifest(source: Source, folder: Path, options: ImportOptions, taken: TakenInductor) -> Manifest:
    """Everything about the files in `folder` but how far they are from transformers; measures every graph.

    Raises:
        EngineError: a graph cannot be opened or run.
        BundleError: the parts do not fit together.
    """
    sizes, projectors = source.sizes, projector_specs(folder, source.sizes.config)
    manifest = Manifest(
        name=bundle_name(source.folder),
        version="1",
        license=_license(source.folder.path),
        description=_description(source),
        created_by=created_by(),
        inductor=taken.spec,
        encoders={ENCODER: encoder_spec(folder, source.preprocessing, sizes.config.vision)},
        projectors=projectors,
        closing=file_spec(folder / NEWLINE_FILE) if sizes.newline == "one" else None,
        images=_images(source, folder, projectors),
        strategies=(StrategySpec(name="tam", encoders=(ENCODER,)),),
        language=_language(source, folder, options.precision),
        prompt=source.chat.video,
        routing=routing_of(sizes, rules_for(taken.spec.tasks, taken.rules), taken.threshold),
        parity={f"inductor_{key}": value for key, value in taken.parity.items()},
        training=_facts(source, options, taken),
    )
    for field, message in problems(manifest):
        raise BundleError(folder, field, message)
    return manifest


def language_file(precision: Precision) -> str:
    """Name of the GGUF file."""
    return f"language-{precision.lower()}.gguf"


def needs_own_image_projector(sizes: CheckpointSizes) -> bool:
    """Whether no projector of the ladder gives a frame's tokens as they are: unpooled, without line breaks."""
    return sizes.newline in ("grid", "frame") or sizes.config.vision.grid_side not in sizes.config.projector.grids


def _images(source: Source, folder: Path, projectors: dict[int, ProjectorSpec]) -> ImagesSpec:
    vision, newline = source.sizes.config.vision, folder / NEWLINE_FILE
    if needs_own_image_projector(source.sizes):
        features = ("float32", (CHUNK_FRAMES, vision.grid_side**2, vision.width))
        engines: tuple[EngineSpec, ...] = (graph_engine(folder / IMAGE_PROJECTOR_FILE, {"features": features}),)
    else:
        engines = projectors[vision.grid_side].engines[:1]
    return ImagesSpec(
        encoder=ENCODER,
        projector=engines,
        newline=file_spec(newline) if newline.is_file() else None,
        resolutions_px=source.sizes.resolutions,
        max_tiles=source.sizes.max_tiles,
        prompt=source.chat.image,
        between=source.chat.between_images,
    )


def _language(source: Source, folder: Path, precision: Precision) -> LanguageSpec:
    config, file = source.sizes.config.language, file_spec(folder / language_file(precision))
    engine = EngineSpec(
        **file.model_dump(),
        backend="gguf",
        precision=precision,
        **counted_language_figures(file.size_bytes, config, config.context, exact=precision == "f32"),
    )
    return LanguageSpec(
        engines=(engine,),
        tokenizer=file_spec(folder / TOKENIZER_FILE),
        embedding_width=config.width,
        context=config.context,
        stop=source.chat.stop,
        max_output_tokens=output_tokens(config.context),
    )


def _facts(source: Source, options: ImportOptions, taken: TakenInductor) -> Figures:
    facts: Figures = {
        "checkpoint": source.folder.path.resolve().name,
        "layout": source.sizes.layout,
        "vision_layers": source.sizes.config.vision.layers,
        "newline": source.sizes.newline,
        "inductor": "the installed bundle's" if options.inductor is None else options.inductor.resolve().name,
        "upcycled": int(options.upcycle),
    }
    return facts | {f"note_{index}": note for index, note in enumerate(source.sizes.notes, start=1)}


def bundle_name(folder: CheckpointFolder) -> str:
    """What a bundle is called: the checkpoint's folder."""
    return folder.path.resolve().name[:200] or "checkpoint"


def _description(source: Source) -> str:
    notes = "".join(f" {note}" for note in source.sizes.notes)
    name = bundle_name(source.folder)
    return f"Imported from the checkpoint {name}; what it knows is what that checkpoint knows.{notes}"


def _license(path: Path) -> str:
    """The license a model card names in its first lines, in Hugging Face's form."""
    card = path / "README.md"
    text = card.read_text(encoding="utf-8", errors="replace")[:20_000] if card.is_file() else ""
    found = re.search(r"\A---\n.*?^license:[ \t]*([\w.-]{1,100})[ \t]*$.*?^---", text, re.DOTALL | re.MULTILINE)
    return found[1] if found else "unknown: see the checkpoint"
