"""A bundle that differs from another one in a graph or a prompt, so that the whole real runtime serves it."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path

from tam_edge.runtime import UsageError
from tam_edge.runtime.bundle import MANIFEST_FILE, Bundle
from tam_edge.runtime.manifest import Manifest
from tam_edge.runtime.schema import EngineSpec

Graphs = Mapping[str, bytes]
"""New content of an ONNX file, by the file's name in the bundle."""


def graph_engine(engines: tuple[EngineSpec, ...], needed_by: str) -> EngineSpec:
    """The engine of a role that is an ONNX graph in full precision, which is what can be changed.

    Raises:
        UsageError: there is none.
    """
    for engine in engines:
        if (engine.backend, engine.precision) == ("onnx", "fp32"):
            return engine
    raise UsageError(f"{needed_by} needs an ONNX graph in fp32, this bundle has {engines[0].file}")


def with_graphs(source: Bundle, folder: Path, name: str, graphs: Graphs) -> Path:
    """Write the bundle with other graphs into `folder`; a role that loses a graph keeps the new one alone."""
    for file, content in graphs.items():
        path = folder / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    manifest = source.manifest
    encoders = {
        key: spec.model_copy(update={"engines": _engines(spec.engines, graphs)})
        for key, spec in manifest.encoders.items()
    }
    projectors = {
        grid: spec.model_copy(update={"engines": _engines(spec.engines, graphs)})
        for grid, spec in manifest.projectors.items()
    }
    return _write(source, folder, manifest.model_copy(update={"encoders": encoders, "projectors": projectors}), name)


def without_instruction(source: Bundle, folder: Path, name: str) -> Path:
    """Write the bundle with the task instruction, and the space before it, cut out of its prompt.

    Raises:
        UsageError: there is none in its prompt.
    """
    prompt = source.manifest.prompt
    text, found = re.subn(r"\s?\{instruction\}", "", prompt.after_visual)
    if not found:
        raise UsageError(f"--ablate {name}: the prompt of this bundle has no task instruction")
    changed = prompt.model_copy(update={"after_visual": text})
    return _write(source, folder, source.manifest.model_copy(update={"prompt": changed}), name)


def _engines(engines: tuple[EngineSpec, ...], graphs: Graphs) -> tuple[EngineSpec, ...]:
    changed = tuple(
        engine.model_copy(
            update={"sha256": hashlib.sha256(content).hexdigest(), "size_bytes": len(content)},
        )
        for engine in engines
        if (content := graphs.get(engine.file)) is not None
    )
    return changed or engines


def _write(source: Bundle, folder: Path, manifest: Manifest, name: str) -> Path:
    manifest = manifest.model_copy(update={"name": f"{manifest.name}+{name}"[:200]})
    for spec in manifest.files().values():
        target = folder / spec.file
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            _place(source.file(spec), target)
    (folder / MANIFEST_FILE).write_text(manifest.model_dump_json(), encoding="utf-8")
    return folder


def _place(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without links
        shutil.copyfile(source, target)
