"""Where a server listens and what its clients must send: options that servers share."""

from __future__ import annotations

import ipaddress
import os
from pathlib import Path
from typing import Annotated

import typer

from tam_edge.runtime.errors import UsageError

TOKEN_VARIABLE = "TAM_EDGE_TOKEN"
LEAST_TOKEN_CHARACTERS = 8

Host = Annotated[
    str, typer.Option("--host", metavar="NAME", help="Address to listen on; others than localhost need a token.")
]
Port = Annotated[int, typer.Option("--port", metavar="N", min=0, max=65535, help="Port; 0 takes a free one.")]
TokenFile = Annotated[
    Path | None,
    typer.Option(
        "--token-file", metavar="FILE", help=f"What clients must send as API key.  [default: {TOKEN_VARIABLE}]"
    ),
]


def is_local(host: str) -> bool:
    """Whether nobody but this machine reaches a server bound to this name or address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def token_for(host: str, file: Path | None) -> str | None:
    """What clients of a server at `host` must send; None: nothing.

    Raises: UsageError if other machines could ask without one, or it cannot be read.
    """
    token = _token(file)
    if token is None and not is_local(host):
        text = f"--host {host} lets other machines ask: give a token with --token-file or {TOKEN_VARIABLE}"
        raise UsageError(text)
    return token


def _token(file: Path | None) -> str | None:
    text, source = os.environ.get(TOKEN_VARIABLE), TOKEN_VARIABLE
    if file is not None:
        source = f"--token-file {file}"
        try:
            text = file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            raise UsageError(f"{source}: cannot be read as text") from None
    if text is None:
        return None
    token = text.strip()
    if len(token) < LEAST_TOKEN_CHARACTERS or not token.isascii() or not token.isprintable() or " " in token:
        raise UsageError(f"{source}: a token is one word of at least {LEAST_TOKEN_CHARACTERS} ASCII characters")
    return token
