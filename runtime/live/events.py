"""What a live session says about itself: events as they happen, and its status at a glance."""

from __future__ import annotations

from collections import deque
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from threading import Condition
from time import time
from typing import Any, Literal

from tam_edge.runtime.plan import Rejection

EVENTS_KEPT = 256
"""Older ones are forgotten."""
State = Literal["live", "reconnecting", "ended", "failed", "closed"]
"""Frames come; the source is away and tried again; it is over; looking or reading failed for good; it was closed."""
EventKind = Literal["connected", "lost", "retrying", "back", "ended", "failed", "memory", "closed"]


@dataclass(frozen=True, slots=True)
class LiveEvent:
    """Something that happened to a live session."""

    number: int
    """Counts from 1."""
    time_seconds: float
    """When, as `time.time()` counts."""
    kind: EventKind
    """What."""
    text: str
    """In plain English, one line."""

    def to_json(self) -> dict[str, Any]:
        """A JSON value."""
        return asdict(self) | {"time": iso(self.time_seconds)}


@dataclass(frozen=True, slots=True)
class LiveStatus:
    """A live session at a glance."""

    source: str
    """What frames come from; passwords are left out."""
    state: State
    """Whether frames come."""
    problem: str
    """Why not, where they do not."""
    started_seconds: float
    """When the first frame came, as `time.time()` counts; a source with times of its own counts on from there."""
    newest_seconds: float
    """When the newest frame appeared, in the same way."""
    frames_read: int
    """Frames that the source gave."""
    frames_seen: int
    """Frames that were looked at."""
    frames_dropped: int
    """Frames that a newer one replaced before they were looked at."""
    frames_kept: int
    """Frames in the window."""
    frames_most: int
    """Frames that the window has room for."""
    kept_from_seconds: float | None
    """When the oldest kept frame appeared; None before the first."""
    horizon_seconds: float
    """How far back the window reaches when it is full."""
    read_fps: float
    """Frames per second that the source gives, lately."""
    seen_fps: float
    """Frames per second that are looked at, lately."""
    look_ms: float
    """What looking at one frame takes, lately."""
    reconnects: int
    """How often the source came back."""
    questions_waiting: int
    """Questions that wait for their turn."""
    questions_answered: int
    """Questions that were answered to the end."""
    window_bytes: int
    """What the window holds, all of it taken at the start."""
    resident_bytes: int
    """Resident set of the process now."""
    memory_limit_bytes: int
    """The ceiling on it."""
    given_up: tuple[Rejection, ...] = ()
    """What the ceiling did not leave room for."""

    def to_json(self) -> dict[str, Any]:
        """A JSON value."""
        return asdict(self)


class EventLog:
    """The newest events; threads may wait for one."""

    def __init__(self) -> None:
        self._events: deque[LiveEvent] = deque(maxlen=EVENTS_KEPT)
        self._count = 0
        self._changed = Condition()

    def add(self, kind: EventKind, text: str) -> None:
        """Note that something happened now."""
        with self._changed:
            self._count += 1
            self._events.append(LiveEvent(self._count, time(), kind, " ".join(text.split())))
            self._changed.notify_all()

    def after(self, number: int = 0, timeout_seconds: float = 0.0) -> tuple[LiveEvent, ...]:
        """Events with a larger number; if there is none yet, those that come within the timeout."""
        with self._changed:
            self._changed.wait_for(lambda: self._count > number, timeout_seconds)
            return tuple(event for event in self._events if event.number > number)


def iso(time_seconds: float) -> str:
    """A Unix time as ISO 8601 in UTC, to the millisecond."""
    text = datetime.fromtimestamp(time_seconds, timezone.utc).isoformat(timespec="milliseconds")
    return text.replace("+00:00", "Z")
