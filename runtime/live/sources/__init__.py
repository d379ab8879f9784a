"""Where live frames come from: one source per file, behind one protocol. `open_source` finds the right one.

A source connects when its first frame is drawn and lets go when its generator is closed. What goes wrong in between is
a `VideoError`; whether to try again is the reader's business. Frames that nobody looks at are never made into RGB.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterable
from pathlib import Path
from threading import Lock
from typing import Any, ClassVar
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray

from tam_edge.runtime.errors import UsageError, VideoError

_converting = Lock()  # what turns pictures of a stream into RGB serves one thread at a time


class LiveFrame:
    """One frame, made into RGB when it is first looked at."""

    def __init__(
        self, make: Callable[[], NDArray[np.uint8]], height_px: int, width_px: int, seconds: float | None = None
    ) -> None:
        self.height_px = height_px
        """Height as shown."""
        self.width_px = width_px
        """Width as shown."""
        self.seconds = seconds
        """When it appears on the source's own clock; None: when it arrives."""
        self._make: Callable[[], NDArray[np.uint8]] | None = make
        self._pixels: NDArray[np.uint8] | None = None

    @property
    def pixels(self) -> NDArray[np.uint8]:
        """[H, W, 3] uint8 RGB, not to be written to."""
        with _converting:
            if self._pixels is None:
                assert self._make is not None
                self._pixels = np.ascontiguousarray(self._make())
                self._pixels.flags.writeable = False
                self._make = None  # and with it the decoder's picture
            return self._pixels


class LiveSource(ABC):
    """A camera or whatever stands for one."""

    ends: ClassVar[bool] = False
    """Whether it is over when it ends; anything else is connected to anew."""

    def __init__(self, name: str) -> None:
        self.name = name
        """What to call it; passwords are left out."""

    @abstractmethod
    def frames(self) -> Generator[LiveFrame, None, None]:
        """Connect, and yield frames as they come until there are no more.

        Raises: VideoError if it cannot be reached or read.
        """

    def interrupt(self) -> None:  # noqa: B027 - most return from reading by themselves
        """Make a read that hangs in another thread return, as far as that is possible."""


LiveInput = int | str | os.PathLike[str] | LiveSource | Iterable[Any]
"""A camera's number, an address, a GStreamer pipeline, a file, a source of one's own, or an iterable of frames or
(frame, seconds)."""


def open_source(source: LiveInput) -> LiveSource:
    """The source for what a caller named; nothing is connected to yet.

    Raises:
        UsageError: it is nothing that frames could come from.
        VideoError: an address that this version does not know, or a file that is not there.
    """
    if isinstance(source, bool) or source is None:
        raise UsageError(f"{source} is no live source: name a camera, an address, a pipeline or a file")
    if isinstance(source, int):
        return _camera(str(source))
    if isinstance(source, (str, os.PathLike)):
        return _named(os.fspath(source))
    if isinstance(source, LiveSource):
        return source
    if isinstance(source, Iterable):
        from tam_edge.runtime.live.sources.drawn import Drawn

        return Drawn(source)
    raise UsageError(f"{type(source).__name__} is no live source: name a camera, an address, a pipeline or a file")


def _named(source: str) -> LiveSource:
    text = source.strip()
    if not text:
        raise UsageError("the name of the live source is empty: name a camera, an address, a pipeline or a file")
    if text.startswith("csi://") or " ! " in text:
        from tam_edge.runtime.live.sources.pipeline import Pipeline, csi_pipeline

        return Pipeline(csi_pipeline(text) if text.startswith("csi://") else text, text)
    if "://" in text:
        return _address(text)
    if text.startswith("/dev/video") or (text.isdecimal() and not Path(text).exists()):
        return _camera(text)
    from tam_edge.runtime.live.sources.played import Played

    return Played(Path(source))


def _camera(text: str) -> LiveSource:
    from tam_edge.runtime.live.sources.camera import Camera

    return Camera(text)


def _address(text: str) -> LiveSource:
    from tam_edge.runtime.live.sources.network import SCHEMES, NetworkStream, without_password

    try:
        scheme, known = urlsplit(text).scheme.lower(), bool(urlsplit(text).hostname)
    except ValueError:
        raise VideoError("the address", "is no address that can be read: check its brackets and its port") from None
    if scheme not in SCHEMES:
        raise VideoError(
            without_password(text), f"addresses of live sources begin with {', '.join(f'{s}://' for s in SCHEMES)}"
        )
    if not known:
        raise VideoError(without_password(text), "names no host: write it after the two slashes")
    return NetworkStream(text)
