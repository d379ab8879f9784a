"""Files a user asked for: refused before any work if they cannot be written, then written whole or not at all."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterable
from pathlib import Path

from tam_edge.runtime.errors import UsageError


def check_writable(path: Path, inputs: Iterable[str]) -> None:
    """Refuse a file that could not be written, or that is one of the `inputs`; leaves nothing behind.

    Raises:
        UsageError: no such folder, no permission, not an ordinary file, or one of the inputs.
    """
    try:
        if path.exists() and not path.is_file():
            raise UsageError(f"cannot write {path}: it is not an ordinary file; name another one")
        if any(path.exists() and os.path.lexists(name) and path.samefile(name) for name in inputs):
            raise UsageError(f"cannot write {path}: it is one of the files that are read; name another one")
        if path.exists() and not os.access(path, os.W_OK):
            raise UsageError(f"cannot write {path}: no permission; name another file")
        trial = _beside(path)
        try:
            _create(trial, b"")
        finally:
            trial.unlink(missing_ok=True)
    except (OSError, ValueError, RuntimeError) as error:  # RuntimeError: a loop of links, before Python 3.13
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise UsageError(f"cannot write {path}: {reason}; name a file in a folder you may write to") from error


def write_whole(path: Path, content: str | bytes) -> None:
    """Write text as UTF-8, or bytes; the file has all of it or stays as it was, even if the program is interrupted."""
    draft = _beside(path)
    try:
        _create(draft, content.encode("utf-8", errors="replace") if isinstance(content, str) else content)
        draft.replace(path.resolve())
    except BaseException:
        draft.unlink(missing_ok=True)
        raise


def _beside(path: Path) -> Path:
    return path.resolve().with_name(f".tam-edge-{secrets.token_hex(6)}")


def _create(path: Path, data: bytes) -> None:
    # 0666 less the umask, as any program's files; with mkstemp's 0600 a web server could not show the report.
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
    with os.fdopen(descriptor, "wb") as stream:
        stream.write(data)
