"""A new bundle made of an old one: what is changed comes from a scratch folder, everything else is copied."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from tam_edge.quant import place
from tam_edge.quant.graph_file import WEIGHTS_SUFFIX, weights_file
from tam_edge.runtime.bundle import MANIFEST_FILE, Bundle
from tam_edge.runtime.consistency import problems
from tam_edge.runtime.errors import BundleError
from tam_edge.runtime.integrity import file_sha256
from tam_edge.runtime.manifest import Manifest
from tam_edge.runtime.schema import EngineSpec, FileSpec

Backend = Literal["onnx", "gguf"]
IMAGES = "image projector"
"""Role of the projector of still images."""
SCRATCH = ".scratch"
"""Folder inside the unfinished bundle where candidates are made and measured."""


@contextmanager
def building(source: Bundle, out: Path) -> Iterator[Path]:
    """A folder to build in, with a scratch folder inside; after the block it stands at `out`, or nothing does.

    Raises:
        UsageError: `out` is the source or lies in it, holds something else, or there is no room for it.
        TamEdgeError: it cannot be written.
    """
    place.check_outside(out, source.path)
    with place.building(out, [source.path], _needed_bytes(source)) as partial:
        (partial / SCRATCH).mkdir()
        yield partial
        shutil.rmtree(partial / SCRATCH)


def stand_in(source: Bundle, folder: Path) -> Bundle:
    """The source as a bundle in `folder`, its files linked, so that candidates moved there stand beside them.

    Whoever writes there must write a new file and move it: to write into a linked one is to write into the source.
    """
    for spec in source.manifest.files().values():
        target = folder / spec.file
        target.parent.mkdir(parents=True, exist_ok=True)
        if not target.exists():
            _link(source.file(spec), target)
    return Bundle(folder.resolve(), source.manifest)


def with_engines(manifest: Manifest, engines: Mapping[str, EngineSpec]) -> Manifest:
    """The manifest with one engine alone in these roles: "language", "encoder NAME", "projector GRID", IMAGES."""
    changed: dict[str, Any] = {}
    if "language" in engines:
        changed["language"] = manifest.language.model_copy(update={"engines": (engines["language"],)})
    if manifest.images is not None and IMAGES in engines:
        changed["images"] = manifest.images.model_copy(update={"projector": (engines[IMAGES],)})
    for key, kind in (("encoders", "encoder"), ("projectors", "projector")):
        changed[key] = {
            name: spec.model_copy(update={"engines": (engines[f"{kind} {name}"],)})
            if f"{kind} {name}" in engines
            else spec
            for name, spec in getattr(manifest, key).items()
        }
    return manifest.model_copy(update=changed)


def engine_spec(path: Path, name: str, backend: Backend, precision: str, figures: Mapping[str, Any]) -> EngineSpec:
    """What the manifest says about a finished file called `name`, its measured memory, and the weights beside it."""
    beside = weights_file(path)
    return EngineSpec(
        **_facts(path, name),
        backend=backend,
        precision=precision[:200],
        **figures,
        weights=FileSpec(**_facts(beside, weights_file(Path(name)).as_posix())) if beside.is_file() else None,
    )


def engine_bytes(spec: EngineSpec) -> int:
    """Size of an engine's file with the weights beside it."""
    return spec.size_bytes + (spec.weights.size_bytes if spec.weights is not None else 0)


def fill(source: Bundle, folder: Path, manifest: Manifest) -> Bundle:
    """Bring every file of `manifest` into `folder`, new ones from its scratch folder, others copied; write it.

    Raises:
        BundleError: the manifest contradicts itself.
    """
    for field, message in problems(manifest):
        raise BundleError(folder, field, message)
    old = {spec.file: spec.sha256 for spec in source.manifest.files().values()}
    for spec in manifest.files().values():
        target = folder / spec.file
        if target.exists():
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        if old.get(spec.file) == spec.sha256:
            shutil.copyfile(source.file(spec), target)
        else:
            (folder / SCRATCH / spec.file).replace(target)
    (folder / MANIFEST_FILE).write_text(manifest.model_dump_json(indent=2) + "\n", encoding="utf-8")
    return Bundle(folder.resolve(), manifest)


def _facts(path: Path, name: str) -> dict[str, Any]:
    return {"file": name, "sha256": file_sha256(path), "size_bytes": path.stat().st_size}


def _needed_bytes(source: Bundle) -> int:
    """A copy of every file, and three of the largest graph: drafts, and graphs that show their hidden states."""
    files = {spec.file: spec.size_bytes for spec in source.manifest.files().values()}
    graphs = (".onnx", f".onnx{WEIGHTS_SUFFIX}")
    largest = max((size for name, size in files.items() if name.endswith(graphs)), default=0)
    return sum(files.values()) + 3 * largest


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without links
        shutil.copyfile(source, target)
