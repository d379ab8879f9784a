"""What the page calls: each route says what it takes and gives, and leaves the doing to the files before this one."""

from __future__ import annotations

import asyncio
import math
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tam_edge.apps.live.asking import AskBody, Asked, events
from tam_edge.apps.live.assets import HEADERS, Asset
from tam_edge.apps.live.limits import LiveLimits
from tam_edge.apps.live.pictures import View
from tam_edge.apps.live.sight import STARTING, Sight, VisitorSight
from tam_edge.apps.web.body import BodyRoom, check_kind
from tam_edge.apps.web.problem import REFUSED, ServeError, problem_of_request, refused
from tam_edge.apps.web.streams import EventStream, leave_when_gone
from tam_edge.apps.web.worker import Worker

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

SEAT = "X-Seat"
"""Header with which a visitor's page shows that it has the seat."""


@dataclass(frozen=True)
class Page:
    """What the routes share."""

    model: str
    """The bundle's name."""
    version: str
    """Of this program."""
    memory_limit_bytes: int
    """Ceiling on the process."""
    sight: Sight
    """What is looked at."""
    worker: Worker[Asked]
    """What answers."""
    room: BodyRoom
    """What reads bodies."""
    limits: LiveLimits
    """What the page may send."""
    files: dict[str, Asset]
    """The page itself, by path."""
    view: View
    """The picture of the device's source."""


@dataclass(frozen=True)
class Sealed:
    """An ASGI application whose every reply carries the page's policy."""

    app: ASGIApp
    """What is sealed."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""

        async def sealing(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        await self.app(scope, receive, sealing)


def make_app(page: Page) -> Starlette:
    """The application; it trusts whoever asks, so a `Guard` stands before it."""
    routes = [
        *(Route(path, file) for path in page.files),
        Route("/api/about", about),
        Route("/api/status", status),
        Route("/api/ask", ask, methods=["POST"]),
    ]
    if isinstance(page.sight, VisitorSight):
        routes.append(Route("/api/camera", take, methods=["POST"]))
        routes.append(Route("/api/camera", leave, methods=["DELETE"]))
        routes.append(Route("/api/camera/frame", frame, methods=["POST"]))
    else:
        routes.append(Route("/api/picture", picture))
    app = Starlette(routes=routes, exception_handlers=dict.fromkeys(REFUSED, refused))
    app.state.page = page
    return app


async def file(request: Request) -> Response:
    """A file of the page."""
    found = _page(request).files[request.url.path]
    return Response(found.content, headers={"Content-Type": found.kind})


async def about(request: Request) -> Response:
    """What this is, and whether the visitor brings the camera."""
    page = _page(request)
    return JSONResponse({"model": page.model, "version": page.version, "visitor": page.sight.of_visitor})


async def status(request: Request) -> Response:
    """The session at a glance, and its events after `?after=`."""
    page, after = _page(request), int(_number(request, "after"))
    try:
        live = page.sight.live(_seat(request))
    except ServeError as problem:
        if problem.code != STARTING:
            raise
        return JSONResponse({"state": STARTING})
    told = live.status.to_json() | {
        "memory_limit_bytes": page.memory_limit_bytes,
        "answering": page.worker.busy,
        "questions_waiting": page.worker.waiting,
        "events": [event.to_json() for event in live.events_after(after)],
    }
    return JSONResponse(told)


async def picture(request: Request) -> Response:
    """The newest frame as a JPEG, if it is newer than `?after=`."""
    page = _page(request)
    newer = await asyncio.to_thread(page.view.newer, page.sight.live(""), _number(request, "after"))
    if newer is None:
        return Response(status_code=204)
    seconds, jpeg = newer
    return Response(jpeg, media_type="image/jpeg", headers={"X-Time-Seconds": repr(seconds)})


async def take(request: Request) -> Response:
    """Take the seat in front of the webcam."""
    return JSONResponse({"seat": _visitors(request).take()})


async def leave(request: Request) -> Response:
    """Give the seat up."""
    _visitors(request).leave(_seat(request))
    return Response(status_code=204)


async def frame(request: Request) -> Response:
    """A frame of the visitor's webcam, a JPEG."""
    page, sight, seat = _page(request), _visitors(request), _seat(request)
    check_kind(request, "image/jpeg")
    async with page.room.body(request) as body:
        await asyncio.to_thread(sight.frame, seat, bytes(body))
    return Response(status_code=204)


async def ask(request: Request) -> Response:
    """Answer a question, as server-sent events."""
    page = _page(request)
    page.worker.check_room()
    check_kind(request, "application/json")
    live = page.sight.live(_seat(request))
    async with page.room.body(request) as body:
        asked = _read(bytes(body), page.limits)
    async with AsyncExitStack() as needed:
        job = Asked(live, asked)
        needed.callback(page.worker.leave, job)
        watch = asyncio.create_task(leave_when_gone(request, lambda: page.worker.leave(job)))
        needed.callback(watch.cancel)
        page.worker.submit(job)
        first = await job.events.get()
        if isinstance(first, ServeError):
            raise first
        return EventStream(events(job, first), needed.pop_all())


def _read(body: bytes, limits: LiveLimits) -> AskBody:
    try:
        asked = AskBody.model_validate_json(body)
    except ValidationError as error:
        raise problem_of_request(error) from None
    if len(asked.history) > limits.history:
        text = f"{len(asked.history)} earlier questions are too many: {limits.history} are the most"
        raise ServeError(413, text, param="history", code="too_large")
    return asked


def _number(request: Request, name: str) -> float:
    try:
        number = float(request.query_params.get(name, "0"))
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise ServeError(400, f"{name} must be a number", param=name)
    return number


def _seat(request: Request) -> str:
    return request.headers.get(SEAT, "")


def _visitors(request: Request) -> VisitorSight:
    sight = _page(request).sight
    assert isinstance(sight, VisitorSight)
    return sight


def _page(request: Request) -> Page:
    page: Page = request.app.state.page
    return page
