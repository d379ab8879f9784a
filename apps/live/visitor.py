"""A visitor's webcam as a live source: the page sends frames, the newest one wins."""

from __future__ import annotations

from collections.abc import Generator
from threading import Condition
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from tam_edge.runtime.live.sources import LiveFrame, LiveSource


class VisitorCamera(LiveSource):
    """What one visitor's page sends. It is over when the visitor goes, or is silent for too long."""

    ends: ClassVar[bool] = True

    def __init__(self, silent_seconds: float) -> None:
        super().__init__("your camera")
        self._silent_seconds = silent_seconds
        self._newest: LiveFrame | None = None
        self._gone = False
        self._changed = Condition()

    def put(self, pixels: NDArray[np.uint8], seconds: float) -> None:
        """Take a frame, [H, W, 3] uint8 RGB, that arrived at `seconds` of a clock that rises."""
        height, width, _ = pixels.shape
        with self._changed:
            self._newest = LiveFrame(lambda: pixels, height, width, seconds)
            self._changed.notify_all()

    def frames(self) -> Generator[LiveFrame, None, None]:
        """Yield frames as they come, without those that were replaced meanwhile."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._gone or self._newest is not None, self._silent_seconds)
                frame, self._newest = self._newest, None
                if self._gone or frame is None:
                    self._go()
                    return
            yield frame

    def interrupt(self) -> None:
        """The visitor goes."""
        with self._changed:
            self._go()

    def wait_until_gone(self) -> None:
        """Return when the visitor has gone."""
        with self._changed:
            self._changed.wait_for(lambda: self._gone)

    def _go(self) -> None:
        self._gone = True
        self._changed.notify_all()
