"""Queries -> answers. Zenoh's threads only put them in line; so many wait, whoever comes then is told so at once."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from threading import BoundedSemaphore
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, ValidationError

from tam_edge.runtime.errors import BusyError, TamEdgeError, UsageError
from tam_edge.runtime.live.answers import LiveAnswer
from tam_edge.runtime.live.events import iso
from tam_edge.runtime.live.session import Live

if TYPE_CHECKING:
    import zenoh

QUERY_BYTES = 64 * 1024
"""Largest query."""
JSON_ENCODING = "application/json"


class Question(BaseModel):
    """What a query's payload holds, as JSON."""

    model_config = ConfigDict(extra="forbid", strict=True)
    question: str
    """What is asked."""
    last: float | str | None = None
    """How far back to look, in seconds or as text such as "10s"; None: all that is kept."""
    pictures: bool = False
    """Whether the frames are wanted as well, as JPEG in base64."""


class Asking:
    """Answers the queries of one queryable about one live session."""

    def __init__(self, key: str, waiting: int) -> None:
        """Reply under `key`; so many queries may wait while one is answered."""
        self.live: Live | None = None
        """Who is asked, once there is a picture."""
        self._key, self._waiting = key, waiting
        self._room = BoundedSemaphore(waiting + 1)
        self._pool = ThreadPoolExecutor(waiting + 1, thread_name_prefix="tam-edge query")

    def take(self, query: zenoh.Query) -> None:
        """Take a query; called by Zenoh, and never waits."""
        if not self._room.acquire(blocking=False):
            self._refuse(query, BusyError(f"{self._waiting} questions are waiting already: ask again later"))
            return
        try:
            self._pool.submit(self._answer, query)
        except RuntimeError:  # closed
            self._room.release()
            self._refuse(query, UsageError("this node ends"))

    def close(self) -> None:
        """Take no more; whoever waits is answered or refused before this returns."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _answer(self, query: zenoh.Query) -> None:
        try:
            with query:
                try:
                    question = read_query(query)
                    if self.live is None:
                        raise BusyError("no picture has come yet: ask again later")
                    answer = self.live.ask(question.question, last=question.last)
                    query.reply(self._key, dumped(reply_json(answer, question.pictures)), encoding=JSON_ENCODING)
                except TamEdgeError as error:
                    _reply_error(query, error)
        finally:
            self._room.release()

    def _refuse(self, query: zenoh.Query, error: TamEdgeError) -> None:
        with query:
            _reply_error(query, error)


def read_query(query: zenoh.Query) -> Question:
    """What a query asks.

    Raises: UsageError.
    """
    payload = query.payload
    if payload is None or not len(payload):
        raise UsageError('the query has no payload: send JSON such as {"question": "is the way free?", "last": "5s"}')
    if len(payload) > QUERY_BYTES:
        raise UsageError(f"the query has {len(payload)} bytes: {QUERY_BYTES} are the most")
    try:
        return Question.model_validate_json(payload.to_bytes())
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"][:1])
        raise UsageError(f"the query cannot be read: {place + ': ' if place else ''}{first['msg']}") from None


def reply_json(answer: LiveAnswer, pictures: bool) -> dict[str, Any]:
    """What is replied."""
    times = {"asked": answer.asked_seconds, "since": answer.since_seconds, "until": answer.until_seconds}
    return {
        "answer": answer.text,
        "times": {name: iso(seconds) for name, seconds in times.items()},
        "confidence": answer.answer.first_token_probability,
        "evidence": [frame.to_json(pictures=pictures) for frame in answer.evidence],
        "notes": list(answer.notes),
    }


def dumped(value: dict[str, Any]) -> bytes:
    """A JSON value as bytes."""
    return json.dumps(value, allow_nan=False).encode()


def _reply_error(query: zenoh.Query, error: TamEdgeError) -> None:
    query.reply_err(dumped({"error": str(error)}), encoding=JSON_ENCODING)
