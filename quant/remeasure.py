"""Measure the memory of every engine of a bundle again: one that was made before that was done, or on another machine.

    python -m tam_edge.quant.remeasure BUNDLE OUT

OUT is a copy of BUNDLE, with new figures in its manifest.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from tam_edge.runtime.bundle import MANIFEST_FILE, Bundle, load_bundle
from tam_edge.runtime.calibrate.memory import (
    Inputs,
    encoder_inputs,
    graph_figures,
    inductor_inputs,
    language_figures,
    projector_inputs,
)
from tam_edge.runtime.errors import TamEdgeError
from tam_edge.runtime.manifest import EncoderSpec, Manifest, ProjectorSpec
from tam_edge.runtime.schema import EngineSpec


def remeasured(bundle: Bundle, progress: Callable[[str], None] = lambda _: None) -> Manifest:
    """The manifest of `bundle` with new figures.

    Raises:
        EngineError: an engine cannot be opened or run.
    """
    manifest = bundle.manifest

    def graphs(specs: tuple[EngineSpec, ...], inputs: Inputs, axis: int = 0) -> tuple[EngineSpec, ...]:
        return tuple(_graph(bundle, spec, inputs, axis, progress) for spec in specs)

    def encoder(spec: EncoderSpec) -> EncoderSpec:
        return spec.model_copy(update={"engines": graphs(spec.engines, encoder_inputs(spec))})

    def projector(spec: ProjectorSpec) -> ProjectorSpec:
        return spec.model_copy(update={"engines": graphs(spec.engines, projector_inputs(manifest, spec.inputs))})

    images = manifest.images
    if images is not None:
        images = images.model_copy(
            update={"projector": graphs(images.projector, projector_inputs(manifest, ("features",)))}
        )
    language = tuple(_language(bundle, spec, manifest.language.context, progress) for spec in manifest.language.engines)
    inductor = graphs(manifest.inductor.engines, inductor_inputs(manifest), axis=1)
    changed = {
        "inductor": manifest.inductor.model_copy(update={"engines": inductor}),
        "encoders": {name: encoder(spec) for name, spec in manifest.encoders.items()},
        "projectors": {grid: projector(spec) for grid, spec in manifest.projectors.items()},
        "images": images,
        "language": manifest.language.model_copy(update={"engines": language}),
    }
    return manifest.model_copy(update=changed)


def _graph(bundle: Bundle, spec: EngineSpec, inputs: Inputs, axis: int, progress: Callable[[str], None]) -> EngineSpec:
    if spec.backend != "onnx" or spec.built_for != "any":
        return spec
    progress(f"measuring the memory of {spec.file}")
    return spec.model_copy(update=graph_figures(bundle.file(spec), inputs, axis))


def _language(bundle: Bundle, spec: EngineSpec, context: int, progress: Callable[[str], None]) -> EngineSpec:
    if spec.backend != "gguf":
        return spec
    progress(f"measuring the memory of {spec.file}")
    return spec.model_copy(update=language_figures(bundle.file(spec), context))


def main(arguments: list[str]) -> int:
    """Copy a bundle and measure the copy."""
    if len(arguments) != 2:
        print("usage: python -m tam_edge.quant.remeasure BUNDLE OUT", file=sys.stderr)
        return 2
    try:
        bundle = load_bundle(arguments[0])
        manifest = remeasured(bundle, lambda doing: print(doing, file=sys.stderr))
        shutil.copytree(bundle.path, arguments[1])
        Path(arguments[1], MANIFEST_FILE).write_text(manifest.model_dump_json(indent=2) + "\n", encoding="utf-8")
    except FileExistsError:
        print(f"{arguments[1]} is there already: name another folder", file=sys.stderr)
        return 1
    except TamEdgeError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
