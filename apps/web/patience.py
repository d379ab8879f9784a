"""Work that nobody waits for any more stops: before the next question, and between words."""

from __future__ import annotations

import asyncio
import threading
from time import perf_counter
from typing import Generic, TypeVar

Event = TypeVar("Event")


class AbandonedError(Exception):
    """Whoever asked has gone."""


class Patience:
    """Whether somebody still waits for an answer; any thread may ask or say."""

    def __init__(self) -> None:
        self._gone = threading.Event()

    @property
    def gone(self) -> bool:
        """Whether nobody waits."""
        return self._gone.is_set()

    def leave(self) -> None:
        """Say that nobody waits any more."""
        self._gone.set()

    def check(self) -> None:
        """Go on only while somebody waits.

        Raises: AbandonedError.
        """
        if self.gone:
            raise AbandonedError


class Told(Generic[Event]):
    """Whoever asked, in the loop of a server, and is told from a thread what becomes of it."""

    def __init__(self) -> None:
        """Use it in the loop of whoever asks."""
        self.patience = Patience()
        """Whether somebody waits."""
        self.events = asyncio.Queue[Event]()
        """What becomes of it."""
        self._loop = asyncio.get_running_loop()
        self._since = perf_counter()

    def tell(self, event: Event) -> None:
        """Say from any thread what became of it."""
        try:
            self._loop.call_soon_threadsafe(self.events.put_nowait, event)
        except RuntimeError:  # the loop has ended, and so has everybody who could listen
            self.patience.leave()

    @property
    def age_ms(self) -> float:
        """Since it was asked."""
        return 1000 * (perf_counter() - self._since)
