"""A file as frames with times, for rules that are tried on a recording faster than it plays."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tam_edge.runtime.container import open_stream
from tam_edge.runtime.errors import UsageError, VideoError
from tam_edge.runtime.live.sources.decoded import decoded
from tam_edge.runtime.natives import import_native

_EARLY_SHARE = 0.1


def recorded(source: str, fps: float) -> Iterator[tuple[NDArray[np.uint8], float]]:
    """Frames [H, W, 3] and their seconds, about `fps` of them a second.

    Raises: UsageError if it is no file; VideoError if it cannot be read.
    """
    path = Path(source)
    if not path.is_file():
        raise UsageError(f"--fast needs a file to read: {source[:80]!r} is none")
    return _frames(path, 1 / fps)


def _frames(path: Path, spacing: float) -> Iterator[tuple[NDArray[np.uint8], float]]:
    av = import_native("av")
    file = open_stream(path, str(path), 1)
    due = float("-inf")
    with file.container:
        try:
            for seconds, frame in decoded(file.container.decode(file.stream)):
                if seconds < due:
                    continue
                due = seconds + (1 - _EARLY_SHARE) * spacing
                yield frame.pixels, seconds
        except av.FFmpegError as error:
            raise VideoError(str(path), f"cannot be read any further ({error.strerror})") from None
