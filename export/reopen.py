"""What a bundle's language model has learned, put where a training can go on from it."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch

from tam_edge.export.language_reader import read_language
from tam_edge.export.projector_reader import read_marks
from tam_edge.models.recipe.stages import TOKENIZER
from tam_edge.models.recipe.study import LANGUAGE_FILE
from tam_edge.runtime.bundle import load_bundle
from tam_edge.runtime.errors import UsageError


def reopen_bundle(source: Path, run: Path) -> Path:
    """Write language model, positions and changes of the bundle in `source` to RUN/reopened.pt, and return its path.

    Raises:
        UsageError: the bundle is quantised or of other projectors, or `run` was trained with another tokenizer.
        BundleError: `source` is no bundle.
    """
    bundle = load_bundle(source, verify=True)
    if run.resolve().is_relative_to(bundle.path.resolve()):
        raise UsageError(f"--run {run} is the bundle that is read, or lies in it: name another folder")
    spec = bundle.manifest.language
    paths = {grid: bundle.file(projector.engines[0]) for grid, projector in bundle.manifest.projectors.items()}
    position, change = read_marks(paths)
    language = read_language(bundle.file(spec.engines[0]))
    tokenizer, kept = bundle.file(spec.tokenizer), run / TOKENIZER
    if kept.exists() and kept.read_bytes() != tokenizer.read_bytes():
        raise UsageError(f"{run} was begun with another tokenizer than {bundle.path.name}: name another folder")
    run.mkdir(parents=True, exist_ok=True)
    if not kept.exists():
        _copy(tokenizer, kept)
    modules = {"language": language, "position": position, "change": change}
    path = run / LANGUAGE_FILE
    partial = path.with_suffix(".partial")
    torch.save({"modules": {name: module.state_dict() for name, module in modules.items()}}, partial)
    partial.replace(path)
    return path


def _copy(source: Path, to: Path) -> None:
    partial = to.with_suffix(".partial")
    shutil.copyfile(source, partial)
    partial.replace(to)
