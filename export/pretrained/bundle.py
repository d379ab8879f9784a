"""A checkpoint folder becomes a bundle: graphs, GGUF, tokenizer, Inductor and manifest, whole or not at all.

The image encoder and the projector are built as modules; the language model goes tensor by tensor from file to file.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from tam_edge.export.graph import external_weights, save_graph
from tam_edge.export.language import stream_gguf
from tam_edge.export.manifest import TOKENIZER_FILE, VISION_FILE, projector_file
from tam_edge.export.pretrained.folder import CheckpointError, CheckpointFolder
from tam_edge.export.pretrained.inductor import take_inductor
from tam_edge.export.pretrained.manifest import (
    IMAGE_PROJECTOR_FILE,
    NEWLINE_FILE,
    Figures,
    bundle_name,
    draft_manifest,
    language_file,
    needs_own_image_projector,
)
from tam_edge.export.pretrained.sizes import CheckpointSizes
from tam_edge.export.pretrained.source import AS_IT_IS, ImportOptions, Source, needed_bytes, read_source
from tam_edge.export.pretrained.weights import (
    check_tied_head,
    language_source,
    load_projectors,
    load_vision,
    read_newline,
)
from tam_edge.export.projector import LineBreaks, projector_graph
from tam_edge.export.vision import vision_graph
from tam_edge.quant.place import building, check_place
from tam_edge.runtime.bundle import MANIFEST_FILE, Bundle, load_bundle
from tam_edge.runtime.manifest import Manifest

Progress = Callable[[str], None]
"""Told what is done next, in a few words."""
Verify = Callable[[Path, CheckpointFolder, CheckpointSizes, Manifest, Progress], Figures]
"""Compares the bundle in a folder with a reference; raises ParityError."""


def export_checkpoint(
    checkpoint: Path,
    out: Path,
    options: ImportOptions = AS_IT_IS,
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
    check_place(out, [checkpoint])
    source = read_source(checkpoint, options)
    with building(out, [checkpoint], needed_bytes(source, options.precision)) as partial:
        progress("taking over the Inductor")  # first: it is small, and may be refused
        taken = take_inductor(options.inductor, partial)
        _write(source, partial, options, progress)
        progress("measuring the memory of every graph")
        manifest = draft_manifest(source, partial, options, taken)
        figures: Figures = {"verified": "no: export with --verify"}
        if verify is not None:
            figures = verify(partial, source.folder, source.sizes, manifest, progress)
        finished = manifest.model_copy(update={"parity": {**manifest.parity, **figures}})
        # The manifest comes last: a folder without one is no bundle, whatever stopped the export.
        (partial / MANIFEST_FILE).write_text(finished.model_dump_json(indent=2) + "\n", encoding="utf-8")
    progress("checking the bundle")
    return load_bundle(out, verify=True)


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
    if needs_own_image_projector(source.sizes):
        config_of_images = replace(config.projector, grids=(config.vision.grid_side,))
        unpooled = load_projectors(checkpoint, config_of_images)
        save_graph(
            projector_graph(unpooled, config.vision.grid_side, config.vision.grid_side), folder / IMAGE_PROJECTOR_FILE
        )
    if "newline" in checkpoint.tensors:
        (folder / NEWLINE_FILE).write_bytes(read_newline(checkpoint).numpy().astype("<f4").tobytes())
    (folder / TOKENIZER_FILE).write_text(source.tokenizer, encoding="utf-8")
    check_tied_head(checkpoint, config)
    try:
        stream_gguf(
            language_source(checkpoint, config),
            config.language,
            folder / TOKENIZER_FILE,
            folder / language_file(options.precision),
            precision=options.precision,
            name=bundle_name(checkpoint),
            stop=source.chat.stop[0],
            progress=lambda what: progress(f"writing the language model, {what}"),
        )
    except ValueError as error:
        raise CheckpointError(checkpoint.path, str(error)) from error


def _breaks(source: Source) -> LineBreaks | None:
    if source.sizes.newline in ("grid", "frame"):
        return LineBreaks(read_newline(source.folder), "row" if source.sizes.newline == "grid" else "frame")
    return None
