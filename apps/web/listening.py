"""The server's life: from a bound socket to a clean end."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import uvicorn

from tam_edge.runtime.errors import TamEdgeError, UsageError

if TYPE_CHECKING:
    from starlette.types import ASGIApp

GRACE_SECONDS = 3
"""What connections get to end after the last answer was stopped."""
_ANYWHERE = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}


@dataclass(frozen=True, slots=True)
class Tls:
    """What a server shows to be called by https."""

    certificate: Path
    """PEM file, with what it was signed by."""
    key: Path
    """PEM file without a password."""


class Server(uvicorn.Server):
    """uvicorn, which says when it listens and stops the answers before it waits for their readers."""

    def __init__(
        self, app: ASGIApp, stop: Callable[[], None], on_start: Callable[[], None], tls: Tls | None = None
    ) -> None:
        """`stop` ends what is being answered, `on_start` is called once requests are taken."""
        logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)  # its lines about its own life
        super().__init__(
            uvicorn.Config(
                app,
                log_config=None,
                access_log=False,
                lifespan="off",
                server_header=False,
                proxy_headers=False,  # nobody is trusted by what an address header says
                timeout_graceful_shutdown=GRACE_SECONDS,
                http="h11",
                ws="none",
                loop="asyncio",
                ssl_certfile=None if tls is None else tls.certificate,
                ssl_keyfile=None if tls is None else tls.key,
            )
        )
        self._stop = stop
        self._on_start = on_start

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to take requests."""
        await super().startup(sockets)
        if self.started:
            self._on_start()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop what is being answered, then wait for connections to end."""
        await asyncio.to_thread(self._stop)
        await super().shutdown(sockets)


def bound_socket(host: str, port: int) -> socket.socket:
    """A socket bound to one address.

    Raises: UsageError for a name without an address, TamEdgeError where it is taken.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (OSError, UnicodeError):
        raise UsageError(f"--host {host} has no address: name an address of this machine") from None
    bound = socket.socket(family, kind, protocol)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except OSError as error:
        bound.close()
        text = f"cannot listen on {host} port {port}: {error.strerror}; choose another --port or --host"
        raise TamEdgeError(text) from None
    return bound


def url_of(bound: socket.socket, scheme: str = "http") -> str:
    """The URL of a server on a bound socket."""
    host, port = bound.getsockname()[:2]
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


def reachable(url: str) -> str:
    """The same server by an address that this machine can call: one that listens on all has none of its own."""
    for anywhere, here in _ANYWHERE.items():
        url = url.replace(f"//{anywhere}:", f"//{here}:")
    return url
