"""Open anything that can be asked about: video files, images, frames in memory, and several of these in a row.

What a video is stands in frames.py; how one file becomes frames, in reading order, in container.py, probe.py and
decode.py.
"""

from __future__ import annotations

import math
import os
import stat
from collections.abc import Sequence
from pathlib import Path

from tam_edge.runtime.arrays import FramesInMemory, MemoryVideo
from tam_edge.runtime.decode import VideoFile
from tam_edge.runtime.errors import UsageError, VideoError
from tam_edge.runtime.frames import FrameBatch, OpenedVideo, Video, VideoInfo
from tam_edge.runtime.images import open_image
from tam_edge.runtime.sequence import SourceSequence, Window

__all__ = ["FrameBatch", "FramesInMemory", "Source", "Video", "VideoInfo", "open_video"]

Source = str | os.PathLike[str] | FramesInMemory | Sequence["Source"]
"""What can be opened."""

_NO_CAMERAS = "is a live source: `VideoQA.live` watches those; to ask about a recording, name its file"
_NOT_FILES = (
    (stat.S_ISDIR, "is a folder: name a video or image file in it"),
    (stat.S_ISCHR, _NO_CAMERAS),
    (stat.S_ISFIFO, "is a pipe: save what it carries to a file and name that"),
    (stat.S_ISSOCK, "is a socket: save what it carries to a file and name that"),
    (stat.S_ISBLK, "is a device: name a file on it"),
)


def open_video(source: Source, *, start: float | None = None, end: float | None = None, threads: int = 0) -> Video:
    """Open a source; of a video file only the first frame is decoded, of an image nothing.

    Args:
        source: a file, `FramesInMemory`, or a sequence of sources that becomes one timeline (images last 1 s).
        start: look at nothing before this time of the source, in seconds.
        end: look at nothing after this time of the source, in seconds.
        threads: decoder threads; 0 lets FFmpeg choose.

    Raises:
        UsageError: `start` or `end` make no sense, or `start` is beyond the end.
        VideoError: the source is missing, unreadable, damaged, a live source, or no video or image at all.
    """
    _check_window(start, end)
    opened = _open(source, threads, alone=True)
    if start is None and end is None:
        return opened
    return Window(opened, start, end)


def _check_window(start: float | None, end: float | None) -> None:
    for name, seconds in (("start", start), ("end", end)):
        if seconds is not None and not (math.isfinite(seconds) and seconds >= 0):
            raise UsageError(f"{name} must be a number of seconds, 0 or more, not {seconds}")
    if start is not None and end is not None and end <= start:
        raise UsageError(f"end ({end:g} s) must come after start ({start:g} s)")


def _open(source: Source, threads: int, *, alone: bool) -> OpenedVideo:
    if isinstance(source, FramesInMemory):
        return MemoryVideo(source)
    if isinstance(source, (str, os.PathLike)):
        return _open_file(os.fspath(source), threads, alone)
    if not isinstance(source, Sequence) or isinstance(source, (bytes, bytearray)):
        raise UsageError(f"{type(source).__name__} is no video: give a path, FramesInMemory, or a list of these")
    if not source:
        raise UsageError("an empty list holds no video: name at least one")
    return SourceSequence([_open(part, threads, alone=False) for part in source])


def _open_file(source: str, threads: int, alone: bool) -> OpenedVideo:
    if not source.strip():
        raise UsageError("the name of the video is empty: name a file")
    path = Path(source)
    if "://" in source or source.startswith("/dev/video") or (source.isdecimal() and not path.exists()):
        raise VideoError(source, _NO_CAMERAS)
    try:
        _check_file(path, source)
        return open_image(path, source) or VideoFile(path, source, threads, stay_open=alone)
    except FileNotFoundError:
        raise VideoError(source, "no such file: check the path") from None
    except PermissionError:
        raise VideoError(source, "may not be read by this user: change its permissions") from None
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the path
        raise VideoError(source, f"cannot be opened ({getattr(error, 'strerror', None) or error})") from None


def _check_file(path: Path, source: str) -> None:
    about = path.stat()
    for is_this, message in _NOT_FILES:
        if is_this(about.st_mode):
            raise VideoError(source, message)
    if about.st_size == 0:
        raise VideoError(source, "is empty: record or copy it again")
    with path.open("rb"):
        pass  # raises PermissionError before any library could print something
