"""`tam-edge live`: a camera, asked in a browser or at a terminal."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import tam_edge.apps.options as opt
from tam_edge.apps.interrupt import Interrupt
from tam_edge.apps.live.terminal import Terminal
from tam_edge.apps.terminate import terminated_cleanly
from tam_edge.apps.web.token import Host, Port, TokenFile, token_for
from tam_edge.runtime.duration import duration_seconds
from tam_edge.runtime.errors import UsageError
from tam_edge.runtime.live.inside import checked_horizon

if TYPE_CHECKING:
    from tam_edge.apps.web.listening import Tls

VISITOR = "visitor"
_OF_THE_PAGE = {
    "host": "--host",
    "port": "--port",
    "token_file": "--token-file",
    "tls_cert": "--tls-cert",
    "tls_key": "--tls-key",
    "tls_self_made": "--tls-self-made",
    "opens": "--open",
}

Source = Annotated[
    str,
    typer.Option(
        "--source",
        metavar="S",
        help="Camera (0, /dev/video0, csi://0), address (rtsp://, http://), GStreamer pipeline or file; "
        "visitor is the webcam of whoever opens the page.",
    ),
]
AtTerminal = Annotated[bool, typer.Option("--terminal", help="Ask here instead of on a page; or one question a line.")]
Last = Annotated[
    str | None,
    typer.Option(
        "--last", metavar="TIME", help="With --terminal: ask about so much until now, such as 10s.  [default: all]"
    ),
]
Horizon = Annotated[str, typer.Option("--horizon", metavar="TIME", help="How far back can be asked.")]
TlsCert = Annotated[
    Path | None, typer.Option("--tls-cert", metavar="FILE", help="Certificate in PEM, to serve the page over https.")
]
TlsKey = Annotated[Path | None, typer.Option("--tls-key", metavar="FILE", help="Its key, without a password.")]
TlsSelfMade = Annotated[
    bool,
    typer.Option("--tls-self-made", help="https with a certificate made here, that nobody vouches for."),
]
Open = Annotated[bool, typer.Option("--open", help="Open the page in this machine's browser.")]


def live(
    context: typer.Context,
    source: Source = VISITOR,
    terminal: AtTerminal = False,
    last: Last = None,
    model: opt.Model = None,
    memory: opt.Memory = None,
    device: opt.Device = "auto",
    threads: opt.Threads = None,
    horizon: Horizon = "10min",
    host: Host = "127.0.0.1",
    port: Port = 8001,
    token_file: TokenFile = None,
    tls_cert: TlsCert = None,
    tls_key: TlsKey = None,
    tls_self_made: TlsSelfMade = False,
    opens: Open = False,
    as_json: opt.AsJson = False,
    verbose: opt.Verbose = False,
) -> None:
    """Look at a camera, and answer questions about it at any moment: on a page in the browser, or at a terminal.

    Ctrl-C ends it. Browsers give a page the webcam on localhost or over https only.
    """
    opt.show_log(verbose)
    checked_horizon(horizon, "--horizon")
    if terminal:
        _refuse_options_of_the_page(context)
        if source == VISITOR:
            raise UsageError("--terminal needs --source: a terminal has no webcam of its own")
        if sys.stdin is None:  # the program was started with it closed
            raise UsageError("--terminal reads questions from standard input, which is closed: leave it open")
        if last is not None:
            duration_seconds(last, "--last")
        interrupt = context.find_object(Interrupt) or Interrupt()
        with (
            terminated_cleanly(),
            opt.load(model, memory, device, threads) as qa,
            qa.live(source, horizon=horizon) as session,
        ):
            Terminal(session, last, as_json=as_json).converse(interrupt, context.command_path)
        return
    if last is not None:
        raise UsageError("--last belongs to --terminal: the page asks how far back")
    from tam_edge.apps.live.serving import PageOptions, serve_page

    tls, notes = _secured(host, tls_cert, tls_key, self_made=tls_self_made)
    options = PageOptions(
        source=None if source == VISITOR else source,
        horizon=horizon,
        host=host,
        port=port,
        token=token_for(host, token_file),
        tls=tls,
        notes=notes,
        opens=opens,
        as_json=as_json,
    )
    serve_page(options, lambda reserve: opt.load(model, memory, device, threads, reserve_bytes=reserve))


def _refuse_options_of_the_page(context: typer.Context) -> None:
    for name, option in _OF_THE_PAGE.items():
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            raise UsageError(f"{option} belongs to the page: leave it out with --terminal")


def _secured(host: str, cert: Path | None, key: Path | None, *, self_made: bool) -> tuple[Tls | None, list[str]]:
    """What makes the page https, if anything does, and what to say about it."""
    from tam_edge.apps.live.serving import checked_tls

    given = checked_tls(cert, key)
    if not self_made:
        return given, []
    if given is not None:
        raise UsageError("--tls-self-made makes a certificate: leave out --tls-cert and --tls-key")
    from tam_edge.apps.live.certificate import self_made as made_for

    made = made_for(host)
    return made.tls, [f"the certificate names {', '.join(made.names)}; its SHA-256 fingerprint is {made.fingerprint}"]
