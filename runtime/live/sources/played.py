"""A video file that plays at its own speed, as if it were a camera; it ends where the file does."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path
from threading import Event
from time import monotonic
from typing import ClassVar

from tam_edge.runtime.container import open_stream
from tam_edge.runtime.errors import VideoError
from tam_edge.runtime.live.sources import LiveFrame, LiveSource
from tam_edge.runtime.live.sources.decoded import decoded
from tam_edge.runtime.natives import import_native


class Played(LiveSource):
    """A file, frame after frame, each when its time has come."""

    ends: ClassVar[bool] = True

    def __init__(self, path: Path) -> None:
        """Take a file's path.

        Raises: VideoError if there is no such file.
        """
        super().__init__(str(path))
        if not path.is_file():
            raise VideoError(str(path), "is no camera, no address and no file: check the name")
        self._path = path
        self._stopped = Event()

    def frames(self) -> Generator[LiveFrame, None, None]:
        """Yield the frames when they would be shown."""
        av = import_native("av")
        file = open_stream(self._path, self.name, 1)
        with file.container:
            start: float | None = None
            try:
                for shown, frame in decoded(file.container.decode(file.stream)):
                    start = monotonic() - shown if start is None else start
                    if self._stopped.wait(max(0.0, start + shown - monotonic())):
                        return
                    yield frame
            except av.FFmpegError as error:
                raise VideoError(self.name, f"cannot be read any further ({error.strerror})") from None

    def interrupt(self) -> None:
        """Wait for no further frame."""
        self._stopped.set()
