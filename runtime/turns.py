"""Turns at the engines: threads get them in the order in which they came, each for one step of work.

Python's own locks let the thread that has just released one take it again at once, so a camera's looking would starve
beside an answer that is written piece by piece, or the other way round.
"""

from __future__ import annotations

from collections import deque
from threading import Condition, get_ident
from types import TracebackType


class Turns:
    """A lock that is fair, first come first served, and that its holder may take again. A context manager."""

    def __init__(self) -> None:
        self._changed = Condition()
        self._line: deque[object] = deque()
        self._holder: int | None = None
        self._depth = 0

    @property
    def mine(self) -> bool:
        """Whether this thread has the turn."""
        return self._holder == get_ident()

    def __enter__(self) -> Turns:
        if not self.mine:
            with self._changed:
                place = object()
                self._line.append(place)
                try:
                    self._changed.wait_for(lambda: self._holder is None and self._line[0] is place)
                    self._holder = get_ident()
                finally:  # also where a Ctrl-C ends the waiting
                    self._line.remove(place)
                    self._changed.notify_all()
        self._depth += 1
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._depth -= 1
        if self._depth == 0:
            with self._changed:
                self._holder = None
                self._changed.notify_all()
