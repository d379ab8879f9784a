"""What a person sees on the terminal. The answer goes to stdout; notes and progress go to stderr."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, TextIO

from tam_edge.apps.units import clock_text, milliseconds_text, reused_text
from tam_edge.runtime.budget import size_text
from tam_edge.runtime.calibration import COMMAND
from tam_edge.runtime.page import harmless
from tam_edge.runtime.plan import Plan, Rejection

if TYPE_CHECKING:
    from tam_edge.runtime.answer import Answer

LABEL_COLUMNS = 12
BAR_COLUMNS = 20
TASKS_SHOWN = 3
TIMES_SHOWN = 4


def print_json(value: object) -> None:
    """Print one JSON value as one line on stdout; characters that its encoding lacks are escaped."""
    text = json.dumps(value, ensure_ascii=not _is_utf8(sys.stdout), allow_nan=False)
    sys.stdout.write(f"{text}\n")  # in one piece, so that Ctrl-C never leaves a line without its end
    sys.stdout.flush()


def print_text(pieces: Iterable[str], *, label: str = "") -> None:
    """Print an answer on stdout piece by piece, as it is generated, after its label, and end the line."""
    if label:
        print(f"{label:<{LABEL_COLUMNS}}", end="")
    for piece in pieces:
        print(harmless(piece), end="", flush=True)
    print(flush=True)


def print_notes(notes: Iterable[str]) -> None:
    """Say on stderr what a person should know beside the answer."""
    for note in notes:
        print(harmless(f"note: {note}"), file=sys.stderr)


def say(text: str) -> None:
    """Say a line on stderr at once."""
    print(harmless(text), file=sys.stderr, flush=True)


def not_done(rejections: Iterable[Rejection]) -> list[str]:
    """What was wanted and not done, one line each."""
    return [f"{rejection.what}: {rejection.reason}" for rejection in rejections]


@contextlib.contextmanager
def progress(doing: str) -> Iterator[None]:
    """Show on stderr that something is being done, if that is a terminal; nothing of it stays there."""
    if sys.stderr is None or not sys.stderr.isatty():
        yield
        return
    from rich.console import Console

    with Console(stderr=True).status(doing, spinner="line"):
        yield


@contextlib.contextmanager
def progress_lines() -> Iterator[Callable[[str], None]]:
    """What says on stderr what is being done now: on a terminal in one line that goes away, else line by line."""
    if sys.stderr is None or not sys.stderr.isatty():
        yield lambda doing: print(harmless(doing), file=sys.stderr, flush=True) if sys.stderr else None
        return
    from rich.console import Console
    from rich.markup import escape

    with Console(stderr=True).status("measuring", spinner="line") as status:
        yield lambda doing: status.update(escape(f"measuring {harmless(doing)}"))


def import_printing() -> None:
    """Import what prints words now, so that it is in memory when the rest is predicted."""
    import rich.console
    import rich.text  # noqa: F401


def explain_plan(question: str, plan: Plan, file: TextIO) -> None:
    """Print the plan in words: what kind of question, what will be looked at, why, and what was not possible."""
    rows = [("Question", question)]
    rows += [("Task type", line) for line in _task_lines(plan, file)]
    rows += [("Plan", reason) for reason in plan.reasons]
    rows += [("Frames at", _times(plan.timestamps_seconds))]
    rows += [("Not done", line) for line in not_done(plan.rejections)]
    if plan.predicted_bytes:
        needs = ", ".join(f"{name} {size_text(size)}" for name, size in plan.predicted_bytes.items())
        measured = ", by what engines hold on this device" if plan.predicted_bytes_from == "device" else ""
        rows += [("Memory", f"predicted peaks{measured}: {needs}")]
    rows += [("Time", _predicted_time(plan))]
    _print_rows(rows, file)


def explain_costs(answer: Answer, file: TextIO) -> None:
    """Print what the answer cost: what was reused, milliseconds of each stage, peak memory against the limit."""
    times = answer.timings
    stages = ("load", "inductor", "decode", "vision", "strategy", "prefill", "generate")
    took = ", ".join(f"{stage} {milliseconds_text(getattr(times, stage))}" for stage in stages)
    whole = f"first token after {milliseconds_text(times.first_token)}, all of it {milliseconds_text(times.total)}"
    memory = f"peak {size_text(answer.peak_bytes)} of {size_text(answer.memory_limit_bytes)} allowed"
    if answer.peak_gpu_bytes:
        memory += f"; GPU {size_text(answer.peak_gpu_bytes)}"
    reused = reused_text(answer.plan.frames, answer.cache)
    rows = [("Reused", reused)] if reused else []
    _print_rows([*rows, ("Time", took), ("Time", whole), ("Memory", memory), *_against_prediction(answer)], file)


def print_row(label: str, text: str) -> None:
    """Print one labelled line on stdout."""
    print(harmless(f"{label:<{LABEL_COLUMNS}}{text}"), flush=True)


def _predicted_time(plan: Plan) -> str:
    if plan.predicted_ms is None:
        return f"not calibrated: run {COMMAND}"
    stages = (plan.predicted_stages_ms or {}).items()
    parts = ", ".join(f"{name} {milliseconds_text(ms)}" for name, ms in stages)
    return f"predicted: first token after {milliseconds_text(plan.predicted_ms)} ({parts})"


def _against_prediction(answer: Answer) -> list[tuple[str, str]]:
    """Of every stage what was measured, and what was predicted."""
    times = [
        f"{stage.replace('_', ' ')} {milliseconds_text(getattr(answer.timings, stage))} of {milliseconds_text(ms)}"
        for stage, ms in answer.predicted_ms.items()
        if ms is not None
    ]
    predicted = answer.plan.predicted_bytes or {}
    sizes = [
        f"{stage} {size_text(held.resident_bytes)} of {size_text(predicted[stage])}"
        for stage, held in answer.stage_bytes.items()
        if stage in predicted
    ]
    return [("Measured", f"{', '.join(some)} predicted") for some in (times, sizes) if some]


def _task_lines(plan: Plan, file: TextIO) -> Iterator[str]:
    ranked = sorted(plan.probabilities.items(), key=lambda item: -item[1])[:TASKS_SHOWN]
    widest = max(len(name) for name, _ in ranked)
    mark = "\N{FULL BLOCK}" if _is_utf8(file) else "#"
    for name, probability in ranked:
        yield f"{name:<{widest}}  {probability:>6.1%}  {mark * round(probability * BAR_COLUMNS)}"


def _times(seconds: tuple[float, ...]) -> str:
    if len(seconds) <= 2 * TIMES_SHOWN:
        return ", ".join(map(clock_text, seconds))
    first, last = (", ".join(map(clock_text, part)) for part in (seconds[:TIMES_SHOWN], seconds[-TIMES_SHOWN:]))
    return f"{first}, ... {last}"


def _print_rows(rows: list[tuple[str, str]], file: TextIO) -> None:
    """Labels and texts in two columns, folded to the terminal's width; a label that repeats is printed once."""
    from rich.console import Console
    from rich.text import Text

    console = Console(file=file, highlight=False)
    above = ""
    for label, text in rows:
        shown = label if label != above else ""
        for line in Text(harmless(text)).wrap(console, max(20, console.width - LABEL_COLUMNS)):
            line.rstrip()
            console.print(Text(f"{shown:<{LABEL_COLUMNS}}", "bold").append_text(Text(line.plain)), soft_wrap=True)
            shown = ""
        above = label


def _is_utf8(file: TextIO) -> bool:
    return (getattr(file, "encoding", None) or "").lower().replace("-", "") == "utf8"
