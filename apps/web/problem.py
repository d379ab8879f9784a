"""What a client is told when it does not get an answer: a status, and OpenAI's error object. Never a traceback."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from tam_edge.apps.web.mistake import first_mistake
from tam_edge.runtime.errors import (
    BundleError,
    BusyError,
    DeadlineError,
    EngineError,
    MemoryLimitError,
    TamEdgeError,
    TooLargeError,
    UsageError,
    VideoError,
)

BUSY_SECONDS = 5
"""When to try again where nothing tells how long it takes."""
_log = logging.getLogger(__name__)

_STATUS: tuple[tuple[type[TamEdgeError], int], ...] = (
    (TooLargeError, 413),
    (VideoError, 422),
    (DeadlineError, 422),
    (UsageError, 400),
    (MemoryLimitError, 503),
    (BusyError, 503),
    (BundleError, 503),
    (EngineError, 503),
)


class ServeError(Exception):
    """A request that is refused, or failed."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after_seconds: int | None = None,
    ) -> None:
        """Keep the HTTP status, one line for a person, and which field of the request it is about."""
        super().__init__(message)
        self.status = status
        """HTTP status."""
        self.param = param
        """Field of the request that is wrong, dotted."""
        self.code = code
        """A word that a program can compare."""
        if status == 503 and retry_after_seconds is None:
            retry_after_seconds = BUSY_SECONDS
        self.retry_after_seconds = retry_after_seconds
        """When trying again may help; None where it will not."""

    def to_json(self) -> dict[str, Any]:
        """OpenAI's error object."""
        error = {"message": str(self), "type": _kind(self.status), "param": self.param, "code": self.code}
        return {"error": error}

    @property
    def headers(self) -> dict[str, str]:
        """HTTP headers that go with it."""
        headers = {} if self.retry_after_seconds is None else {"Retry-After": str(self.retry_after_seconds)}
        return {**headers, "WWW-Authenticate": "Bearer"} if self.status == 401 else headers

    def response(self) -> JSONResponse:
        """The HTTP response."""
        return JSONResponse(self.to_json(), self.status, self.headers)


def problem_of(error: BaseException, names: Mapping[str, str] | None = None) -> ServeError:
    """What a client is told about an error of the runtime.

    `names` say what a client calls the files that the message may name: paths of this server are nobody's business.
    """
    if isinstance(error, ServeError):
        return error
    if isinstance(error, MemoryError):
        return ServeError(503, "out of memory: ask about less, or later", code="out_of_memory")
    for kind, status in _STATUS:
        if isinstance(error, kind):
            return ServeError(status, renamed(str(error), names or {}), code=_code(kind))
    _log.error("a bug: a request failed", exc_info=error)
    return ServeError(500, "internal error: the server's log says more", code="internal_error")


def problem_of_request(error: ValidationError, unsupported: Mapping[str, str] | None = None) -> ServeError:
    """What is wrong with a body, by its first mistake; `unsupported` are fields that are known and refused, and why."""
    first = first_mistake(error)
    name, place = first.field, first.place
    if unsupported and name in unsupported:
        return ServeError(400, f"{name} is not supported: {unsupported[name]}", param=name, code="unsupported_value")
    if first.kind == "extra_forbidden":
        return ServeError(400, f"{place} is not known here: leave it out", param=place, code="unknown_parameter")
    if first.kind == "json_invalid":
        return ServeError(400, "the body is no JSON", code="invalid_json")
    return ServeError(400, f"{place}: {first.text}" if place else first.text, param=place or None)


REFUSED = (HTTPException, ClientDisconnect, ServeError, Exception)
"""What an application hands to `refused`."""


async def refused(_: Request, error: Exception) -> Response:
    """The error object for whatever went wrong."""
    if isinstance(error, HTTPException):
        return JSONResponse(
            ServeError(error.status_code, str(error.detail)).to_json(), error.status_code, error.headers
        )
    if isinstance(error, ClientDisconnect):
        error = ServeError(400, "the client has gone")  # nobody reads it
    return problem_of(error).response()


def renamed(text: str, names: Mapping[str, str]) -> str:
    """The text with what a client calls each file in the place of its path."""
    for path in sorted(names, key=len, reverse=True):
        text = text.replace(path, names[path])
    return text


def _code(kind: type[TamEdgeError]) -> str:
    word = kind.__name__.removesuffix("Error")
    return "".join(f"_{c.lower()}" if c.isupper() else c for c in word).lstrip("_")


def _kind(status: int) -> str:
    if status in (401, 403):
        return {401: "authentication_error", 403: "permission_error"}[status]
    return "server_error" if status >= 500 else "invalid_request_error"
