"""A new bundle beside its place, moved there when it is whole: Ctrl-C, a full disk or an error leave nothing behind."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tam_edge.runtime.budget import size_text
from tam_edge.runtime.bundle import MANIFEST_FILE, Bundle
from tam_edge.runtime.consistency import problems
from tam_edge.runtime.errors import BundleError, TamEdgeError, UsageError
from tam_edge.runtime.integrity import forget
from tam_edge.runtime.manifest import Manifest
from tam_edge.runtime.schema import EngineSpec

SCRATCH = ".scratch"
"""Folder inside the unfinished bundle where candidates are made and measured."""
_CANNOT_WRITE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EACCES, errno.EROFS, errno.EPERM}


@contextmanager
def building(source: Bundle, out: Path) -> Iterator[Path]:
    """A folder to build in; after the block it stands at `out`, after an exception it is gone.

    An older bundle at `out` is replaced.

    Raises:
        UsageError: `out` is the source, holds something else, or there is no room for it.
        TamEdgeError: it cannot be written.
    """
    _check_place(source, out)
    partial = out.resolve().with_name(f".{out.resolve().name}.partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        (partial / SCRATCH).mkdir(parents=True)
        yield partial
        shutil.rmtree(partial / SCRATCH)
        _move(partial, out.resolve())
    except OSError as error:
        if error.errno not in _CANNOT_WRITE:
            raise
        raise TamEdgeError(f"cannot write {out}: {error.strerror}; make room or name another --out") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


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
    """The manifest with one engine alone in each of these roles: "language", "encoder NAME", "projector GRID"."""
    changed: dict[str, Any] = {}
    if "language" in engines:
        changed["language"] = manifest.language.model_copy(update={"engines": (engines["language"],)})
    for key, kind in (("encoders", "encoder"), ("projectors", "projector")):
        changed[key] = {
            name: spec.model_copy(update={"engines": (engines[f"{kind} {name}"],)})
            if f"{kind} {name}" in engines
            else spec
            for name, spec in getattr(manifest, key).items()
        }
    return manifest.model_copy(update=changed)


def engine_spec(path: Path, name: str, backend: str, precision: str, figures: Mapping[str, Any]) -> EngineSpec:
    """What the manifest says about a finished file that will be called `name`, with its measured memory."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(1 << 20):
            digest.update(chunk)
    facts = {"file": name, "sha256": digest.hexdigest(), "size_bytes": path.stat().st_size}
    return EngineSpec.model_validate({**facts, "backend": backend, "precision": precision[:200], **figures})


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


def _check_place(source: Bundle, out: Path) -> None:
    place = out.resolve()
    if place == source.path or source.path in place.parents or place in source.path.parents:
        raise UsageError(f"--out {out} is the bundle that is read, or lies in it: name another folder")
    if out.exists() and not (out / MANIFEST_FILE).is_file() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"{out} is there and is no bundle: name another folder")
    above = next(folder for folder in place.parents if folder.exists())
    if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
        raise UsageError(f"cannot write {out}: {above} may not be written to; name another folder")
    files = {spec.file: spec.size_bytes for spec in source.manifest.files().values()}
    largest = max((size for name, size in files.items() if name.endswith(".onnx")), default=0)
    needed, free = sum(files.values()) + 3 * largest, shutil.disk_usage(above).free
    if free < needed:
        raise UsageError(
            f"{above} has {size_text(free)} free, about {size_text(needed)} are needed meanwhile: make room"
        )


def _move(partial: Path, out: Path) -> None:
    old = out.with_name(f".{out.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if out.exists():
        out.replace(old)
    try:
        partial.replace(out)
    except BaseException:
        if old.exists():
            old.replace(out)
        raise
    forget(out)
    shutil.rmtree(old, ignore_errors=True)


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without links
        shutil.copyfile(source, target)
