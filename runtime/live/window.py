"""The window: patch features and small pictures of the frames that were looked at, in memory taken once.

All of it is taken, and written to, when the session starts: a stream of an hour then needs what one of a minute does.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Container, Generator, Sequence
from itertools import count
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from tam_edge.runtime.frames import Picture, VideoInfo
from tam_edge.runtime.live.pictures import PICTURE_BYTES
from tam_edge.runtime.live.thinning import let_go, past
from tam_edge.runtime.view import SeenVideo
from tam_edge.runtime.vision import PatchFeatures

_numbers = count(1)


class Window:
    """What is kept of a stream. Times are seconds of the session."""

    def __init__(self, frames: int, horizon_seconds: float, feature_shape: tuple[int, int], encoder: str) -> None:
        """Take the memory for so many `frames` with features of `feature_shape` [S * S, D]."""
        self.horizon_seconds = horizon_seconds
        """How far back can be asked."""
        self.most_frames = frames
        """How many frames there is room for."""
        self.encoder = encoder
        """Name of the encoder that made the features."""
        self._features = np.empty((frames + 1, *feature_shape), np.float32)
        self._pictures = np.empty((frames + 1, PICTURE_BYTES), np.uint8)
        self._features.fill(0)
        self._pictures.fill(0)
        self._lengths = [0] * (frames + 1)
        self._times: list[float] = []
        self._places: list[int] = []
        self._free = list(range(frames + 1))
        self._lock = Lock()

    def add(self, seconds: float, features: NDArray[np.float32], picture: bytes) -> None:
        """Keep a frame that is newer than all others; older ones are let go of as they have to be."""
        with self._lock:
            place = self._free.pop()
            self._features[place] = features
            self._pictures[place, : len(picture)] = np.frombuffer(picture, np.uint8)
            self._lengths[place] = len(picture)
            self._times.append(seconds)
            self._places.append(place)
            for _ in range(past(self._times, seconds, self.horizon_seconds)):
                self._drop(0)
            if len(self._times) > self.most_frames:
                self._drop(let_go(self._times, seconds))

    def times(self, since: float = 0.0, until: float = float("inf")) -> tuple[float, ...]:
        """When the frames from `since` to `until` appeared, rising."""
        with self._lock:
            return tuple(self._times[bisect_left(self._times, since) : bisect_right(self._times, until)])

    def features(self, seconds: float) -> NDArray[np.float32]:
        """[1, S * S, D] of the frame of that very time, good until the next `add`.

        Raises: KeyError if it was let go of.
        """
        with self._lock:
            place = self._place(seconds)
            return self._features[place : place + 1]

    def picture(self, seconds: float) -> bytes:
        """The frame of that very time as a small JPEG.

        Raises: KeyError if it was let go of.
        """
        with self._lock:
            place = self._place(seconds)
            return self._pictures[place, : self._lengths[place]].tobytes()

    def _place(self, seconds: float) -> int:
        at = bisect_left(self._times, seconds)
        if at == len(self._times) or self._times[at] != seconds:
            raise KeyError(seconds)
        return self._places[at]

    def _drop(self, at: int) -> None:
        del self._times[at]
        self._free.append(self._places.pop(at))


class WindowVideo(SeenVideo):
    """What a window held when a question came, as a video: its frames are looked at by their features alone."""

    def __init__(self, window: Window, name: str, since: float, until: float, size_px: tuple[int, int]) -> None:
        """Take the frames from `since` to `until`, of which there is at least one; `size_px` is height and width."""
        times = window.times(since, until)
        info = VideoInfo(
            source=name,
            kind="frames",
            duration_seconds=until - since,
            frame_count=None,
            width_px=size_px[1],
            height_px=size_px[0],
            average_fps=None,
            codec=None,
            identity=f"live window {next(_numbers)}",
            start_seconds=since,
            times_seconds=times,
        )
        super().__init__(info, _WindowFeatures(window, name))

    def pictures(self, times: Sequence[float]) -> Generator[Picture, None, None]:
        """Never called: every frame's features are there."""
        raise AssertionError("frames of a live window are not decoded again")
        yield


class _WindowFeatures:
    """A window as `look` takes patch features from it."""

    def __init__(self, window: Window, name: str) -> None:
        self.hits = 0
        self._window = window
        self._name = name

    def get(self, identity: str, time_seconds: float, encoder: str) -> PatchFeatures | None:
        """Features [1, S * S, D] of the frame at that very time."""
        if encoder != self._window.encoder:
            return None
        values = self._window.features(time_seconds)
        self.hits += 1
        return PatchFeatures(values, np.array([time_seconds]), (self._name,), encoder)

    def lacking(self, identity: str, times: Sequence[float], encoder: str) -> tuple[float, ...]:
        """None of them."""
        return ()

    def put(self, identity: str, time_seconds: float, frame: PatchFeatures, keep: Container[float] = ()) -> None:
        """Nothing: the window holds them all."""

    def forget(self, identity: str) -> None:
        """Nothing: the window lets go by itself."""
