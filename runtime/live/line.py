"""The line in which questions wait: one is answered at a time, the others in the order they came, and not too many."""

from __future__ import annotations

from collections import deque
from threading import Condition

from tam_edge.runtime.errors import BusyError, UsageError


class Place:
    """A place in the line; first in it, its question is answered. Leaving twice is fine."""

    def __init__(self, line: Line) -> None:
        self._line = line

    def leave(self) -> None:
        """Let the next one come."""
        self._line.leave(self)


class Line:
    """Places of the question that is being answered and of those behind it."""

    def __init__(self, most_waiting: int, patience_seconds: float) -> None:
        self._most = most_waiting
        self._patience = patience_seconds
        self._places: deque[Place] = deque()
        self._closed = False
        self._changed = Condition()

    @property
    def waiting(self) -> int:
        """Questions that wait."""
        return max(0, len(self._places) - 1)

    @property
    def busy(self) -> bool:
        """Whether a question is being answered."""
        return bool(self._places)

    def enter(self) -> Place:
        """Wait until it is this question's turn.

        Raises: BusyError if too many wait already, or it takes too long; UsageError once the line is closed.
        """
        with self._changed:
            if len(self._places) > self._most:
                raise BusyError(f"{self.waiting} questions are waiting already: ask again later")
            place = Place(self)
            self._places.append(place)
            try:
                first = self._changed.wait_for(lambda: self._closed or self._places[0] is place, self._patience)
                if self._closed:
                    raise UsageError("the live session is closed: start another one")
                if not first:
                    raise BusyError(f"waited {self._patience:g} s behind other questions: ask again later")
            except BaseException:
                self.leave(place)
                raise
            return place

    def leave(self, place: Place) -> None:
        """Give a place up."""
        with self._changed:
            if place in self._places:
                self._places.remove(place)
                self._changed.notify_all()

    def close(self) -> None:
        """Send everybody away."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
