"""Who may ask: checked before a request's body is read, and in front of every route alike.

A server on this machine alone is asked by web pages too: by one of another origin, or by one whose name was pointed at
127.0.0.1 after it was loaded (DNS rebinding). Browsers cannot hide either: Origin says the first, Host the second. A
server that others can reach asks for a token instead.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import ipaddress
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from starlette.datastructures import Headers

from tam_edge.apps.serve.limits import ServeLimits
from tam_edge.apps.serve.problem import ServeError

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.types import ASGIApp, Receive, Scope, Send

LOCAL_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
"""Names by which a browser on this machine calls it."""
MOST_DIGITS = 15  # of a stated length: more would be slow to read
OPEN_PATHS = frozenset({"/health"})
"""Paths that need no token: they tell a load balancer nothing but that the server lives."""


def is_local(host: str) -> bool:
    """Whether nobody but this machine reaches a server bound to this name or address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@dataclass(frozen=True)
class Guard:
    """An ASGI application in front of another one."""

    app: ASGIApp
    """What is guarded."""
    host: str
    """Name or address that the server is bound to."""
    token: str | None
    """What a client must send as `Authorization: Bearer ...`; None: nothing."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, or refuse it."""
        if scope["type"] in ("http", "websocket"):
            try:
                self.check(scope["path"], Headers(scope=scope))
            except ServeError as problem:
                await problem.response()(scope, receive, send)
                return
        await self.app(scope, receive, send)

    def check(self, path: str, headers: Headers) -> None:
        """Check who asks.

        Raises: ServeError 401 or 403.
        """
        if is_local(self.host):
            named = _name_in(headers.get("host", ""))
            if named not in LOCAL_NAMES | {self.host.lower()}:
                raise ServeError(403, "this server answers to localhost only: call it by that name", code="wrong_host")
        if self.token is None:
            origin = headers.get("origin")
            if origin is not None and urlsplit(origin).netloc.lower() != headers.get("host", "").lower():
                raise ServeError(403, "pages of other origins may not ask this server", code="wrong_origin")
        elif path not in OPEN_PATHS and not _same(_token_in(headers.get("authorization", "")), self.token):
            raise ServeError(401, "the API key is missing or wrong", code="invalid_api_key")


class Body(bytearray):
    """A request's body. Whoever has turned it into something as large may clear it; it still counts as held."""

    counted_bytes = 0
    """Bytes that arrived."""


class BodyRoom:
    """Reads bodies of requests, no more of them at once than there is memory for."""

    def __init__(self, limits: ServeLimits) -> None:
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


def _name_in(host: str) -> str:
    try:
        return (urlsplit(f"//{host}").hostname or "").lower()
    except ValueError:
        return ""


def _token_in(authorization: str) -> str:
    scheme, _, token = authorization.partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


def _same(given: str, token: str) -> bool:
    """Compare in a time that depends on neither's length or content."""
    digests = (hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest() for text in (given, token))
    return hmac.compare_digest(*digests)
