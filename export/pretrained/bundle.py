"""A checkpoint folder becomes a bundle: graphs, GGUF, tokenizer, Inductor and manifest, whole or not at all.

The image encoder and the projector are built as modules; the language model goes tensor by tensor from file to file.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from tokenizers import Tokenizer

from tam_edge.export.graph import external_weights, save_graph
from tam_edge.export.language import Precision, stream_gguf
from tam_edge.export.manifest import (
    TOKENIZER_FILE,
    VISION_FILE,
    created_by,
    encoder_spec,
    file_spec,
    graph_engine,
    projector_file,
    projector_specs,
)
from tam_edge.export.place import building, check_place
from tam_edge.export.pretrained.folder import CheckpointError, CheckpointFolder, open_checkpoint
from tam_edge.export.pretrained.inductor import TakenInductor, take_inductor
from tam_edge.export.pretrained.processing import Chat, read_chat, read_preprocessing, read_tokenizer
from tam_edge.export.pretrained.rules import output_tokens, routing_of, rules_for
from tam_edge.export.pretrained.sizes import CheckpointSizes, Newline, read_sizes, upcycled
from tam_edge.export.pretrained.weights import (
    check_tensors,
    language_source,
    load_projectors,
    load_vision,
    read_newline,
)
from tam_edge.export.projector import LineBreaks, projector_graph
from tam_edge.export.vision import vision_graph
from tam_edge.quant.peak import counted_language_figures
from tam_edge.runtime.bundle import MANIFEST_FILE, Bundle, load_bundle
from tam_edge.runtime.consistency import problems
from tam_edge.runtime.errors import BundleError, UsageError
from tam_edge.runtime.manifest import (
    ImagePreprocessing,
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
Progress = Callable[[str], None]
"""Told what is done next, in a few words."""
Figures = dict[str, float | int | str]
"""Named figures for the manifest."""
Verify = Callable[[Path, CheckpointFolder, CheckpointSizes, Manifest, Progress], Figures]
"""Compares the bundle in a folder with a reference; raises ParityError."""


@dataclass(frozen=True, slots=True)
class ImportOptions:
    """What a person may choose about an import."""

    inductor: Path | None = None
    """Where the Inductor comes from; None: the installed bundle."""
    grids: tuple[int, ...] | None = None
    """Ladder, largest first; None: TAM's, which is 27, 18, 14, 11 for 27 patches a side."""
    upcycle: bool = False
    """Whether every block of a dense image encoder becomes a mixture of experts that computes the same."""
    newline: Newline | None = None
    """Line breaks of a video; None: the checkpoint's."""
    precision: Precision = "f16"
    """Number format of the language model's matrices."""


@dataclass(frozen=True, slots=True)
class Source:
    """A checkpoint that was found to be whole, before a weight is read."""

    folder: CheckpointFolder
    """The folder."""
    sizes: CheckpointSizes
    """Its sizes, experts by upcycling included."""
    preprocessing: ImagePreprocessing
    """How pixels become input."""
    tokenizer: str
    """Its `tokenizers` file."""
    chat: Chat
    """The text around visual tokens."""


def export_checkpoint(
    checkpoint: Path,
    out: Path,
    options: ImportOptions = ImportOptions(),
    *,
    verify: Verify | None = None,
    progress: Progress = lambda _: None,
) -> Bundle:
    """Write the bundle of a checkpoint folder.

    Args:
        checkpoint: folder with config.json and safetensors.
        out: folder of the bundle; an older bundle there is replaced, anything else is left alone.
        options: what may be chosen.
        verify: compares the finished files with a reference; None: nothing is compared.
        progress: told what is done next.

    Raises:
        CheckpointError: the checkpoint is incomplete, damaged, or of a kind that cannot be imported.
        UsageError: `out` holds something else, or an option makes no sense.
        ParityError: the bundle does not compute what the reference computes.
    """
    check_place(out)
    source = read_source(checkpoint, options)
    with building(out) as partial:
        _write(source, partial, options, progress)
        manifest = _manifest(source, partial, options, progress)
        figures: Figures = {"verified": "no: export with --verify"}
        if verify is not None:
            figures = verify(partial, source.folder, source.sizes, manifest, progress)
        finished = manifest.model_copy(update={"parity": {**manifest.parity, **figures}})
        # The manifest comes last: a folder without one is no bundle, whatever stopped the export.
        (partial / MANIFEST_FILE).write_text(finished.model_dump_json(indent=2) + "\n", encoding="utf-8")
    progress("checking the bundle")
    return load_bundle(out, verify=True)


