"""Do one thing ahead of what uses it: a worker thread makes the next item while its consumer works on this one.

Engines and decoders let go of Python's lock while they work, so two of them run at once where there are two cores.
Never more than one item is ready and not taken. Whatever ends the consumer (its own error, Ctrl-C, a stream that nobody
reads on) stops the worker, which is waited for: no thread is left.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from itertools import islice
from queue import SimpleQueue
from typing import Generic, NamedTuple, TypeVar

T = TypeVar("T")

_here = threading.local()  # in a worker: whether it is told to stop


class Stopped(BaseException):
    """Raised in a worker whose consumer has gone; it never leaves the worker."""


class _Made(NamedTuple, Generic[T]):
    items: tuple[T, ...]  # the next one, or none at the end
    error: BaseException | None


def check_wanted() -> None:
    """End the work of a worker whose consumer has gone; elsewhere nothing happens. Long work calls it now and then.

    Raises: Stopped.
    """
    told: threading.Event | None = getattr(_here, "told_to_stop", None)
    if told is not None and told.is_set():
        raise Stopped


class Ahead(Iterator[T]):
    """Items made by a worker, one ahead of the consumer, beginning now. Close it: `contextlib.closing` fits.

    Errors of the worker are raised at the consumer, in their place among the items.
    """

    def __init__(self, items: Generator[T, None, None], unused: Callable[[T], None] = lambda _: None) -> None:
        """Begin with the first of `items`; what is made and never taken is given to `unused`."""
        self._asked = threading.Semaphore(1)  # items that may be made
        self._made = SimpleQueue[_Made[T]]()
        self._told_to_stop = threading.Event()
        self._unused = unused
        self._ended = False
        self._worker = threading.Thread(target=self._work, args=(items,), name="tam-edge-ahead", daemon=True)
        try:
            self._worker.start()
        except BaseException:  # Ctrl-C may come when it runs already
            self.close()
            raise

    def __next__(self) -> T:
        """Return the next item, and let the one after it be made.

        Raises: whatever making it raised.
        """
        if self._ended:
            raise StopIteration
        made = self._made.get()
        if made.items:
            self._asked.release()
            return made.items[0]
        self.close()
        if made.error is None:
            raise StopIteration
        raise made.error

    def close(self) -> None:
        """Stop the worker and wait until it has closed what it works on; closing twice is fine."""
        self._ended = True
        self._told_to_stop.set()
        self._asked.release()
        if self._worker.ident is not None and self._worker is not threading.current_thread():
            self._worker.join()
        while not self._made.empty():
            for item in self._made.get().items:
                self._unused(item)

    def _work(self, items: Generator[T, None, None]) -> None:
        _here.told_to_stop = self._told_to_stop
        error: BaseException | None = None
        try:
            with closing(items):
                while self._next_wanted() and (made := tuple(islice(items, 1))):
                    self._made.put(_Made(made, None))
                    del made  # or it would stay in memory while the next one is made
        except Stopped:
            pass
        except BaseException as raised:  # it belongs to the consumer
            error = raised
        self._made.put(_Made((), error))

    def _next_wanted(self) -> bool:
        self._asked.acquire()
        return not self._told_to_stop.is_set()
