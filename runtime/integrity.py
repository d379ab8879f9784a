"""Are the files of a bundle the ones its manifest describes? Hashed once, then compared by size and time.

Hashing gigabytes at every start would cost more than the answer, so a record of what was hashed is kept in the user's
cache folder. It only ever saves time: where it is missing, stale, damaged or cannot be written, files are hashed again.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

from tam_edge.runtime.device import cache_folder
from tam_edge.runtime.errors import BundleError
from tam_edge.runtime.schema import FileSpec

_CHUNK_BYTES = 1 << 20
_RECORD_BYTES = 1 << 20  # a record is a few hundred bytes a file; anything larger is not ours

_Seen = tuple[int, int, str]
"""size_bytes, mtime_ns, sha256 of a file as it was when it was hashed."""


def path_inside(folder: Path, file: str, field: str) -> Path:
    """The absolute path of `file` in the bundle `folder`, links followed.

    Raises:
        BundleError: it lies outside the folder, is missing, or is no regular file; names `field`.
    """
    root = folder.resolve()
    try:
        path = (root / file).resolve()
        inside, regular, exists = path.is_relative_to(root), path.is_file(), path.exists()
    except (OSError, RuntimeError, ValueError) as error:
        raise BundleError(folder, field, f"{file!r} cannot be reached: {getattr(error, 'strerror', error)}") from error
    if not inside:
        raise BundleError(folder, field, f"{file!r} lies outside the bundle folder")
    if not regular:
        raise BundleError(folder, field, f"{file!r} is {'not a regular file' if exists else 'missing'}")
    return path


def check_files(folder: Path, files: Mapping[str, FileSpec], *, verify: bool) -> None:
    """Compare every file with its size and hash; `verify` hashes again what was hashed before.

    Raises:
        BundleError: the first file that differs, cannot be read, or lies outside the folder; names its field.
    """
    record_file = _record_file(folder)
    record = {} if verify else _read_record(record_file)
    seen = {spec.file: _check_file(folder, field, spec, record.get(spec.file)) for field, spec in files.items()}
    if seen != record:
        _write_record(record_file, seen)


def forget(folder: Path) -> None:
    """Drop the record of a bundle whose folder is about to go."""
    _record_file(folder).unlink(missing_ok=True)


def _check_file(folder: Path, field: str, spec: FileSpec, known: _Seen | None) -> _Seen:
    path = path_inside(folder, spec.file, f"{field}.file")
    status = path.stat()
    if status.st_size != spec.size_bytes:
        raise BundleError(
            folder, f"{field}.size_bytes", f"{spec.file!r} has {status.st_size} bytes, not {spec.size_bytes}"
        )
    now = (status.st_size, status.st_mtime_ns, spec.sha256)
    if known == now:
        return now
    try:
        digest = file_sha256(path)
    except OSError as error:
        raise BundleError(folder, f"{field}.file", f"{spec.file!r} cannot be read: {error.strerror}") from error
    if digest != spec.sha256:
        raise BundleError(folder, f"{field}.sha256", f"{spec.file!r} is damaged or another file: its hash is {digest}")
    return now


def file_sha256(path: Path) -> str:
    """SHA-256 of a file of any size, lower-case hexadecimal.

    Raises:
        OSError: it cannot be read.
    """
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def _record_file(folder: Path) -> Path:
    name = hashlib.sha256(os.fsencode(folder.resolve())).hexdigest()
    return cache_folder() / "verified" / f"{name}.json"


def _read_record(path: Path) -> dict[str, _Seen]:
    try:
        with path.open("rb") as stream:
            entries = json.loads(stream.read(_RECORD_BYTES))
        return {str(file): (int(size), int(mtime_ns), str(sha)) for file, (size, mtime_ns, sha) in entries.items()}
    except (OSError, ValueError, TypeError, AttributeError, RecursionError):
        return {}


def _write_record(path: Path, seen: Mapping[str, _Seen]) -> None:
    """Replace the record in one step, so that a second process never reads half of it; silent where it cannot be."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, draft = tempfile.mkstemp(dir=path.parent, prefix=path.stem[:16], suffix=".draft")
    except OSError:
        return
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
            json.dump(seen, stream)
        Path(draft).replace(path)
    except OSError:
        Path(draft).unlink(missing_ok=True)
