"""Answers as OpenAI's objects, whole or as server-sent events."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import asdict, dataclass, field
from time import time
from typing import Any
from uuid import uuid4

from tam_edge.apps.serve.work import Event, Finished, Job, Question, Words
from tam_edge.apps.web.problem import ServeError
from tam_edge.apps.web.streams import event_bytes
from tam_edge.runtime.answer import Answer
from tam_edge.runtime.plan import Plan


@dataclass(frozen=True, slots=True)
class Reply:
    """What all objects of one reply share."""

    model: str
    """The bundle's name."""
    question: Question
    """What was asked."""
    usage: bool = False
    """Whether a stream ends with an object that counts tokens."""
    id: str = field(default_factory=lambda: f"chatcmpl-{uuid4().hex}")
    """Of this reply."""
    created: int = field(default_factory=lambda: int(time()))
    """Seconds since 1970."""

    def whole(self, end: Finished) -> dict[str, Any]:
        """A completion."""
        message = {"role": "assistant", "content": end.answer.text}
        choice = {"index": 0, "message": message, "finish_reason": end.answer.ended_by}
        head = self._head("chat.completion")
        return {**head, "choices": [choice], "usage": usage(end.answer), "tam_edge": self._about(end)}

    async def events(self, job: Job, first: Event) -> AsyncIterator[bytes]:
        """Server-sent events of one answer; `first` was taken from the job already."""
        plan = first.answer.plan if isinstance(first, Finished) else first.plan if isinstance(first, Words) else None
        event: Event = first
        yield self._chunk({"role": "assistant", "content": ""}, None, plan=plan)
        while isinstance(event, Words):
            yield self._chunk({"content": event.text}, None)
            event = await job.events.get()
        if isinstance(event, ServeError):
            yield event_bytes(event.to_json())
        else:
            yield self._chunk({}, event.answer.ended_by, end=event)
            if self.usage:
                yield event_bytes({**self._head("chat.completion.chunk"), "choices": [], "usage": usage(event.answer)})
        yield b"data: [DONE]\n\n"

    def _chunk(
        self, delta: Mapping[str, str], reason: str | None, *, plan: Plan | None = None, end: Finished | None = None
    ) -> bytes:
        choice = {"index": 0, "delta": dict(delta), "finish_reason": reason}
        value = {**self._head("chat.completion.chunk"), "choices": [choice]}
        if self.usage:
            value["usage"] = None
        if plan is not None:
            value["tam_edge"] = {"plan": plan.to_json()}
        if end is not None:
            value["tam_edge"] = self._about(end)
        return event_bytes(value)

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model}

    def _about(self, end: Finished) -> dict[str, Any]:
        """Plan, timings and evidence, with the client's own names of what it showed."""
        answer, names = end.answer, self.question.names
        value = answer.to_json()
        value["timings_ms"] |= {"queue": round(end.waited_ms, 3), "open": round(end.opened_ms, 3)}
        value["rejections"] += [asdict(rejection) for rejection in self.question.left_out]
        seen = [asdict(frame) for frame in answer.evidence]
        evidence = [{**frame, "source": names.get(frame["source"], frame["source"])} for frame in seen]
        return {**value, "plan": answer.plan.to_json(), "evidence": evidence}


def usage(answer: Answer) -> dict[str, Any]:
    """Tokens, with those that show frames and those that an earlier question left in the model."""
    details = {"cached_tokens": answer.cache["prefix_tokens_reused"], "visual_tokens": answer.plan.visual_tokens}
    return {
        "prompt_tokens": answer.prompt_tokens,
        "completion_tokens": answer.answer_tokens,
        "total_tokens": answer.prompt_tokens + answer.answer_tokens,
        "prompt_tokens_details": details,
    }
