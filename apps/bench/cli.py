"""`tam-edge bench`: its commands."""

from __future__ import annotations

import typer

from tam_edge.apps.bench.frames import frames

app = typer.Typer(
    help="Measure this device, beside what one would use instead.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
)
app.command()(frames)


@app.callback()
def bench() -> None:
    """Measure this device, beside what one would use instead."""
