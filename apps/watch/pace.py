"""When a check is due: by the clock on the wall, or, for frames faster than real time, by their own.

`Paced` stands between such frames and the session: a frame that is later than a check waits until that was made. So
checks see what they would have seen in real time, however fast the device is.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from threading import Condition
from time import monotonic, sleep, time
from typing import Any, Protocol

from tam_edge.runtime.live.session import Live

OVER = frozenset({"ended", "failed", "closed"})
"""States of a session that sees nothing more."""
_SETTLE_SECONDS, _POLL_SECONDS = 0.5, 0.002


class Pace(Protocol):
    """Says when to check. Times are seconds since about the first frame."""

    def wait(self, live: Live, due: float, timeout_seconds: float) -> bool:
        """Wait until `due`, at most for so long; whether it has come and there is something to check."""

    def now(self) -> float:
        """The time."""

    def unix(self, live: Live, noted: float | None = None) -> float:
        """The same as `time.time()` counts; for what a session `noted` at a time of day, when that was."""


class WallClock:
    """Real time."""

    def __init__(self) -> None:
        self._start = monotonic()

    def wait(self, live: Live, due: float, timeout_seconds: float) -> bool:
        """Wait until `due`, at most for so long; whether it has come and the source is not over."""
        sleep(max(0.0, min(timeout_seconds, due - self.now())))
        return self.now() >= due and live.status.state not in OVER

    def now(self) -> float:
        """Seconds since this was made."""
        return monotonic() - self._start

    def unix(self, live: Live, noted: float | None = None) -> float:
        """The time of day."""
        return time() if noted is None else noted


class Paced:
    """Frames with rising times of their own, let through as far as checks have come: give it to `VideoQA.live`."""

    def __init__(self, frames: Iterable[tuple[Any, float]]) -> None:
        """Take pairs of a frame and its seconds."""
        self._frames = frames
        self._origin: float | None = None
        self._next = self._let_through = 0.0
        self._due: float | None = None
        self._stopped = False
        self._changed = Condition()

    def __iter__(self) -> Iterator[tuple[Any, float]]:
        """Yield each frame once the checks before it were made."""
        try:
            for pixels, seconds in self._frames:
                if not self._pass(float(seconds)):
                    return
                yield pixels, seconds
        finally:
            with self._changed:
                self._next = math.inf
                self._changed.notify_all()

    def wait(self, live: Live, due: float, timeout_seconds: float) -> bool:
        """Let frames up to `due` through, and wait until they were looked at; whether a check is due."""
        with self._changed:
            self._due = due
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._next > due, timeout_seconds)
            if self._next <= due:
                return False
        _settle(live)
        return self._let_through >= due or not math.isinf(self._next)

    def now(self) -> float:
        """Seconds from the first frame to the check that is due; those that frames have come to at their end."""
        due = self._let_through if self._due is None else self._due
        return min(due, self._let_through) if math.isinf(self._next) else due

    def unix(self, live: Live, noted: float | None = None) -> float:
        """The same, counted on from when the first frame came."""
        return live.status.started_seconds + self.now()

    def stop(self) -> None:
        """Let nothing more through; call it before the session is closed, which waits for its reader."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    def _pass(self, seconds: float) -> bool:
        with self._changed:
            self._origin = seconds if self._origin is None else self._origin
            at = seconds - self._origin
            self._next = at
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._stopped or at == 0 or (self._due is not None and at <= self._due))
            self._let_through = at
            return not self._stopped


def _settle(live: Live) -> None:
    """Wait until what was let through was looked at; frames that come faster than is looked never all are."""
    end = monotonic() + _SETTLE_SECONDS
    while monotonic() < end:
        status = live.status
        if status.state == "failed" or status.frames_seen + status.frames_dropped >= status.frames_read:
            return
        sleep(_POLL_SECONDS)
