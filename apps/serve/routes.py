"""The HTTP side: each route says what it takes and gives, and leaves the doing to the files before this one."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from pydantic import ValidationError
from pydantic.json_schema import models_json_schema
from starlette.requests import ClientDisconnect

from tam_edge.apps.serve.reading import read_messages
from tam_edge.apps.serve.replies import Reply
from tam_edge.apps.serve.schema import UNSUPPORTED, ChatReply, ChatRequest, ErrorReply, Health, Model, Models
from tam_edge.apps.serve.service import Service
from tam_edge.apps.serve.store import Held
from tam_edge.apps.serve.work import Event, Finished, Job, Question, Words
from tam_edge.apps.web.body import check_kind
from tam_edge.apps.web.problem import REFUSED, ServeError, problem_of_request, refused
from tam_edge.apps.web.streams import EventStream, gone, leave_when_gone
from tam_edge.runtime.plan import Rejection

OPEN_PATHS = frozenset({"/health"})
"""Paths that need no token: they tell a load balancer nothing but that the server lives."""
_BODY = {
    "required": True,
    "content": {"application/json": {"schema": {"$ref": "#/components/schemas/ChatRequest"}}},
}
_REFUSALS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorReply, "description": text}
    for status, text in {
        400: "The request makes no sense here",
        401: "The API key is missing or wrong",
        403: "Not allowed: where the request comes from, or what it wants to look at",
        404: "No such model or path",
        408: "The body took too long to arrive",
        413: "Too large, too many or too long",
        415: "Not application/json",
        422: "What is shown cannot be read",
        503: "Busy, or short of memory: try again after Retry-After",
    }.items()
}


@dataclass(frozen=True, slots=True)
class Asked:
    """What is left of a request once its body was read."""

    question: Question
    """What is asked."""
    stream: bool
    """Whether the answer comes as server-sent events."""
    usage: bool
    """Whether these end with the number of tokens."""


class ServeApp(FastAPI):
    """FastAPI, with the schema of the body that `chat` reads itself."""

    def openapi(self) -> dict[str, Any]:
        """The description at /openapi.json."""
        fresh, schema = self.openapi_schema is None, super().openapi()
        if fresh:
            _, found = models_json_schema([(ChatRequest, "validation")], ref_template="#/components/schemas/{model}")
            schema["components"]["schemas"] |= found["$defs"]
        return schema


def make_app(service: Service) -> FastAPI:
    """The application; it trusts whoever asks, so a `Guard` stands before it."""
    app = ServeApp(
        title="tam-edge",
        version=version("tam-edge"),
        docs_url=None,  # these pages load scripts from elsewhere
        redoc_url=None,
        responses=_REFUSALS,
    )
    app.state.service = service
    for kind in REFUSED:
        app.add_exception_handler(kind, refused)
    app.get("/v1/models", response_model=Models)(models)
    app.get("/v1/models/{model:path}", response_model=Model)(model)
    app.post(
        "/v1/chat/completions",
        response_model=ChatReply,
        responses={200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}}},
        openapi_extra={"requestBody": _BODY},
    )(chat)
    app.get("/health", response_model=Health)(health)
    app.get("/metrics", response_class=PlainTextResponse)(metrics)
    return app


async def models(request: Request) -> dict[str, Any]:
    """The models that can be asked: one."""
    return {"object": "list", "data": [_about_model(_service(request))]}


async def model(request: Request, model: str) -> dict[str, Any]:
    """One model."""
    service = _service(request)
    _check_model(service, model)
    return _about_model(service)


async def health(request: Request) -> dict[str, Any]:
    """Whether the server lives."""
    service = _service(request)
    return {"status": "ok", "model": service.model, "waiting": service.worker.waiting}


async def metrics(request: Request) -> Response:
    """What Prometheus reads."""
    return Response(_service(request).metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


async def chat(request: Request) -> Response:
    """Answer the last question of a conversation about pictures and videos."""
    service = _service(request)
    service.worker.check_room()
    check_kind(request, "application/json")
    async with AsyncExitStack() as needed:
        asked = await _read(request, service, needed.enter_context(service.store.holding()))
        job = Job(asked.question)
        needed.callback(service.worker.leave, job)
        watch = asyncio.create_task(leave_when_gone(request, lambda: service.worker.leave(job)))
        needed.callback(watch.cancel)
        service.worker.submit(job)
        reply = Reply(service.model, asked.question, asked.usage)
        event = _no_problem(await job.events.get())
        if asked.stream:
            return EventStream(reply.events(job, event), needed.pop_all())
        while isinstance(event, Words):
            event = _no_problem(await job.events.get())
        return JSONResponse(reply.whole(event))


async def _read(request: Request, service: Service, held: Held) -> Asked:
    """Read the body, and have what it shows on the disk; the body itself is gone then.

    Raises: ServeError.
    """
    async with service.room.body(request) as body:
        try:
            asked = ChatRequest.model_validate_json(body)
        except ValidationError as error:
            raise problem_of_request(error, UNSUPPORTED) from None
        body.clear()  # its text is in the memory a second time now
        _check_model(service, asked.model)
        collecting = asyncio.create_task(_question(asked, service, held))
        left = asyncio.create_task(gone(request))
        try:
            await asyncio.wait({collecting, left}, return_when=asyncio.FIRST_COMPLETED)
            if not collecting.done():
                raise ClientDisconnect
            options = asked.stream_options
            return Asked(collecting.result(), bool(asked.stream), bool(options and options.include_usage))
        finally:
            collecting.cancel()
            left.cancel()


async def _question(asked: ChatRequest, service: Service, held: Held) -> Question:
    reading = read_messages(asked.messages)
    names = await service.sources.collect(reading.shown, held)
    wishes, most, left_out = asked.tam_edge, asked.most_tokens, list(reading.left_out)
    if most is not None and most > service.most_tokens:
        left_out.append(Rejection(f"max_tokens {most}", f"this bundle's answers have {service.most_tokens} at most"))
        most = None
    return Question(
        paths=tuple(held.paths),
        names={str(path): name for path, name in names.items()},
        text=reading.question,
        history=reading.history,
        left_out=tuple(left_out),
        max_tokens=most,
        temperature=asked.temperature or 0.0,
        seed=asked.seed or 0,
        stop=asked.stops,
        deadline=wishes.deadline,
        strategy=wishes.strategy,
        frames=wishes.frames,
        grid=wishes.grid,
        start_seconds=wishes.start,
        end_seconds=wishes.end,
    )


def _no_problem(event: Event) -> Words | Finished:
    if isinstance(event, ServeError):
        raise event
    return event


def _check_model(service: Service, model: str) -> None:
    if model != service.model:
        text = f"there is no model {model[:60]!r} here: {service.model} is the one"
        raise ServeError(404, text, param="model", code="model_not_found")


def _about_model(service: Service) -> dict[str, Any]:
    return {"id": service.model, "object": "model", "created": 0, "owned_by": "tam-edge"}


def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service
