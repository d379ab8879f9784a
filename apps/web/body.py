"""Bodies of requests: how large one may be, how long it may take, and how much of them there is at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Protocol

from tam_edge.apps.web.problem import ServeError

if TYPE_CHECKING:
    from starlette.requests import Request

MOST_DIGITS = 15  # of a stated length: more would be slow to read


def check_kind(request: Request, kind: str) -> None:
    """Check the media type that a request says its body has.

    Raises: ServeError 415.
    """
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != kind:
        raise ServeError(415, f"send {kind}")


class BodyLimits(Protocol):
    """What bodies may take."""

    @property
    def body_bytes(self) -> int:
        """Largest body of a request."""

    @property
    def body_seconds(self) -> float:
        """Longest a body may take to arrive."""

    @property
    def bodies_bytes(self) -> int:
        """Bodies in memory at once."""


class Body(bytearray):
    """A request's body. Whoever has turned it into something as large may clear it; it still counts as held."""

    counted_bytes = 0
    """Bytes that arrived."""


class BodyRoom:
    """Reads bodies of requests, no more of them at once than there is memory for."""

    def __init__(self, limits: BodyLimits) -> None:
        self._limits = limits
        self._held_bytes = 0

    @asynccontextmanager
    async def body(self, request: Request) -> AsyncIterator[Body]:
        """The body, for as long as the block lasts.

        Raises: ServeError 408, 413 or 503.
        """
        most, stated = self._limits.body_bytes, request.headers.get("content-length", "0")
        if not stated.isdecimal() or len(stated) > MOST_DIGITS or int(stated) > most:
            raise _too_large(most)
        body, seconds = Body(), self._limits.body_seconds
        try:
            try:
                await asyncio.wait_for(self._fill(body, request), seconds)
            except asyncio.TimeoutError:
                raise ServeError(408, f"the body took longer than {seconds:g} s to arrive") from None
            yield body
        finally:
            self._held_bytes -= body.counted_bytes

    async def _fill(self, body: Body, request: Request) -> None:
        async for chunk in request.stream():
            if len(body) + len(chunk) > self._limits.body_bytes:
                raise _too_large(self._limits.body_bytes)
            if self._held_bytes + len(chunk) > self._limits.bodies_bytes:
                raise ServeError(503, "too many large requests at once", code="busy", retry_after_seconds=1)
            self._held_bytes += len(chunk)
            body.counted_bytes += len(chunk)
            body += chunk


def _too_large(most: int) -> ServeError:
    return ServeError(413, f"the body is too large: {most:,} bytes are the most", code="too_large")
