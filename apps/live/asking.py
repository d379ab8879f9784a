"""A question of the page, and what it is told: the plan, pieces of the answer, and then all of it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from tam_edge.apps.web.patience import AbandonedError, Told
from tam_edge.apps.web.problem import ServeError
from tam_edge.apps.web.streams import event_bytes
from tam_edge.runtime.errors import UsageError
from tam_edge.runtime.live.answers import LiveAnswer
from tam_edge.runtime.live.session import Live
from tam_edge.runtime.plan import Plan


class AskBody(BaseModel):
    """What the page sends."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    question: str
    last: str | None = Field(None, description="about so much time until now, such as 10s; left out: all that is kept")
    history: list[tuple[str, str]] = Field([], description="earlier questions with their answers, oldest first")


@dataclass(frozen=True, slots=True)
class Planned:
    """What is going to be looked at."""

    plan: Plan
    """The plan."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A piece of the answer."""

    text: str
    """The piece."""


@dataclass(frozen=True, slots=True)
class Answered:
    """The whole answer."""

    answer: LiveAnswer
    """The runtime's."""
    waited_ms: float
    """For others' questions."""


Event = Planned | Piece | Answered | ServeError


class Asked(Told[Event]):
    """A question of the page; an `Answered` or a `ServeError` is the last event."""

    def __init__(self, live: Live, body: AskBody) -> None:
        """Use it in the server's loop."""
        super().__init__()
        self.live = live
        """What is asked."""
        self.body = body
        """What about."""


def answer(asked: Asked) -> Answered:
    """Tell the plan and the pieces, and return the end; what the one thread that answers calls.

    Raises: AbandonedError, TamEdgeError.
    """
    waited_ms, body = asked.age_ms, asked.body
    with asked.live.stream(body.question, last=body.last, history=body.history) as stream:
        asked.tell(Planned(stream.plan))
        for piece in stream:
            asked.patience.check()
            asked.tell(Piece(piece))
        try:
            return Answered(stream.answer, waited_ms)
        except UsageError:  # the session was closed in the middle of it
            raise AbandonedError from None


async def events(asked: Asked, first: Event) -> AsyncIterator[bytes]:
    """Server-sent events of one answer; `first` was taken already."""
    event = first
    while isinstance(event, (Planned, Piece)):
        yield event_bytes(_said(event))
        event = await asked.events.get()
    yield event_bytes(_said(event))


def _said(event: Event) -> dict[str, Any]:
    if isinstance(event, Planned):
        return {"event": "plan", "plan": event.plan.to_json()}
    if isinstance(event, Piece):
        return {"event": "text", "text": event.text}
    if isinstance(event, ServeError):
        return {"event": "error", **event.to_json()}
    told = event.answer.to_json(pictures=True)
    told["timings_ms"]["wait"] = round(event.waited_ms, 3)
    rejections = [asdict(rejection) for rejection in event.answer.answer.rejections]
    return {"event": "answer", **told, "rejections": rejections, "plan": event.answer.plan.to_json()}
