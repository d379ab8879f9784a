"""Fetch a picture or video over HTTP for a stranger: one checked connection a hop, bounded in bytes and seconds.

No library's client does all of this: they resolve names themselves when they connect, and follow redirects without
asking. So the connection is made here, and h11, which the server brings, speaks HTTP on it. Proxies are not used.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator, Collection
from dataclasses import dataclass
from urllib.parse import SplitResult, urljoin, urlsplit

import h11

from tam_edge.apps.addresses import (
    AddressRefusedError,
    Endpoint,
    NoAddressError,
    checked_endpoints,
    checked_url,
    no_address,
    request_target,
)
from tam_edge.apps.serve.limits import MOST_HOPS, ServeLimits
from tam_edge.apps.serve.store import Held, Writing, too_large
from tam_edge.apps.web.problem import ServeError
from tam_edge.runtime.errors import UsageError

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_CHUNK_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class Downloader:
    """Fetches what a stranger names."""

    limits: ServeLimits
    """Most bytes and seconds."""
    allowed_hosts: Collection[str] = ()
    """Hosts, in lower case, that may have private addresses."""

    async def fetch(self, url: str, held: Held) -> None:
        """Store what is at `url`.

        Raises: ServeError 400, 403, 413, 422 or 503.
        """
        seconds = self.limits.download_seconds
        try:
            await asyncio.wait_for(self._follow(url, held), seconds)
        except asyncio.TimeoutError:
            raise ServeError(422, f"it could not be fetched within {seconds:g} s", code="not_fetched") from None
        except AddressRefusedError as error:
            raise ServeError(403, str(error), code="address_refused") from None
        except NoAddressError as error:
            raise ServeError(422, str(error), code="not_fetched") from None
        except UsageError as error:
            raise ServeError(400, str(error)) from None
        except (OSError, h11.RemoteProtocolError, EOFError):
            raise ServeError(422, "it could not be fetched: the connection failed", code="not_fetched") from None

    async def _follow(self, url: str, held: Held) -> None:
        for _ in range(1 + MOST_HOPS):
            to = await self._get(url, held)
            if to is None:
                return
            if urlsplit(url).scheme.lower() == "https" and urlsplit(to).scheme.lower() != "https":
                raise ServeError(403, "it leads from https to http: not followed", code="address_refused")
            url = to
        raise ServeError(422, f"it leads on more than {MOST_HOPS} times", code="not_fetched")

    async def _get(self, url: str, held: Held) -> str | None:
        """Store what is there, or say where it leads to."""
        parts, host, port = checked_url(url)
        async with _connected(parts, host, port, self.allowed_hosts) as (reader, writer):
            http = h11.Connection(h11.CLIENT)
            writer.write(_request(http, parts))
            head = await _next(http, reader)
            while isinstance(head, h11.InformationalResponse):
                head = await _next(http, reader)
            assert isinstance(head, h11.Response)
            fields = {bytes(name): bytes(value) for name, value in head.headers}
            if head.status_code in _REDIRECTS and b"location" in fields:
                return urljoin(url, fields[b"location"].decode("latin-1"))
            self._check(head.status_code, fields)
            with held.writing() as file:
                await _store(http, reader, file)
        return None

    def _check(self, status: int, fields: dict[bytes, bytes]) -> None:
        if status != 200:
            raise ServeError(422, f"it could not be fetched: the answer there is {status}", code="not_fetched")
        if fields.get(b"content-encoding", b"identity").lower() != b"identity":
            raise ServeError(422, "it is sent compressed although that was not asked for", code="not_fetched")
        if int(fields.get(b"content-length", b"0")) > self.limits.file_bytes:
            raise too_large(self.limits.file_bytes)


async def _endpoints(host: str, port: int, allowed_hosts: Collection[str]) -> list[Endpoint]:
    """Addresses of a host, without holding up who else is served."""
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise no_address(host) from None
    return checked_endpoints(host, port, found, allowed_hosts)


@contextlib.asynccontextmanager
async def _connected(
    parts: SplitResult, host: str, port: int, allowed_hosts: Collection[str]
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    secure = parts.scheme.lower() == "https"
    context = ssl.create_default_context() if secure else None
    failure: OSError | None = None
    for endpoint in await _endpoints(host, port, allowed_hosts):
        try:
            reader, writer = await asyncio.open_connection(
                endpoint.address, endpoint.port, ssl=context, server_hostname=host if secure else None
            )
            break
        except OSError as error:
            failure = error
    else:
        raise failure or OSError("no address")
    try:
        yield reader, writer
    finally:
        writer.transport.abort()  # whatever it still has to say is of no interest


def _request(http: h11.Connection, parts: SplitResult) -> bytes:
    headers = [
        ("Host", parts.netloc),
        ("User-Agent", "tam-edge"),
        ("Accept", "image/*, video/*"),
        ("Accept-Encoding", "identity"),
        ("Connection", "close"),
    ]
    sent = http.send(h11.Request(method="GET", target=request_target(parts), headers=headers))
    return (sent or b"") + (http.send(h11.EndOfMessage()) or b"")


async def _store(http: h11.Connection, reader: asyncio.StreamReader, file: Writing) -> None:
    while not isinstance(event := await _next(http, reader), h11.EndOfMessage):
        assert isinstance(event, h11.Data)
        file.write(bytes(event.data))


async def _next(http: h11.Connection, reader: asyncio.StreamReader) -> h11.Event:
    while (event := http.next_event()) is h11.NEED_DATA:
        http.receive_data(await reader.read(_CHUNK_BYTES))
    if not isinstance(event, h11.Event) or isinstance(event, h11.ConnectionClosed):
        raise EOFError
    return event
