"""What a question to a live session gets: pieces, and then an answer with times of day and the frames it rests on."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from weakref import finalize

from tam_edge.runtime.answer import Answer
from tam_edge.runtime.live.events import iso
from tam_edge.runtime.live.line import Place
from tam_edge.runtime.plan import Plan
from tam_edge.runtime.stream import AnswerStream, Pieces


@dataclass(frozen=True, slots=True)
class LiveEvidence:
    """A frame that an answer about a live source rests on."""

    time_seconds: float
    """When it appeared, as `time.time()` counts."""
    tokens: int
    """Visual tokens it became."""
    jpeg: bytes = field(repr=False)
    """What it shows, at most 448 pixels long; empty where it was let go of meanwhile."""

    def to_json(self, *, pictures: bool = False) -> dict[str, Any]:
        """A JSON value, with the JPEG in base64 if `pictures` are wanted."""
        about = {"time": iso(self.time_seconds), "time_seconds": self.time_seconds, "tokens": self.tokens}
        return about | ({"jpeg": b64encode(self.jpeg).decode()} if pictures else {})


@dataclass(frozen=True, slots=True)
class LiveAnswer:
    """An answer about a stretch of a live source."""

    text: str
    """The answer, without surrounding white space."""
    question: str
    """What was asked."""
    asked_seconds: float
    """When it was asked, as `time.time()` counts."""
    since_seconds: float
    """Where the stretch that was looked at begins, in the same way."""
    until_seconds: float
    """Where it ends."""
    evidence: tuple[LiveEvidence, ...]
    """The frames it rests on, in order."""
    waited_ms: float
    """How long the question waited for others before it."""
    notes: tuple[str, ...]
    """What a person should know: that the source is away, that less is kept than was asked about."""
    answer: Answer = field(repr=False)
    """Plan, timings and memory; its times are seconds of the session."""

    @property
    def plan(self) -> Plan:
        """What was looked at."""
        return self.answer.plan

    def to_json(self, *, pictures: bool = False) -> dict[str, Any]:
        """The JSON value of an `Answer`, with times of day; `pictures` adds each frame as a JPEG in base64."""
        return self.answer.to_json() | {
            "question": self.question,
            "asked": iso(self.asked_seconds),
            "since": iso(self.since_seconds),
            "until": iso(self.until_seconds),
            "evidence": [frame.to_json(pictures=pictures) for frame in self.evidence],
            "waited_ms": round(self.waited_ms, 3),
            "notes": list(self.notes),
        }


class LiveStream(Pieces[LiveAnswer]):
    """The pieces of an answer about a live source. Others wait until it is read to its end, closed or let go of."""

    def __init__(
        self,
        stream: AnswerStream,
        place: Place,
        first: Callable[[], None],
        told: Callable[[Answer], LiveAnswer],
    ) -> None:
        """Read `stream`; `first` is called at the first piece, `told` makes the whole answer."""
        super().__init__(stream.plan)
        self._stream = stream
        self._first = first
        self._told = told
        self._leave = finalize(self, _end, stream, place, first)

    def __next__(self) -> str:
        """Return the next piece; joined they are the answer's text."""
        try:
            piece = next(self._stream)
            self._first()
            return piece
        except StopIteration:
            if self._answer is None and self._leave.alive:
                self._answer = self._told(self._stream.answer)
            self._leave()
            raise
        except BaseException:
            self._leave()
            raise

    def close(self) -> None:
        """Stop the work; closing twice, or after the end, is fine."""
        self._leave()


def _end(stream: AnswerStream, place: Place, first: Callable[[], None]) -> None:
    try:
        stream.close()
    finally:
        first()
        place.leave()
