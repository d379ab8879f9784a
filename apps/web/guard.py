"""Who may ask: checked before a request's body is read, and in front of every route alike.

A server on this machine alone is asked by web pages too: by one of another origin, or by one whose name was pointed at
127.0.0.1 after it was loaded (DNS rebinding). Browsers cannot hide either: Origin says the first, Host the second. A
server that others can reach asks for a token instead.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import SplitResult, urlsplit

from starlette.datastructures import Headers

from tam_edge.apps.web.problem import ServeError
from tam_edge.apps.web.token import is_local

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

LOCAL_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
"""Names by which a browser on this machine calls it."""


@dataclass(frozen=True)
class Guard:
    """An ASGI application in front of another one."""

    app: ASGIApp
    """What is guarded."""
    host: str
    """Name or address that the server is bound to."""
    token: str | None
    """What a client must send as `Authorization: Bearer ...`; None: nothing."""
    open_paths: Collection[str]
    """Paths that need no token: they tell nobody anything."""

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
            if origin is not None and _split(origin).netloc.lower() != headers.get("host", "").lower():
                raise ServeError(403, "pages of other origins may not ask this server", code="wrong_origin")
        elif path not in self.open_paths and not _same(_token_in(headers.get("authorization", "")), self.token):
            raise ServeError(401, "the API key is missing or wrong", code="invalid_api_key")


def _name_in(host: str) -> str:
    return (_split(f"//{host}").hostname or "").lower()


def _split(url: str) -> SplitResult:
    """The parts of a URL; empty ones where it is none."""
    try:
        return urlsplit(url)
    except ValueError:
        return urlsplit("")


def _token_in(authorization: str) -> str:
    scheme, _, token = authorization.partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


def _same(given: str, token: str) -> bool:
    """Compare in a time that depends on neither's length or content."""
    digests = (hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest() for text in (given, token))
    return hmac.compare_digest(*digests)
