"""Frames that a program makes or grabs itself: any iterable of frames, or of frames with their times."""

from __future__ import annotations

import math
from collections.abc import Generator, Iterable
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from tam_edge.runtime.errors import VideoError
from tam_edge.runtime.live.sources import LiveFrame, LiveSource


class Drawn(LiveSource):
    """An iterable of [H, W, 3] uint8 RGB arrays, or of pairs (array, seconds) with rising seconds."""

    ends: ClassVar[bool] = True

    def __init__(self, frames: Iterable[Any], name: str = "the program's frames") -> None:
        """Take the iterable and what to call it; nothing is drawn from it yet."""
        super().__init__(name)
        self._frames = frames

    def frames(self) -> Generator[LiveFrame, None, None]:
        """Yield what the iterable does; what it raises ends it."""
        last = -math.inf
        try:
            for item in self._frames:
                pixels, seconds = item if isinstance(item, tuple) and len(item) == 2 else (item, None)
                frame = self._checked(pixels, seconds, last)
                last = last if frame.seconds is None else frame.seconds
                yield frame
        except VideoError:
            raise
        except Exception as error:
            raise VideoError(self.name, f"drawing the next one raised {type(error).__name__}: {error}") from error

    def _checked(self, pixels: NDArray[np.uint8], seconds: Any, last: float) -> LiveFrame:
        if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
            what = f"{pixels.dtype} {list(pixels.shape)}" if isinstance(pixels, np.ndarray) else type(pixels).__name__
            raise VideoError(self.name, f"one is {what}: give uint8 [height, width, 3] RGB, or (frame, seconds)")
        height, width, _ = pixels.shape
        kept = pixels.copy()  # the program may use its array again
        if seconds is None:
            return LiveFrame(lambda: kept, height, width)
        seconds = float(seconds)
        if not math.isfinite(seconds) or seconds <= last:
            raise VideoError(self.name, f"one at {seconds:g} s comes after one at {last:g} s: times must rise")
        return LiveFrame(lambda: kept, height, width, seconds)
