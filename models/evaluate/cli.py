"""`tam-edge eval`: how often a bundle answers rightly, and what each of its parts is worth."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TextIO

import typer

from tam_edge.runtime.errors import UsageError

if TYPE_CHECKING:
    from tam_edge.models.evaluate.ask import Reply

SECONDS_BETWEEN_LINES = 60.0

evaluate = typer.Typer(help="Measure how often a bundle answers rightly.", add_completion=False, rich_markup_mode=None)

Ablate = Annotated[
    list[str] | None,
    typer.Option(
        "--ablate",
        metavar="NAMES",
        help="Take one thing away and compare, names joined by commas or all: fixed (also fixed-GRID), dense, "
        "random-top2, lowest-2, projector-swap, projector-random, projector-untrained, no-instruction.",
    ),
]
Against = Annotated[
    list[str] | None,
    typer.Option("--against", metavar="[NAME=]FOLDER", help="Ask another bundle too, in the same table."),
]
Budgets = Annotated[
    list[str] | None,
    typer.Option(
        "--budgets",
        metavar="TOKENS",
        help="Accuracy under these budgets of visual tokens, joined by commas or all, planned and fixed.",
    ),
]
Reencode = Annotated[
    list[str] | None,
    typer.Option(
        "--reencode",
        metavar="NAMES",
        help="Ask about the same films saved in other ways, joined by commas or all: crf35, half, 5fps, letterbox, "
        "pillarbox, rotated, vfr.",
    ),
]


@evaluate.callback()
def _evaluate() -> None:
    """Measure how often a bundle answers rightly."""


@evaluate.command()
def synthetic(
    seed: Annotated[
        int,
        typer.Option("--seed", metavar="N", help="Which unseen scenes; 900000 or above, brisk ones 2900000 or above."),
    ],
    videos: Annotated[int, typer.Option("--videos", metavar="N", help="How many of them.")] = 200,
    model: Annotated[
        Path | None,
        typer.Option("--model", metavar="FOLDER", help="Bundle to use. [default: the one that is installed]"),
    ] = None,
    memory: Annotated[
        str | None, typer.Option("--memory", metavar="SIZE", help="Most memory to take, such as 900MiB.")
    ] = None,
    strategy: Annotated[
        str | None, typer.Option("--strategy", metavar="NAME", help="How patch features become tokens.")
    ] = None,
    threads: Annotated[int | None, typer.Option("--threads", metavar="N", min=1, help="CPU threads.")] = None,
    ablate: Ablate = None,
    against: Against = None,
    budgets: Budgets = None,
    reencode: Reencode = None,
    figures: Annotated[
        Path | None,
        typer.Option("--figures", metavar="FOLDER", help="Write what was compared as PNG and JSON."),
    ] = None,
    replies: Annotated[
        Path | None,
        typer.Option("--replies", metavar="FILE", help="Write every question and answer here, one JSON a line."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON on stdout and nothing else there.")] = False,
) -> None:
    """Ask about scenes of the street camera that training never saw, each filmed into a real video file."""
    from tam_edge.models.evaluate.report import Request, evaluate
    from tam_edge.models.evaluate.table import lines

    if figures is not None:
        from tam_edge.models.evaluate.figures import write_figures  # refuse before the work where it cannot be loaded

        _check_writable(figures / "figures.json")
    if replies is not None:
        _check_writable(replies)
    wanted = {"ablate": ablate, "against": against, "budgets": budgets, "reencode": reencode}
    lists = {name: tuple(values or ()) for name, values in wanted.items()}
    request = Request(seed, videos, model, strategy, memory, threads, **lists)
    with ExitStack() as stack:
        file = None
        if replies is not None:
            replies.parent.mkdir(parents=True, exist_ok=True)
            file = stack.enter_context(replies.open("w", encoding="utf-8"))
        report, _ = evaluate(request, _Progress(file))
    if figures is not None:
        write_figures(report, figures)
    print(json.dumps(report) if as_json else "\n".join(lines(report)))


def _check_writable(path: Path) -> None:
    """Hours of work must not end at a folder that is not there.

    Raises:
        UsageError: the file, or a folder above it, cannot be written.
    """
    place = next(above for above in (path.absolute(), *path.absolute().parents) if above.exists())
    fits = place.is_file() if place == path.absolute() else place.is_dir()
    if not fits or not os.access(place, os.W_OK):
        raise UsageError(f"cannot write {path}: {place} is in the way or may not be written to; name another place")


class _Progress:
    """Says on stderr how far it is, in a log once a minute, and writes replies as they come: a stop loses none."""

    def __init__(self, file: TextIO | None) -> None:
        self._file, self._said = file, time.monotonic()

    def __call__(self, count: int, total: int, who: str, replies: Sequence[Reply]) -> None:
        if self._file is not None:
            self._file.writelines(json.dumps(reply.line(), ensure_ascii=False) + "\n" for reply in replies)
            self._file.flush()
        if sys.stderr.isatty():
            end = "\n" if count == total else ""
            print(f"\r{count} of {total} videos: {who:<24}", end=end, file=sys.stderr, flush=True)
        elif time.monotonic() - self._said >= SECONDS_BETWEEN_LINES:
            print(f"{count} of {total} videos: {who}", file=sys.stderr, flush=True)
            self._said = time.monotonic()
