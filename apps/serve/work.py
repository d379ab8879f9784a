"""What is asked, what becomes of it, and how the one thread that answers (apps/web/worker.py) does it."""

from __future__ import annotations

from collections.abc import Mapping
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


class Answering:
    """Answers a job: what the one thread calls."""

    def __init__(self, qa: VideoQA, limits: ServeLimits) -> None:
        self._qa = qa
        self._limits = limits

    def __call__(self, job: Job) -> Finished:
        """Tell the pieces and return the end.

        Raises: AbandonedError, ServeError.
        """
        try:
            return self._answered(job)
        except AbandonedError:
            raise
        except Exception as error:
            raise problem_of(error, job.question.names) from error

    def _answered(self, job: Job) -> Finished:
        asked, waited_ms, opening = job.question, job.age_ms, perf_counter()
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
