"""The reader: a thread that takes every frame its source gives and never waits for anybody; the newest one wins.

When the source ends or fails it is connected to anew, after half a second, then after twice as long each time, up to
ten seconds; events say so. A program's frames with times of their own may be told to wait to be looked at instead.
"""

from __future__ import annotations

from collections import deque
from contextlib import closing
from dataclasses import dataclass
from threading import Condition, Thread
from time import monotonic, time

from tam_edge.runtime.errors import TamEdgeError, VideoError
from tam_edge.runtime.live.events import EventLog, State
from tam_edge.runtime.live.sources import LiveFrame, LiveSource

FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.5, 10.0
"""Pauses before the source is tried again."""
SETTLED_SECONDS = 5.0
"""A source that stayed for so long starts with the shortest pause again."""
FIRST_FRAME_SECONDS = 20.0
"""How long the first frame may take to come."""
_LATELY = 30  # frames over which the rate is counted


@dataclass(frozen=True, slots=True, eq=False)
class Stamped:
    """A frame with its place in the stream."""

    frame: LiveFrame
    """The frame."""
    number: int
    """Counts from 1."""
    seconds: float
    """When it appeared, from the session's first frame on."""


class Reader:
    """Reads one source until it is closed."""

    def __init__(self, source: LiveSource, log: EventLog, *, waits: bool = False) -> None:
        self.source = source
        """Where the frames come from."""
        self.state: State = "reconnecting"
        """Whether frames come."""
        self.problem = ""
        """Why not."""
        self.reconnects = 0
        """How often the source came back."""
        self.dropped = 0
        """Frames that were replaced before they were taken."""
        self.started_unix = time()
        """When the first frame came."""
        self.own_clock = False
        """Whether frames bring their own times."""
        self._log = log
        self._waits = waits
        self._closing = False
        self._due = 0.0  # frames before this time need not wait
        self._changed = Condition()
        self._newest: Stamped | None = None
        self._failure: TamEdgeError | None = None  # what the last connection ended with
        self._taken = 0
        self._read = 0
        self._origin = self._arrived = 0.0
        self._lately: deque[float] = deque(maxlen=_LATELY)
        self._thread = Thread(target=self._run, name="tam-edge reader", daemon=True)

    def start(self) -> Stamped:
        """Begin to read, and return the first frame.

        Raises: VideoError if none comes.
        """
        self._thread.start()
        with self._changed:
            self._changed.wait_for(lambda: self._newest is not None or self.problem != "", FIRST_FRAME_SECONDS)
            newest = self._newest
        if newest is None:
            self.close()
            raise self._failure or VideoError(self.source.name, "gave no frame: is it the right one, and switched on?")
        return newest

    @property
    def newest(self) -> Stamped:
        """The newest frame; there is one once `start` has returned."""
        assert self._newest is not None
        return self._newest

    @property
    def fps(self) -> float:
        """Frames per second, over the last ones; 0 where none come."""
        times = list(self._lately)
        if len(times) < 2 or monotonic() - times[-1] > 5.0:
            return 0.0
        return (len(times) - 1) / max(1e-6, times[-1] - times[0])

    def now(self) -> float:
        """The session's clock: seconds from the first frame on; the newest frame's where the source has its own."""
        newest = self._newest
        if newest is None:
            return 0.0
        if self.own_clock or self.state in ("ended", "failed", "closed"):
            return newest.seconds
        return monotonic() - self._origin

    def silent_seconds(self) -> float:
        """How long no frame has come."""
        return monotonic() - self._arrived

    def take(self, due: float, timeout_seconds: float) -> Stamped | None:
        """The newest frame that has not been taken, if it appeared at or after `due`; else what comes in time."""

        def there() -> bool:
            newest = self._newest
            return self._over or (newest is not None and newest.number > self._taken and newest.seconds >= due)

        with self._changed:
            self._due = due
            self._changed.notify_all()
            self._changed.wait_for(there, timeout_seconds)
            newest = self._newest
            if newest is None or newest.number <= self._taken or newest.seconds < due:
                return None
            self.dropped += newest.number - self._taken - 1
            self._taken = newest.number
            self._changed.notify_all()
            return newest

    def close(self) -> None:
        """Stop reading; the thread may need some seconds to notice."""
        with self._changed:
            self._closing, self.state = True, "closed"
            self._changed.notify_all()
        self.source.interrupt()
        if self._thread.is_alive():
            self._thread.join(10.0)

    @property
    def _over(self) -> bool:
        return self.state in ("ended", "failed", "closed")

    def _run(self) -> None:
        pause, away_since = FIRST_PAUSE_SECONDS, monotonic()
        while not self._closing:
            connected, self._failure = monotonic(), None
            try:
                with closing(self.source.frames()) as frames:
                    for frame in frames:
                        if not self._put(frame, away_since):
                            return
            except TamEdgeError as error:
                self._failure = error
            except Exception as error:  # a library's own: the session must outlive it
                self._failure = VideoError(self.source.name, f"{type(error).__name__}: {error}")
            why = "" if self._failure is None else str(self._failure)
            if self._closing or self._finish(why):
                return
            if self.state == "live":
                away_since = monotonic()
                pause = FIRST_PAUSE_SECONDS if away_since - connected > SETTLED_SECONDS else pause
            self._lose(why or f"{self.source.name} ended", pause)
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)

    def _put(self, frame: LiveFrame, away_since: float) -> bool:
        """Make a frame the newest; False once the session is closed."""
        with self._changed:
            if self._closing:
                return False
            self._arrived = monotonic()
            self._lately.append(self._arrived)
            if self._newest is None:
                self._begin(frame)
            elif self.state == "reconnecting":
                self.reconnects += 1
                self._log.add("back", f"{self.source.name} is back after {self._arrived - away_since:.1f} s")
            self.state, self.problem = "live", ""
            seconds = (self._arrived if frame.seconds is None else frame.seconds) - self._origin
            if self._newest is not None and seconds <= self._newest.seconds:
                return True  # the clock's resolution; or a program that mixes timed and untimed frames
            self._read += 1
            self._newest = Stamped(frame, self._read, seconds)
            self._changed.notify_all()
            if self._waits and self.own_clock:
                number = self._read
                self._changed.wait_for(lambda: self._over or self._taken >= number or seconds < self._due)
            return not self._closing

    @property
    def read(self) -> int:
        """Frames read."""
        return self._read

    def _begin(self, frame: LiveFrame) -> None:
        self.started_unix = time()
        self.own_clock = frame.seconds is not None
        self._origin = self._arrived if frame.seconds is None else frame.seconds
        self._log.add("connected", f"{self.source.name} gives frames of {frame.width_px}x{frame.height_px} pixels")

    def _finish(self, why: str) -> bool:
        """Whether that was all: a source that ends, or one that never gave a frame."""
        with self._changed:
            if not self.source.ends and self._newest is not None:
                return False
            self.state, self.problem = ("failed", why) if why else ("ended", f"{self.source.name} is over")
            self._log.add("failed" if why else "ended", self.problem)
            self._changed.notify_all()
            return True

    def _lose(self, why: str, pause: float) -> None:
        with self._changed:
            first = self.state == "live"
            self.state, self.problem = "reconnecting", why
            self._log.add("lost" if first else "retrying", f"{why}; connecting again in {pause:g} s")
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._closing, pause)
