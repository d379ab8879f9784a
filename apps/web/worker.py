"""The queue in front of the runtime, and the one thread that answers: it takes one question at a time.

Events go to the loop of whoever asked. Nothing here waits for a client: a slow one costs a few words of memory.
"""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Callable
from time import perf_counter
from typing import Any, Generic, TypeVar

from tam_edge.apps.web.patience import AbandonedError, Told
from tam_edge.apps.web.problem import ServeError, problem_of

_LONGEST_RETRY_SECONDS = 60
AnyJob = TypeVar("AnyJob", bound=Told[Any])


class Worker(Generic[AnyJob]):
    """Answers questions one after the other, in a thread of its own."""

    def __init__(
        self,
        answer: Callable[[AnyJob], Any],
        most_waiting: int,
        *,
        on_end: Callable[[AnyJob, Any], None] = lambda job, event: None,
    ) -> None:
        """Start the thread; it calls `answer`, which tells of pieces and returns the last event.

        `on_end` hears there how each job ended: the last event, a `ServeError`, or None where it was abandoned.
        """
        self._answer = answer
        self._most_waiting = most_waiting
        self._on_end = on_end
        self._queue: deque[AnyJob] = deque()
        self._changed = threading.Condition()
        self._running: AnyJob | None = None
        self._closing = False
        self._usual_seconds = 1.0  # per question, a moving average
        self._thread = threading.Thread(target=self._run, name="tam-edge answers", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Questions in the queue."""
        with self._changed:
            return len(self._queue)

    @property
    def busy(self) -> bool:
        """Whether a question is being answered."""
        return self._running is not None

    def check_room(self) -> None:
        """Refuse a question for which there would be no room now, before its body is read.

        Raises: ServeError 503.
        """
        with self._changed:
            self._check_room()

    def submit(self, job: AnyJob) -> None:
        """Queue a question.

        Raises: ServeError 503 where the queue is full, or the server shuts down.
        """
        with self._changed:
            self._check_room()
            self._queue.append(job)
            self._changed.notify()

    def leave(self, job: AnyJob) -> None:
        """Nobody waits for this one any more: it gives its place up now, and what is done for it stops."""
        job.patience.leave()
        with self._changed:
            if job not in self._queue:
                return
            self._queue.remove(job)
        self._on_end(job, None)
        job.tell(_left())

    def leave_all(self) -> None:
        """Nobody waits for any of them any more."""
        with self._changed:
            jobs = [*self._queue, *([self._running] if self._running else [])]
        for job in jobs:
            self.leave(job)

    def close(self) -> None:
        """Stop: what is being answered is left, what waits is told."""
        with self._changed:
            self._closing = True
            left, running = list(self._queue), self._running
            self._queue.clear()
            self._changed.notify()
        for job in left:
            job.tell(_ending())
        if running is not None:
            running.patience.leave()
        self._thread.join()

    def _check_room(self) -> None:
        if self._closing:
            raise _ending()
        if len(self._queue) >= self._most_waiting:
            seconds = math.ceil(self._usual_seconds * (len(self._queue) + 1))
            text = f"{len(self._queue)} questions are waiting already: try again later"
            raise ServeError(503, text, code="busy", retry_after_seconds=max(1, min(seconds, _LONGEST_RETRY_SECONDS)))

    def _run(self) -> None:
        while True:
            with self._changed:
                self._running = None
                self._changed.wait_for(lambda: self._queue or self._closing)
                if self._closing:
                    return
                job = self._running = self._queue.popleft()
            since = perf_counter()
            event = self._ended(job)
            self._usual_seconds += 0.2 * (perf_counter() - since - self._usual_seconds)
            self._on_end(job, event)
            job.tell(_left() if event is None else event)
            del job, event  # or what they hold would stay in memory until the next question

    def _ended(self, job: AnyJob) -> Any:
        try:
            job.patience.check()
            return self._answer(job)
        except AbandonedError:
            return None
        except Exception as error:  # the thread outlives whatever a question does to it
            return problem_of(error)


def _left() -> ServeError:
    return ServeError(503, "the answer was stopped before its end", code="stopped")


def _ending() -> ServeError:
    return ServeError(503, "the server is shutting down", code="shutting_down")
