"""What is looked at, and who may see it and ask: everybody the device's source, a visitor only the own webcam."""

from __future__ import annotations

import hmac
import secrets
from abc import ABC, abstractmethod
from collections.abc import Callable
from threading import Lock, Thread
from time import monotonic
from typing import ClassVar

from tam_edge.apps.live.limits import LiveLimits
from tam_edge.apps.live.pictures import pixels_of
from tam_edge.apps.live.visitor import VisitorCamera
from tam_edge.apps.web.problem import ServeError, problem_of
from tam_edge.runtime.live.session import Live
from tam_edge.runtime.session import VideoQA

STARTING = "starting"
"""What a visitor's session does until its first frame was looked at."""
NO_SEAT = "no_seat"
"""The page's seat is not its own any more: it may take one again, later where the status is not 409."""


class Sight(ABC):
    """Gives the live session to those who may see it."""

    of_visitor: ClassVar[bool]
    """Whether frames come from a visitor's page."""

    @abstractmethod
    def live(self, seat: str) -> Live:
        """The session, for who holds this seat.

        Raises: ServeError.
        """

    @abstractmethod
    def stop(self) -> None:
        """Let nothing wait for a frame any more; any thread may say so."""


class DeviceSight(Sight):
    """The device's own source, for everybody who may ask at all."""

    of_visitor: ClassVar[bool] = False

    def __init__(self, live: Live) -> None:
        self._live = live

    def live(self, seat: str) -> Live:
        """The session, whatever the seat."""
        return self._live

    def stop(self) -> None:
        """The source ends with its session."""


class Sitting:
    """One visitor's time in front of the camera."""

    def __init__(self, silent_seconds: float) -> None:
        self.seat = secrets.token_urlsafe(16)
        """What the visitor's page shows to be known."""
        self.camera = VisitorCamera(silent_seconds)
        """What it sends."""
        self.live: Live | None = None
        """The session, from its first frame on."""
        self.over = False
        """Whether the seat is free again."""
        self.problem: ServeError | None = None
        """Why there is no session."""
        self._decoding = Lock()

    def look(self, data: bytes, most_pixels: int) -> None:
        """Take a JPEG, one at a time.

        Raises: ServeError 413 or 422.
        """
        arrived_seconds = monotonic()
        with self._decoding:
            self.camera.put(pixels_of(data, most_pixels), arrived_seconds)


class VisitorSight(Sight):
    """One seat in front of a webcam; nobody else sees what it shows, and nothing of it is left for the next one."""

    of_visitor: ClassVar[bool] = True

    def __init__(self, qa: VideoQA, horizon: float | str, limits: LiveLimits, left: Callable[[], None]) -> None:
        """`left` is called when a visitor goes, to stop what is being answered."""
        self._qa, self._horizon, self._limits, self._left = qa, horizon, limits, left
        self._lock = Lock()
        self._sitting: Sitting | None = None  # stays after its end, to say why it ended
        self._thread: Thread | None = None

    def take(self) -> str:
        """Take the seat, and return what shows that one has it.

        Raises: ServeError 409 while somebody else has it.
        """
        with self._lock:
            if self._sitting is not None and not self._sitting.over:
                text = "another visitor's camera is being looked at: wait until it is free"
                raise ServeError(409, text, code="seat_taken")
            self._sitting = Sitting(self._limits.silent_seconds)
            self._thread = Thread(target=self._sit, args=(self._sitting,), name="tam-edge visitor", daemon=True)
            self._thread.start()
            return self._sitting.seat

    def frame(self, seat: str, data: bytes) -> None:
        """Take a frame, a JPEG.

        Raises: ServeError 409 without the seat, 413 or 422 for a bad one; what starting the session failed with.
        """
        self._held(seat).look(data, self._limits.frame_pixels)

    def leave(self, seat: str) -> None:
        """Give the seat up.

        Raises: ServeError 409 without it.
        """
        self._held(seat).camera.interrupt()

    def live(self, seat: str) -> Live:
        """The session of the visitor who holds the seat.

        Raises: ServeError 409 without it, 503 before the first frame was looked at.
        """
        live = self._held(seat).live
        if live is None:
            text = "no frame of your camera was looked at yet: try again in a moment"
            raise ServeError(503, text, code=STARTING, retry_after_seconds=1)
        return live

    def stop(self) -> None:
        """Send the visitor away, and wait until the session is closed."""
        if self._sitting is not None:
            self._sitting.camera.interrupt()
        if self._thread is not None:
            self._thread.join()

    def _held(self, seat: str) -> Sitting:
        sitting = self._sitting
        if sitting is not None and hmac.compare_digest(sitting.seat.encode(), seat.encode()):
            if sitting.problem is not None:  # a new object: one that is raised again and again keeps every frame
                raise ServeError(sitting.problem.status, str(sitting.problem), code=NO_SEAT)
            if not sitting.over:
                return sitting
        raise ServeError(409, "this page's camera is not looked at any more: start it again", code=NO_SEAT)

    def _sit(self, sitting: Sitting) -> None:
        """From a visitor's first frame to the last, in a thread of its own."""
        try:
            try:
                with self._qa.live(sitting.camera, horizon=self._horizon) as live:
                    sitting.live = live
                    sitting.camera.wait_until_gone()
                    self._left()
            finally:
                sitting.live = None
                self._qa.forget()  # what the next visitor asks is not answered with what this one showed
        except Exception as error:
            sitting.problem = problem_of(error)
        finally:
            sitting.over = True
