"""`tam-edge serve`: OpenAI's chat API over HTTP."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import fastapi  # noqa: F401  first, so that its extra is the one named where it is missing
import typer

import tam_edge.apps.options as opt
from tam_edge.apps.render import print_json
from tam_edge.apps.serve.limits import ServeLimits
from tam_edge.apps.serve.metrics import Counted
from tam_edge.apps.serve.routes import OPEN_PATHS, make_app
from tam_edge.apps.serve.service import Reach, make_service
from tam_edge.apps.terminate import terminated_cleanly
from tam_edge.apps.web.guard import Guard
from tam_edge.apps.web.listening import Server, bound_socket, reachable, url_of
from tam_edge.apps.web.token import Host, Port, TokenFile, token_for
from tam_edge.runtime.budget import parse_size
from tam_edge.runtime.errors import UsageError

ServeDir = Annotated[
    list[Path] | None,
    typer.Option("--serve-dir", metavar="FOLDER", help="Folder whose files may be asked about by path; repeatable."),
]
AllowHttp = Annotated[bool, typer.Option("--allow-http", help="Fetch http(s) URLs of the open internet.")]
AllowHost = Annotated[
    list[str] | None,
    typer.Option(
        "--allow-host", metavar="NAME", help="Host that may be fetched from although it is private; repeatable."
    ),
]
MaxBody = Annotated[str, typer.Option("--max-body", metavar="SIZE", help="Largest request.")]
MaxDuration = Annotated[float, typer.Option("--max-duration", metavar="SECONDS", min=1, help="Longest video.")]
Queue = Annotated[int, typer.Option("--queue", metavar="N", min=1, help="Most questions that wait.")]


def serve(
    host: Host = "127.0.0.1",
    port: Port = 8000,
    token_file: TokenFile = None,
    serve_dir: ServeDir = None,
    allow_http: AllowHttp = False,
    allow_host: AllowHost = None,
    model: opt.Model = None,
    memory: opt.Memory = None,
    device: opt.Device = "auto",
    threads: opt.Threads = None,
    max_body: MaxBody = "32MiB",
    max_duration: MaxDuration = 4 * 3600.0,
    queue: Queue = 16,
    as_json: opt.AsJson = False,
    verbose: opt.Verbose = False,
) -> None:
    """Serve OpenAI's chat API: questions about pictures and videos, one answered at a time.

    Ctrl-C ends it.
    """
    opt.show_log(verbose)
    if not math.isfinite(max_duration):
        raise UsageError("--max-duration must be a number of seconds")
    limits = ServeLimits(body_bytes=parse_size(max_body), duration_seconds=max_duration, waiting=queue)
    reach = _reach(host, token_file, serve_dir or (), allow_http, allow_host or ())
    with terminated_cleanly(), ExitStack() as needed:
        bound = needed.enter_context(bound_socket(host, port))
        qa = needed.enter_context(
            opt.load(model, memory, device, threads, reserve_bytes=limits.reserve_bytes, instead="--max-body")
        )
        service = make_service(qa, limits, reach, needed)
        app = Counted(Guard(make_app(service), host, reach.token, OPEN_PATHS), service.metrics)
        url = reachable(url_of(bound))
        Server(app, service.worker.close, lambda: _announce(url, service.model, as_json)).run([bound])


def _reach(
    host: str, token_file: Path | None, serve_dirs: Sequence[Path], allow_http: bool, allow_hosts: Sequence[str]
) -> Reach:
    token = token_for(host, token_file)
    if allow_hosts and not allow_http:
        raise UsageError("--allow-host needs --allow-http: nothing is fetched without it")
    for folder in serve_dirs:
        if not folder.is_dir():
            raise UsageError(f"--serve-dir {folder}: no such folder")
    folders = tuple(folder.resolve() for folder in serve_dirs)
    return Reach(host, token, folders, allow_http, frozenset(name.lower() for name in allow_hosts))


def _announce(url: str, model: str, as_json: bool) -> None:
    if as_json:
        print_json({"event": "serving", "url": f"{url}/v1", "model": model})
    else:
        print(f"Serving {model} at {url}/v1. Ctrl-C ends it.", file=sys.stderr, flush=True)
