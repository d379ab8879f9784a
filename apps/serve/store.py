"""Pictures and videos that came with requests, on the disk, under the hash of their content.

A follow-up sends its pictures again. Under the same name, unchanged, the runtime knows them and what it has seen of
them. The least recently used go first, never one that a question is about.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import threading
from collections import Counter, OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from tam_edge.apps.serve.limits import ServeLimits
from tam_edge.apps.web.problem import ServeError


class MediaStore:
    """A folder of its own with a bound on its size; any thread may use it."""

    def __init__(self, limits: ServeLimits) -> None:
        """Make the folder; `close` removes it."""
        self._limits = limits
        self._folder = Path(tempfile.mkdtemp(prefix="tam-edge-serve-"))
        self._sizes: OrderedDict[Path, int] = OrderedDict()  # least recently used first
        self._held: Counter[Path] = Counter()
        self._written_bytes = 0  # by files that are not whole yet
        self._lock = threading.Lock()

    @property
    def size_bytes(self) -> int:
        """What is stored."""
        with self._lock:
            return sum(self._sizes.values()) + self._written_bytes

    @contextmanager
    def holding(self) -> Iterator[Held]:
        """What is written or looked up in the block stays until its end."""
        held = Held(self)
        try:
            yield held
        finally:
            with self._lock:
                held.over = True
                self._held.subtract(held.stored)
                self._held += Counter()  # forget those nobody holds

    def close(self) -> None:
        """Remove everything."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def begin(self) -> tuple[BinaryIO, Path]:
        """A new file to write."""
        descriptor, name = tempfile.mkstemp(dir=self._folder, prefix="part-")
        return os.fdopen(descriptor, "wb"), Path(name)

    def grow(self, written_bytes: int, by_bytes: int) -> None:
        """Make room for `by_bytes` more of a file of which `written_bytes` are written.

        Raises: ServeError 413 or 503.
        """
        if written_bytes + by_bytes > self._limits.file_bytes:
            raise too_large(self._limits.file_bytes)
        with self._lock:
            self._make_room(by_bytes)
            self._written_bytes += by_bytes

    def keep(self, part: Path, name: str, size_bytes: int, held: Held) -> Path:
        """Give a whole file its name, and hold it; one that is there already stays as it is."""
        path = self._folder / name
        with self._lock:
            self._written_bytes -= size_bytes
            if path in self._sizes:
                part.unlink()
            else:
                part.replace(path)
                self._sizes[path] = size_bytes
            self._sizes.move_to_end(path)
            if not held.over:  # a thread may end its work after whoever it worked for has gone
                self._held[path] += 1
                held.stored.append(path)
        return path

    def drop(self, part: Path, size_bytes: int) -> None:
        """Remove a file that did not become whole."""
        with self._lock:
            self._written_bytes -= size_bytes
        part.unlink(missing_ok=True)

    def _make_room(self, by_bytes: int) -> None:
        left = self._limits.stored_bytes - self._written_bytes - by_bytes - sum(self._sizes.values())
        for path in [path for path in self._sizes if not self._held[path]]:
            if left >= 0:
                return
            left += self._sizes.pop(path)
            path.unlink(missing_ok=True)
        if left < 0:
            raise ServeError(503, "no room for more pictures and videos at the moment", code="busy")


class Held:
    """Files that one request holds."""

    def __init__(self, store: MediaStore) -> None:
        self._store = store
        self.paths: list[Path] = []
        """What was asked for, in order; files that are not of the store may be among them."""
        self.stored: list[Path] = []
        """Files of the store that stay for it, each as often as it was written."""
        self.over = False
        """Whether nobody needs them any more."""

    @contextmanager
    def writing(self) -> Iterator[Writing]:
        """A file to write; it is stored at the end of the block, or gone where that raises."""
        file, part = self._store.begin()
        writing = Writing(file, self._store)
        try:
            with file:
                yield writing
        except BaseException:
            self._store.drop(part, writing.size_bytes)
            raise
        self.paths.append(self._store.keep(part, writing.name, writing.size_bytes, self))


class Writing:
    """A file as it is written."""

    def __init__(self, file: BinaryIO, store: MediaStore) -> None:
        self._file = file
        self._store = store
        self._hash = hashlib.blake2b(digest_size=16)
        self.size_bytes = 0
        """Bytes written."""

    def write(self, chunk: bytes) -> None:
        """Add some bytes.

        Raises: ServeError 413 or 503.
        """
        self._store.grow(self.size_bytes, len(chunk))
        self.size_bytes += len(chunk)
        self._hash.update(chunk)
        self._file.write(chunk)

    @property
    def name(self) -> str:
        """The content's."""
        return self._hash.hexdigest()


def too_large(most_bytes: int) -> ServeError:
    """The refusal of a picture or video that is too large."""
    return ServeError(413, f"a picture or video is too large: {most_bytes:,} bytes are the most", code="too_large")
