"""Frames that a program holds in memory already, with the times at which they appear."""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Generator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tam_edge.runtime.clock import ROUNDING_SECONDS
from tam_edge.runtime.errors import UsageError
from tam_edge.runtime.frames import OpenedVideo, Picture, VideoInfo

_NAME = "frames in memory"


@dataclass(frozen=True, slots=True, eq=False)
class FramesInMemory:
    """A source made of arrays: decoded elsewhere, rendered, or grabbed from a robot's camera."""

    pixels: Sequence[NDArray[np.uint8]] | NDArray[np.uint8]
    """[N, H, W, 3] uint8 RGB, or N arrays [H, W, 3] of one size; not copied, so leave them as they are."""
    timestamps_seconds: Sequence[float] | NDArray[np.float64]
    """[N] when each frame appears: rising, not negative. Answers use these times."""

    def __post_init__(self) -> None:
        """Refuse what cannot be shown.

        Raises:
            UsageError: no frames, another shape or type, or times that do not fit.
        """
        if len(self.pixels) == 0 or len(self.pixels) != len(self.timestamps_seconds):
            raise UsageError(f"{len(self.pixels)} frames with {len(self.timestamps_seconds)} times: give one time each")
        for frame in self.pixels:
            if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3 or 0 in frame.shape:
                raise UsageError(f"a frame is {frame.dtype} {list(frame.shape)}: give uint8 [height, width, 3] RGB")
            if frame.shape != self.pixels[0].shape:
                raise UsageError("frames in memory have different sizes: give frames of one size")
        times = np.asarray(self.timestamps_seconds, np.float64)
        if not np.isfinite(times).all() or times[0] < 0 or (np.diff(times) <= 0).any():
            raise UsageError("times of frames in memory must be finite, not negative, and rise")


class MemoryVideo(OpenedVideo):
    """`FramesInMemory`, opened."""

    def __init__(self, frames: FramesInMemory) -> None:
        """Hash the frames, so that the same ones are recognised again."""
        self._frames = frames
        self._times = [float(t) for t in frames.timestamps_seconds]
        height, width, _ = frames.pixels[0].shape
        count, span = len(self._times), self._times[-1] - self._times[0]
        super().__init__(
            VideoInfo(
                source=_NAME,
                kind="frames",
                duration_seconds=span * count / (count - 1) if count > 1 else 0.0,  # the last one stays as long
                frame_count=count,
                width_px=width,
                height_px=height,
                average_fps=(count - 1) / span if count > 1 else None,
                codec=None,
                identity=_digest(frames),
                start_seconds=self._times[0],
            )
        )

    def pictures(self, times: Sequence[float]) -> Generator[Picture, None, None]:
        """Yield the frame on screen at each time."""
        for seconds in times:
            at = max(0, bisect_right(self._times, seconds + ROUNDING_SECONDS) - 1)
            yield Picture(self._frames.pixels[at], self._times[at], self.info.source)


def _digest(frames: FramesInMemory) -> str:
    digest = hashlib.blake2b(np.asarray(frames.timestamps_seconds, np.float64).tobytes(), digest_size=16)
    for frame in frames.pixels:
        digest.update(repr(frame.shape).encode())
        digest.update(np.ascontiguousarray(frame).data)
    return digest.hexdigest()
