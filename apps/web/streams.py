"""Server-sent events, and whether anybody reads them."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

from starlette.responses import StreamingResponse

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.types import Receive, Scope, Send


class EventStream(StreamingResponse):
    """Server-sent events; what they need is let go of when they end, however they do."""

    def __init__(self, events: AsyncIterator[bytes], needed: AsyncExitStack) -> None:
        headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
        super().__init__(events, media_type="text/event-stream", headers=headers)
        self._needed = needed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send them. Whether the client has gone is watched elsewhere."""
        async with self._needed:
            await self.stream_response(send)


async def gone(request: Request) -> None:
    """Wait until the client has gone; the body must have been read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def leave_when_gone(request: Request, leave: Callable[[], None]) -> None:
    """Call `leave` when the client has gone; the body must have been read."""
    await gone(request)
    leave()


def event_bytes(value: object) -> bytes:
    """A JSON value as one event."""
    return b"data: " + json.dumps(value, allow_nan=False, separators=(",", ":")).encode() + b"\n\n"
