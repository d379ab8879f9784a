"""What every source gives, whether it is a file, an image or an array: one info and batches of frames.

A source yields `Picture`s, one per time asked for; here they become `FrameBatch`es of bounded size, so that memory
depends on the chunk and never on the clip.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from tam_edge.runtime.access import FrameAccess
from tam_edge.runtime.errors import UsageError, VideoError
from tam_edge.runtime.pictures import DecoderNeeds


@dataclass(frozen=True, slots=True)
class VideoInfo:
    """What is known about a source before a frame of it is looked at."""

    source: str
    """Path as given, or a description of what is no file."""
    kind: Literal["video", "image", "frames", "sequence"]
    """What the source is; `frames` came from memory, `sequence` is several sources one after the other."""
    duration_seconds: float
    """Length of the clip, or of its window; 0 for an image."""
    frame_count: int | None
    """Frames in the clip, as the container counts them; None where it does not, and inside a window."""
    width_px: int
    """Width as shown, rotation applied; the largest of a sequence."""
    height_px: int
    """Height as shown, rotation applied; the largest of a sequence."""
    average_fps: float | None
    """Mean frames per second; None where unknown or meaningless."""
    codec: str | None
    """FFmpeg's or Pillow's name of the coding, lower case; None for frames from memory and sequences."""
    identity: str
    """Changes when the content does: path, size and modification time, or a hash. Windows share their clip's."""
    notes: tuple[str, ...] = ()
    """What a person should know about the source, one sentence each."""
    start_seconds: float = 0.0
    """Earliest time `frames` accepts; not 0 in a window, whose times stay those of the file."""
    still_sizes_px: tuple[tuple[int, int], ...] = ()
    """Height and width of each image, in order, where the source is nothing but still images."""
    decoder: DecoderNeeds | None = None
    """What decoding it takes; None where nothing is decoded."""
    access: FrameAccess | None = None
    """How its frames are reached; None for what is not one video file."""
    times_seconds: tuple[float, ...] | None = None
    """The only times at which there are frames, rising; None: there is one at any time."""


@dataclass(frozen=True, slots=True, eq=False)
class FrameBatch:
    """Frames in presentation order, all of one size."""

    pixels: NDArray[np.uint8]
    """[N, H, W, 3] RGB, rotation applied, pixels as stored (sample aspect ratio is not applied)."""
    timestamps_seconds: NDArray[np.float64]
    """[N] when each frame really appears: at or before the time asked for."""
    sources: tuple[str, ...]
    """[N] the source each frame came from; they differ only in a sequence."""
    read_through: tuple[str, ...] = ()
    """Why more had to be decoded to reach them than seeking would have; usually nothing."""


class Video(Protocol):
    """An opened source. Nothing is held open once `frames` was called, except while its frames are taken."""

    @property
    def info(self) -> VideoInfo:
        """What is known about the source."""

    def frames(self, timestamps_seconds: Sequence[float], chunk_frames: int) -> Generator[FrameBatch, None, None]:
        """Yield the frames on screen at rising times, at most `chunk_frames` of them in memory at once."""

    @property
    def held_bytes(self) -> int:
        """What of `info.decoder` is in memory already, as the file is open until `frames` was called."""

    def decode_with(self, threads: int) -> None:
        """Use no more than so many threads from the next call of `frames` on."""

    def close(self) -> None:
        """Let go of what the source holds."""


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """One decoded frame."""

    pixels: NDArray[np.uint8]
    """[H, W, 3] RGB."""
    timestamp_seconds: float
    """When the frame appears."""
    source: str
    """Where it came from."""
    read_through: str | None = None
    """Why more had to be decoded to reach it than seeking would have; None if it had not."""


class OpenedVideo(ABC):
    """The common part of all sources: pictures in, batches out."""

    def __init__(self, info: VideoInfo) -> None:
        self.info = info
        self._closed = False

    @abstractmethod
    def pictures(self, times: Sequence[float]) -> Generator[Picture, None, None]:
        """Yield one picture per time (rising, in seconds); fewer where a clip was cut short."""

    def frames(self, timestamps_seconds: Sequence[float], chunk_frames: int) -> Generator[FrameBatch, None, None]:
        """Yield the frames on screen at the given times: for each, the last that appears at or before it.

        A time before the first frame gives the first frame. A clip that was cut short gives what decodes: times past
        its last frame give nothing. Frames of different sizes come in different batches.

        Args:
            timestamps_seconds: rising times of the file, in seconds; equal times give the same frame twice.
            chunk_frames: most frames in one batch.

        Raises:
            UsageError: times that fall, are negative or not finite; `chunk_frames` below 1.
            VideoError: the source is closed, or cannot be read any more.
        """
        if self._closed:
            raise VideoError(self.info.source, "is closed: open it again")
        times = [float(t) for t in timestamps_seconds]
        if not all(math.isfinite(t) and t >= 0 for t in times):
            raise UsageError("frame times must be finite and not negative")
        if any(later < earlier for earlier, later in pairwise(times)):
            raise UsageError("frame times must rise: sort them")
        if chunk_frames < 1:
            raise UsageError(f"a chunk needs at least 1 frame, not {chunk_frames}")
        return _in_batches(self.pictures(times), len(times), chunk_frames)

    @property
    def held_bytes(self) -> int:
        """Index and pictures of a file that is held open until `frames` is called."""
        return 0

    def decode_with(self, threads: int) -> None:  # noqa: B027 - what is no file has no decoder
        """Use no more than so many threads from the next call of `frames` on."""

    def close(self) -> None:
        """Refuse further use; what `frames` opened it has closed already, also when it was left half-way."""
        self._closed = True


class _Chunk:
    """Room for the next batch, allocated once its first picture tells the size."""

    def __init__(self, first: Picture, room: int) -> None:
        self._pixels = np.empty((room, *first.pixels.shape), np.uint8)  # [room, H, W, 3]
        self._times: list[float] = []
        self._sources: list[str] = []
        self._read_through: dict[str, None] = {}  # in order, each once

    def takes(self, picture: Picture) -> bool:
        return bool(picture.pixels.shape == self._pixels.shape[1:])

    def add(self, picture: Picture) -> None:
        self._pixels[len(self._times)] = picture.pixels
        self._times.append(picture.timestamp_seconds)
        self._sources.append(picture.source)
        if picture.read_through is not None:
            self._read_through[picture.read_through] = None

    @property
    def full(self) -> bool:
        return len(self._times) == len(self._pixels)

    def batch(self) -> FrameBatch:
        count = len(self._times)
        return FrameBatch(
            self._pixels[:count], np.array(self._times, np.float64), tuple(self._sources), tuple(self._read_through)
        )


def _in_batches(
    pictures: Generator[Picture, None, None], expected: int, chunk_frames: int
) -> Generator[FrameBatch, None, None]:
    chunk: _Chunk | None = None
    with closing(pictures):
        for done, picture in enumerate(pictures):
            if chunk is not None and not chunk.takes(picture):
                yield chunk.batch()
                chunk = None
            chunk = chunk or _Chunk(picture, min(chunk_frames, expected - done))
            chunk.add(picture)
            if chunk.full:
                if done + 1 == expected:
                    pictures.close()  # a decoder need not wait for the last batch to be encoded
                yield chunk.batch()
                chunk = None  # before the next chunk is allocated: one at a time
    if chunk is not None:
        yield chunk.batch()
