"""The queue in front of the runtime, and the one thread that answers: it takes one question at a time.

Events go to the loop of whoever asked. Nothing here waits for a client: a slow one costs a few words of memory.
"""

from __future__ import annotations

import logging
import math
import threading
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

from tam_edge.apps.serve.abandon import WatchedVideo
from tam_edge.apps.serve.limits import ServeLimits
from tam_edge.apps.web.patience import AbandonedError, Told
from tam_edge.apps.web.problem import ServeError, problem_of
from tam_edge.runtime.answer import Answer
from tam_edge.runtime.frames import Video, VideoInfo
from tam_edge.runtime.plan import Plan, Rejection
from tam_edge.runtime.session import VideoQA

_LONGEST_RETRY_SECONDS = 60
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Question:
    """What a request asks, with everything it needs at hand."""

    paths: tuple[Path, ...]
    """What is looked at, in order."""
    names: Mapping[str, str]
    """What the client calls each path."""
    text: str
    """The question."""
    history: tuple[tuple[str, str], ...] = ()
    """Earlier questions with their answers."""
    left_out: tuple[Rejection, ...] = ()
    """What of the request has no effect, and why."""
    max_tokens: int | None = None
    """Longest answer; None: the bundle's."""
    temperature: float = 0.0
    """0 is greedy."""
    seed: int = 0
    """Seed of the draws."""
    stop: tuple[str, ...] = ()
    """Texts that end the answer."""
    deadline: str | None = None
    """Most time until the first word."""
    strategy: str | None = None
    """How frames become tokens."""
    frames: int | None = None
    """Number of frames by hand."""
    grid: int | None = None
    """Grid by hand."""
    start_seconds: float | None = None
    """Look at nothing before this."""
    end_seconds: float | None = None
    """Look at nothing after this."""


@dataclass(frozen=True, slots=True)
class Words:
    """A piece of the answer, with the plan it follows from."""

    text: str
    """The piece."""
    plan: Plan
    """What is looked at."""


@dataclass(frozen=True, slots=True)
class Finished:
    """The whole answer."""

    answer: Answer
    """The runtime's."""
    waited_ms: float
    """In the queue."""
    opened_ms: float
    """Opening the pictures and videos."""


Event = Words | Finished | ServeError


class Job(Told[Event]):
    """A question in the queue, or being answered; a `Finished` or a `ServeError` is the last event."""

    def __init__(self, question: Question) -> None:
        """Use it in the loop of whoever asks."""
        super().__init__()
        self.question = question
        """What is asked."""


class Worker:
    """Answers questions one after the other, in a thread of its own."""

    def __init__(self, qa: VideoQA, limits: ServeLimits, *, on_end: Callable[[Job, Event | None], None]) -> None:
        """Start the thread; `on_end` hears there how each job ended, None where it was abandoned."""
        self._qa = qa
        self._limits = limits
        self._on_end = on_end
        self._queue: deque[Job] = deque()
        self._changed = threading.Condition()
        self._running: Job | None = None
        self._closing = False
        self._usual_seconds = 1.0  # per question, a moving average
        self._thread = threading.Thread(target=self._run, name="tam-edge-serve", daemon=True)
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

    def submit(self, job: Job) -> None:
        """Queue a question.

        Raises: ServeError 503 where the queue is full, or the server shuts down.
        """
        with self._changed:
            self._check_room()
            self._queue.append(job)
            self._changed.notify()

    def leave(self, job: Job) -> None:
        """Nobody waits for this one any more: it gives its place up now, and what is done for it stops."""
        job.patience.leave()
        with self._changed:
            if job not in self._queue:
                return
            self._queue.remove(job)
        self._on_end(job, None)
        job.tell(_left())

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
        if len(self._queue) >= self._limits.waiting:
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

    def _ended(self, job: Job) -> Event | None:
        try:
            return self._answered(job)
        except AbandonedError:
            return None
        except Exception as error:  # the thread outlives whatever a question does to it
            return problem_of(error, job.question.names)

    def _answered(self, job: Job) -> Finished:
        asked, waited_ms, opening = job.question, job.age_ms, perf_counter()
        job.patience.check()
        with closing(self._opened(asked)) as video:
            _check_length(video.info, self._limits)
            opened_ms = 1000 * (perf_counter() - opening)
            stream = self._qa.stream(
                WatchedVideo(video, job.patience),
                asked.text,
                history=asked.history,
                deadline=asked.deadline,
                strategy=asked.strategy,
                frames=asked.frames,
                grid=asked.grid,
                max_tokens=asked.max_tokens,
                temperature=asked.temperature,
                seed=asked.seed,
                stop=asked.stop,
            )
            with stream:
                for piece in stream:
                    job.patience.check()
                    job.tell(Words(piece, stream.plan))
                return Finished(stream.answer, waited_ms, opened_ms)

    def _opened(self, asked: Question) -> Video:
        names = [str(path) for path in asked.paths]
        return self._qa.open(names[0] if len(names) == 1 else names, start=asked.start_seconds, end=asked.end_seconds)


def _check_length(info: VideoInfo, limits: ServeLimits) -> None:
    if info.duration_seconds > limits.duration_seconds:
        text = f"{info.duration_seconds:.0f} s of video are too long: {limits.duration_seconds:.0f} s are the most"
        raise ServeError(413, text, code="too_long")


def _left() -> ServeError:
    return ServeError(503, "the answer was stopped before its end", code="stopped")


def _ending() -> ServeError:
    return ServeError(503, "the server is shutting down", code="shutting_down")
