"""Events POSTed to a URL by a thread of its own: checks never wait for it.

What cannot be delivered at once is tried again, later each time; what waits is bounded, and what is given up is said.
Redirects are not followed, proxies not used, and every connection goes to an address that was checked.
"""

from __future__ import annotations

import json
import ssl
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from queue import Empty, Full, Queue
from socket import SHUT_RDWR, create_connection, socket
from threading import Event, Thread, Timer
from time import monotonic
from typing import Any

from tam_edge.apps.addresses import checked_url, endpoints, request_target
from tam_edge.runtime.errors import TamEdgeError, UsageError

MOST_WAITING = 64
"""Events that wait for delivery."""
MOST_TRIES = 5
"""How often one is sent before it is given up."""
_AGAIN = frozenset({408, 425, 429})


@dataclass(frozen=True, slots=True)
class Patience:
    """How long deliveries may take."""

    try_seconds: float = 10.0
    """For one try, from connecting to the head of the answer."""
    first_pause_seconds: float = 1.0
    """Before the second try; each pause is twice the one before."""
    end_seconds: float = 15.0
    """For what still waits when the source is over."""
    hurry_seconds: float = 3.0
    """The same after Ctrl-C or SIGTERM."""


class _RefusedError(Exception):
    """An answer after which trying again does not help."""


class Webhook:
    """Delivers events to one URL, in order."""

    def __init__(
        self,
        url: str,
        say: Callable[[str], None],
        allowed_hosts: Collection[str] = (),
        patience: Patience | None = None,
    ) -> None:
        """Check the URL and where it leads; `say` gets a line for everything that is not delivered.

        Raises: UsageError for what is no URL; TamEdgeError for an address that may not be used.
        """
        try:
            self._parts, self._host, self._port = checked_url(url)
        except UsageError as error:
            raise UsageError(f"--webhook: {error}") from None
        self._allowed, self._say, self._patience = frozenset(allowed_hosts), say, patience or Patience()
        try:
            endpoints(self._host, self._port, self._allowed)
        except TamEdgeError as error:
            raise TamEdgeError(f"--webhook: {error}") from None
        self._waiting: Queue[bytes] = Queue(MOST_WAITING)
        self._stopped, self._ending = Event(), Event()
        self._thread = Thread(target=self._run, name="tam-edge webhook", daemon=True)
        self._thread.start()

    def post(self, event: dict[str, Any]) -> None:
        """Have an event delivered; returns at once."""
        try:
            self._waiting.put_nowait(json.dumps(event, allow_nan=False).encode())
        except Full:
            self._say(f"webhook {self._host}: {MOST_WAITING} events wait already: one is not delivered")

    def finish(self, *, hurry: bool = False) -> None:
        """Deliver what waits, as long as patience lasts, and say what was not."""
        self._ending.set()
        try:
            self._thread.join(self._patience.hurry_seconds if hurry else self._patience.end_seconds)
        finally:
            left = self._waiting.qsize() + self._thread.is_alive()
            self.close()
            if left:
                events = "1 event was" if left == 1 else f"{left} events were"
                self._say(f"webhook {self._host}: {events} not delivered before the end")

    def close(self) -> None:
        """Deliver nothing more."""
        self._stopped.set()
        self._ending.set()

    def _run(self) -> None:
        while not self._stopped.is_set():
            try:
                body = self._waiting.get(timeout=0.1)
            except Empty:
                if self._ending.is_set():
                    return
                continue
            self._deliver(body)

    def _deliver(self, body: bytes) -> None:
        pause, why = self._patience.first_pause_seconds, ""
        for left in reversed(range(MOST_TRIES)):
            try:
                self._send(body)
                return
            except _RefusedError as error:
                why, left = str(error), 0
            except (OSError, HTTPException, TamEdgeError, ValueError) as error:
                why = str(error) or type(error).__name__
            if not left or self._stopped.wait(pause):
                break
            pause *= 2
        if not self._stopped.is_set():  # `finish` has counted it
            self._say(f"webhook {self._host}: an event is given up: {why}")

    def _send(self, body: bytes) -> None:
        """One try.

        Raises: _RefusedError, or OSError, HTTPException and TamEdgeError where another try may help.
        """
        end = monotonic() + self._patience.try_seconds
        connection = HTTPConnection(self._host, self._port)
        connection.sock = self._connected(end)
        try:
            headers = {"Content-Type": "application/json", "User-Agent": "tam-edge", "Connection": "close"}
            headers["Host"] = self._parts.netloc
            with _cut_at(end, connection.sock):
                connection.request("POST", request_target(self._parts), body, headers)
                status = connection.getresponse().status
        finally:
            connection.close()
        if 200 <= status < 300:
            return
        if status < 500 and status not in _AGAIN:
            raise _RefusedError(f"the answer is {status}" + (": redirects are not followed" if status < 400 else ""))
        raise HTTPException(f"the answer is {status}")

    def _connected(self, end: float) -> socket:
        failure: OSError | None = None
        for to in endpoints(self._host, self._port, self._allowed):
            try:
                plain = create_connection((to.address, to.port), timeout=max(0.1, end - monotonic()))
                return self._secured(plain, end) if self._parts.scheme.lower() == "https" else plain
            except OSError as error:
                failure = error
        raise failure or OSError("no address")

    def _secured(self, plain: socket, end: float) -> socket:
        context = ssl.create_default_context()
        # Only the wrapped socket has the connection from here on: wrap first, so that the handshake can be cut.
        secured = context.wrap_socket(plain, server_hostname=self._host, do_handshake_on_connect=False)
        try:
            with _cut_at(end, secured):
                secured.do_handshake()
        except BaseException:
            secured.close()
            raise
        return secured


@contextmanager
def _cut_at(end: float, sock: socket) -> Iterator[None]:
    """End the connection then: a peer that sends a byte now and then keeps each read within its time-out."""
    timer = Timer(max(0.1, end - monotonic()), _cut, [sock])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _cut(sock: socket) -> None:
    with suppress(OSError):  # closed already
        socket.shutdown(sock, SHUT_RDWR)  # what a TLS socket does beside that would pull the rug from a read
