"""From what a message shows to a file the runtime can open: bytes, a file it may serve, or a download where allowed."""

from __future__ import annotations

import asyncio
import base64
import binascii
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from tam_edge.apps.serve.download import Downloader
from tam_edge.apps.serve.limits import ServeLimits
from tam_edge.apps.serve.reading import Shown
from tam_edge.apps.serve.store import Held
from tam_edge.apps.web.problem import ServeError

_DATA_URL = re.compile(r"data:((?:image|video)/[\w.+-]+|application/octet-stream)?(?:;[\w-]+=[\w.+-]+)*;base64,", re.I)
_STEP = 1024 * 1024  # characters decoded at once, a multiple of 4
_NAME_CHARACTERS = 120
_OUTSIDE = "is not below a directory that this server was told to serve (--serve-dir)"


@dataclass(frozen=True, slots=True)
class Sources:
    """What this server looks at for others."""

    limits: ServeLimits
    """Most bytes and pictures."""
    directories: Sequence[Path] = ()
    """Folders, resolved, whose files may be named."""
    downloader: Downloader | None = None
    """What fetches http(s) URLs; None: they are refused."""

    async def collect(self, shown: Sequence[Shown], held: Held) -> dict[Path, str]:
        """A file for each, in order, with what the client calls it; the same content twice is one file.

        Returns as many paths in `held.paths` and the names by path.
        Raises: ServeError that names the message's part.
        """
        if len(shown) > self.limits.sources:
            text = f"{len(shown)} pictures and videos are too many: {self.limits.sources} are the most"
            raise ServeError(413, text, param="messages", code="too_large")
        names = dict[Path, str]()
        for one in shown:
            try:
                await self._collect_one(one, held)
            except ServeError as problem:
                problem.param = problem.param or one.place
                raise
            names.setdefault(held.paths[-1], _name_of(one))
        return names

    async def _collect_one(self, one: Shown, held: Held) -> None:
        if one.data:
            await asyncio.to_thread(_decode, one.data, 0, held)
        elif found := _DATA_URL.match(one.url):
            await asyncio.to_thread(_decode, one.url, found.end(), held)
        elif one.url[:5].lower() == "data:":
            raise ServeError(400, "a data URL must be data:image/...;base64,... or data:video/...;base64,...")
        elif re.match(r"https?:", one.url, re.I):
            if self.downloader is None:
                raise ServeError(403, "this server fetches nothing from the network (--allow-http)", code="not_allowed")
            await self.downloader.fetch(one.url, held)
        else:
            held.paths.append(self._file(_path_in(one.url)))

    def _file(self, named: str) -> Path:
        """The file below one of the directories, symbolic links followed.

        Raises: ServeError 403, whether a file outside exists or not; 422.
        """
        inside = [path for folder in self.directories if (path := _real(folder / named)).is_relative_to(folder)]
        if not inside:
            raise ServeError(403, f"{_short(named)} {_OUTSIDE}", code="not_allowed")
        found = next((path for path in inside if path.exists()), None)
        if found is None:
            raise ServeError(422, f"{_short(named)}: no such file", code="not_found")
        return found


def _decode(text: str, start: int, held: Held) -> None:
    with held.writing() as file:
        for chunk in _decoded(text, start):
            file.write(chunk)
        if not file.size_bytes:
            raise ServeError(400, "the base64 holds no bytes")


def _decoded(text: str, start: int) -> Iterator[bytes]:
    """The bytes of base64, a piece at a time: the text is large enough once."""
    for at in range(start, len(text), _STEP):
        piece = text[at : at + _STEP]
        try:
            if "=" in piece and at + _STEP < len(text):
                raise ValueError("padding before the end")
            yield base64.b64decode(piece, validate=True)
        except (binascii.Error, ValueError):
            raise ServeError(400, "the base64 is damaged") from None


def _path_in(url: str) -> str:
    """The path in a file URL, or the plain path.

    Raises: ServeError 400.
    """
    if not re.match(r"[a-z][a-z0-9+.-]*://", url, re.I):
        path = url
    else:
        try:
            parts = urlsplit(url)
        except ValueError:
            raise ServeError(400, "a URL cannot be read") from None
        if parts.scheme.lower() != "file":
            raise ServeError(400, f"{parts.scheme[:20]} URLs are not known here: data, file, http or https are")
        if parts.netloc not in ("", "localhost"):
            raise ServeError(403, f"a file on another machine {_OUTSIDE}", code="not_allowed")
        path = unquote(parts.path)
    if not path.strip() or "\0" in path:
        raise ServeError(400, "a URL is empty or has a zero byte in it")
    return path


def _real(path: Path) -> Path:
    try:
        return Path(os.path.realpath(path))
    except OSError:
        return Path("/")  # below no directory


def _name_of(one: Shown) -> str:
    return one.place if one.data or one.url[:5].lower() == "data:" else _short(one.url)


def _short(name: str) -> str:
    text = "".join(c if c.isprintable() else "?" for c in name)
    return text if len(text) <= _NAME_CHARACTERS else f"{text[: _NAME_CHARACTERS - 3]}..."