def read_source(checkpoint: Path, options: ImportOptions) -> Source:
    """Everything about a checkpoint but its weights.

    Raises:
        CheckpointError: something is missing or does not fit.
        UsageError: an option does not fit the checkpoint.
    """
    folder = open_checkpoint(checkpoint)
    sizes = read_sizes(folder, options.grids, options.newline)
    check_tensors(folder, sizes.config)
    if options.upcycle:
        if sizes.config.vision.experts > 1:
            raise UsageError(f"{checkpoint} has experts already: leave out --upcycle")
        sizes = upcycled(sizes)
    text = read_tokenizer(folder)
    tokenizer: Tokenizer = Tokenizer.from_str(text)
    return Source(folder, sizes, read_preprocessing(folder, sizes), text, read_chat(folder, sizes, tokenizer))


def language_file(precision: Precision) -> str:
    """Name of the GGUF file."""
    return f"language-{precision.lower()}.gguf"


def _write(source: Source, folder: Path, options: ImportOptions, progress: Progress) -> None:
    config, checkpoint = source.sizes.config, source.folder
    progress("writing the image encoder")
    encoder = load_vision(checkpoint, config.vision, upcycle=options.upcycle)
    save_graph(vision_graph(encoder, external_weights(folder / VISION_FILE, encoder)), folder / VISION_FILE)
    del encoder  # before the language model needs room
    progress(f"writing the projectors of {len(config.projector.grids)} grids")
    projectors, breaks = load_projectors(checkpoint, config.projector), _breaks(source)
    for grid in config.projector.grids:
        save_graph(projector_graph(projectors, grid, config.vision.grid_side, breaks), folder / projector_file(grid))
    if _needs_own_image_projector(source.sizes):
        config_of_images = replace(config.projector, grids=(config.vision.grid_side,))
        unpooled = load_projectors(checkpoint, config_of_images)
        save_graph(
            projector_graph(unpooled, config.vision.grid_side, config.vision.grid_side), folder / IMAGE_PROJECTOR_FILE
        )
    if "newline" in checkpoint.tensors:
        (folder / NEWLINE_FILE).write_bytes(read_newline(checkpoint).numpy().astype("<f4").tobytes())
    (folder / TOKENIZER_FILE).write_text(source.tokenizer, encoding="utf-8")
    try:
        stream_gguf(
            language_source(checkpoint, config),
            config.language,
            folder / TOKENIZER_FILE,
            folder / language_file(options.precision),
            precision=options.precision,
            name=_name(checkpoint),
            stop=source.chat.stop[0],
            progress=lambda what: progress(f"writing the language model, {what}"),
        )
    except ValueError as error:
        raise CheckpointError(checkpoint.path, str(error)) from error


def _needs_own_image_projector(sizes: CheckpointSizes) -> bool:
    """Whether no projector of the ladder gives a frame's tokens as they are: unpooled, without line breaks."""
    return sizes.newline in ("grid", "frame") or sizes.config.vision.grid_side not in sizes.config.projector.grids


def _breaks(source: Source) -> LineBreaks | None:
    if source.sizes.newline in ("grid", "frame"):
        return LineBreaks(read_newline(source.folder), "row" if source.sizes.newline == "grid" else "frame")
    return None


def _manifest(source: Source, folder: Path, options: ImportOptions, progress: Progress) -> Manifest:
    progress("taking over the Inductor and measuring the memory of every engine")
    taken = take_inductor(options.inductor, folder)
    sizes, projectors = source.sizes, projector_specs(folder, source.sizes.config)
    manifest = Manifest(
        name=_name(source.folder),
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


def _images(source: Source, folder: Path, projectors: dict[int, ProjectorSpec]) -> ImagesSpec:
    vision, newline = source.sizes.config.vision, folder / NEWLINE_FILE
    if _needs_own_image_projector(source.sizes):
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


def _name(folder: CheckpointFolder) -> str:
    return folder.path.resolve().name[:200] or "checkpoint"


def _description(source: Source) -> str:
    notes = "".join(f" {note}" for note in source.sizes.notes)
    return f"Imported from the checkpoint {_name(source.folder)}; what it knows is what that checkpoint knows.{notes}"


def _license(path: Path) -> str:
    """The license a model card names in its first lines, in Hugging Face's form."""
    card = path / "README.md"
    text = card.read_text(encoding="utf-8", errors="replace")[:20_000] if card.is_file() else ""
    found = re.search(r"\A---\n.*?^license:[ \t]*([\w.-]+)[ \t]*$.*?^---", text, re.DOTALL | re.MULTILINE)
    return found[1] if found else "unknown: see the checkpoint"
