"""A folder appears whole or not at all: it is built beside its place and moved there when it is finished.

Ctrl-C, a full disk or an error leave nothing behind, and an older bundle as it was. A process that is killed leaves a
hidden folder, which the next attempt sweeps away.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tam_edge.runtime.budget import size_text
from tam_edge.runtime.bundle import MANIFEST_FILE, MANIFEST_LIMIT_BYTES
from tam_edge.runtime.errors import TamEdgeError, UsageError
from tam_edge.runtime.integrity import forget

_OURS = {"schema_version", "inductor", "encoders", "language"}  # web pages have a manifest.json too
_CANNOT_WRITE = {
    errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EACCES, errno.EROFS, errno.EPERM, errno.ENAMETOOLONG,
}  # fmt: skip


@contextmanager
def building(out: Path, reads: Sequence[Path] = (), needed_bytes: int = 0) -> Iterator[Path]:
    """A new folder that becomes `out` when the block ends without an error; otherwise nothing of it is left.

    An older bundle at `out` is replaced; arguments as for `check_place`.

    Raises:
        UsageError: as `check_place`.
        TamEdgeError: it cannot be written.
    """
    check_place(out, reads, needed_bytes)
    place = out.resolve()
    partial = place.with_name(f".{place.name}.partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        yield partial
        _move(partial, place)
    except OSError as error:
        if error.errno not in _CANNOT_WRITE:
            raise
        raise TamEdgeError(f"cannot write {out}: {error.strerror}; make room or name another --out") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def check_place(out: Path, reads: Sequence[Path] = (), needed_bytes: int = 0) -> None:
    """Refuse a place that cannot be taken, before any work.

    Args:
        out: the place.
        reads: folders that are read; replacing `out` must not take one of them away.
        needed_bytes: what will be written, in about.

    Raises:
        UsageError: it holds something else than a bundle, or a folder of `reads`; it may not be written to; there is
            no room.
    """
    place = out.resolve()
    for folder in reads:
        if folder.resolve().is_relative_to(place):
            raise UsageError(f"--out {out} is what is read, or holds it: name another folder")
    try:
        free_place = not out.exists() or (out.is_dir() and not any(out.iterdir()))
    except OSError as error:
        raise UsageError(f"cannot write {out}: {error.strerror}; name another folder") from error
    if not free_place and not _is_bundle(out):
        raise UsageError(f"{out} is there and is no bundle: name another folder")
    above = next(folder for folder in place.parents if folder.exists())
    if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
        raise UsageError(f"cannot write {out}: {above} may not be written to; name another folder")
    if (free := shutil.disk_usage(above).free) < needed_bytes:
        needed = size_text(needed_bytes)
        raise UsageError(f"{above} has {size_text(free)} free, about {needed} are needed meanwhile: make room")


def check_outside(out: Path, bundle: Path) -> None:
    """Refuse a place for a changed copy of `bundle` that is the bundle itself or lies in it.

    Raises:
        UsageError: it is so.
    """
    if out.resolve().is_relative_to(bundle.resolve()):
        raise UsageError(f"--out {out} is the bundle that is read, or lies in it: name another folder")


def _is_bundle(folder: Path) -> bool:
    try:
        with (folder / MANIFEST_FILE).open("rb") as stream:
            said = json.loads(stream.read(MANIFEST_LIMIT_BYTES))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(said, dict) and said.keys() >= _OURS


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
