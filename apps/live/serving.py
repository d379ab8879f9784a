"""The page behind the guard, from its options until Ctrl-C."""

from __future__ import annotations

import ssl
import sys
import webbrowser
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import fastapi  # noqa: F401  first, so that its extra is the one named where it is missing

from tam_edge.apps.live.asking import answer
from tam_edge.apps.live.assets import assets
from tam_edge.apps.live.limits import LiveLimits
from tam_edge.apps.live.pictures import View
from tam_edge.apps.live.routes import Page, Sealed, make_app
from tam_edge.apps.live.sight import DeviceSight, Sight, VisitorSight
from tam_edge.apps.render import print_json, print_notes
from tam_edge.apps.terminate import terminated_cleanly
from tam_edge.apps.web.body import BodyRoom
from tam_edge.apps.web.guard import Guard
from tam_edge.apps.web.listening import Server, Tls, bound_socket, reachable, url_of
from tam_edge.apps.web.token import is_local
from tam_edge.apps.web.worker import Worker
from tam_edge.runtime.errors import UsageError
from tam_edge.runtime.session import VideoQA


@dataclass(frozen=True, slots=True)
class PageOptions:
    """Where the page is served, and what it shows."""

    source: str | None
    """What is looked at; None: the visitor's webcam."""
    horizon: str
    """How far back can be asked."""
    host: str
    """Name or address to listen on."""
    port: int
    """TCP port; 0 takes a free one."""
    token: str | None
    """What the page must send."""
    tls: Tls | None
    """What makes it https."""
    notes: Sequence[str]
    """What a person should know first."""
    opens: bool
    """Whether a browser is opened."""
    as_json: bool
    """Whether the address is announced as JSON."""


def serve_page(options: PageOptions, loaded: Callable[[int], VideoQA]) -> None:
    """Serve until Ctrl-C; `loaded` gives the runtime, with so many bytes of the ceiling left to requests."""
    limits = LiveLimits()
    with terminated_cleanly(), ExitStack() as needed:
        bound = needed.enter_context(bound_socket(options.host, options.port))
        url = reachable(url_of(bound, "http" if options.tls is None else "https"))
        qa = needed.enter_context(loaded(limits.reserve_bytes))
        page_server(options, qa, limits, needed, lambda: _announce(url, options, qa)).run([bound])


def page_server(
    options: PageOptions, qa: VideoQA, limits: LiveLimits, needed: ExitStack, on_start: Callable[[], None]
) -> Server:
    """The server of the page; `needed` ends what it uses."""
    worker = Worker(answer, limits.waiting)
    needed.callback(worker.close)
    sight: Sight
    if options.source is None:
        sight = VisitorSight(qa, options.horizon, limits, worker.leave_all)
    else:
        sight = DeviceSight(needed.enter_context(qa.live(options.source, horizon=options.horizon)))
    needed.callback(sight.stop)
    page = Page(
        model=qa.bundle.manifest.name,
        version=version("tam-edge"),
        memory_limit_bytes=qa.limit.limit_bytes + limits.reserve_bytes,
        sight=sight,
        worker=worker,
        room=BodyRoom(limits),
        limits=limits,
        files=assets(),
        view=View(),
    )

    def stop() -> None:
        worker.close()
        sight.stop()

    app = Sealed(Guard(make_app(page), options.host, options.token, frozenset(page.files)))
    return Server(app, stop, on_start, options.tls)


def checked_tls(certificate: Path | None, key: Path | None) -> Tls | None:
    """The files of --tls-cert and --tls-key, tried.

    Raises: UsageError.
    """
    if certificate is None and key is None:
        return None
    if certificate is None or key is None:
        raise UsageError("--tls-cert and --tls-key belong together: name both")
    try:
        # A key with a password would have OpenSSL ask for it on the terminal.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, password="")
    except OSError as error:  # ssl.SSLError is one
        why = error.reason or "no PEM file, or a key with a password" if isinstance(error, ssl.SSLError) else ""
        text = f"--tls-cert {certificate} and --tls-key {key} cannot be used: {why or error.strerror}"
        raise UsageError(text) from None
    return Tls(certificate, key)


def _announce(url: str, options: PageOptions, qa: VideoQA) -> None:
    model, source = qa.bundle.manifest.name, options.source or "the visitor's camera"
    print_notes(options.notes)
    if options.source is None and options.tls is None and not is_local(options.host):
        print_notes(["browsers give a page the camera on localhost or over https only: add --tls-self-made"])
    if options.as_json:
        print_json({"event": "serving", "url": url, "model": model, "source": options.source or "visitor"})
    else:
        print(f"Open {url} to ask {model} about {source}. Ctrl-C ends it.", file=sys.stderr, flush=True)
    if options.opens:
        webbrowser.open(url)
