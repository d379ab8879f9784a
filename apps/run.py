"""`tam-edge run`: ask about a video, and read the answer while it is written."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

import tam_edge.apps.options as opt
from tam_edge.apps.answering import Asking, Display, Wishes
from tam_edge.apps.conversation import at_terminal, converse, questions_read, show_stopped
from tam_edge.apps.interrupt import Interrupt
from tam_edge.apps.plan import read_plans
from tam_edge.apps.render import import_printing, print_json, print_notes
from tam_edge.apps.report import Entry, report_html
from tam_edge.apps.thumbnails import thumbnails
from tam_edge.apps.writing import check_writable, write_whole
from tam_edge.runtime.answer import Answer
from tam_edge.runtime.errors import UsageError
from tam_edge.runtime.frames import Video

Questions = Annotated[
    list[str] | None,
    typer.Option(
        "--ask", metavar="TEXT", help="Question; several are answered in turn.  [default: read them, as a conversation]"
    ),
]
MaxTokens = Annotated[
    int | None, typer.Option("--max-tokens", metavar="N", min=1, help="Longest answer.  [default: the bundle's]")
]
Temperature = Annotated[
    float,
    typer.Option("--temperature", metavar="T", help="0 takes the likeliest word each time; above, words are drawn."),
]
Seed = Annotated[int, typer.Option("--seed", metavar="N", help="Seed of the draws.")]
PlanFile = Annotated[
    Path | None, typer.Option("--plan", metavar="FILE", help="Repeat a plan that `tam-edge plan --json` printed.")
]
Stream = Annotated[bool, typer.Option("--stream", help="With --json: one object a line, while the answer is written.")]
Explain = Annotated[bool, typer.Option("--explain", help="Say what is looked at, why, and what it cost.")]
Report = Annotated[
    Path | None, typer.Option("--report", metavar="FILE", help="Write all of it, with the frames, as one HTML page.")
]


def run(
    context: typer.Context,
    video: opt.Videos,
    ask: Questions = None,
    model: opt.Model = None,
    memory: opt.Memory = None,
    deadline: opt.Deadline = None,
    strategy: opt.Strategy = None,
    start: opt.Start = None,
    end: opt.End = None,
    device: opt.Device = "auto",
    threads: opt.Threads = None,
    max_tokens: MaxTokens = None,
    temperature: Temperature = 0.0,
    seed: Seed = 0,
    frames: opt.Frames = None,
    grid: opt.Grid = None,
    plan: PlanFile = None,
    stream: Stream = False,
    explain: Explain = False,
    report: Report = None,
    as_json: opt.AsJson = False,
    verbose: opt.Verbose = False,
) -> None:
    """Answer questions about a video.

    Without --ask questions are read from the terminal, or one a line from standard input, and answered as they come.
    """
    opt.show_log(verbose)
    questions = opt.checked_questions(ask or [])
    wishes = Wishes(deadline, strategy, frames, grid, max_tokens, temperature, seed)
    if plan and (strategy or wishes.by_hand):
        raise UsageError("--plan says what to look at: leave out --strategy, --frames and --grid")
    plans = read_plans(plan, len(questions) or 1) if plan else [None] * (len(questions) or 1)
    if report:
        check_writable(report, [*video, *([str(plan)] if plan else [])])
    if explain:
        import_printing()
    labelled = len(questions) > 1 if ask else not (at_terminal() and sys.stdout.isatty())
    display = Display(as_json, stream, explain, labelled, wishes.by_hand)
    with opt.load(model, memory, device, threads) as qa, opt.opened(qa, video, start, end) as clip:
        if not as_json:
            print_notes(clip.info.notes)
        asking = Asking(wishes, qa, clip, display)
        if ask:
            answered = [(asked, asking.answer(asked, given)) for asked, given in zip(questions, plans, strict=True)]
        else:
            answered = converse(
                lambda asked, history: asking.answer(asked, plans[0], history),
                questions_read("the video"),
                partial(show_stopped, as_json=as_json, stream=stream),
                context.find_object(Interrupt) or Interrupt(),
                context.command_path,
            )
        if as_json and not stream:
            _print_answers([answer for _, answer in answered])
        if report and answered:
            qa.close()  # the frames are decoded once more: not beside the engines
            _write_report(report, answered, clip, video)


def _write_report(path: Path, answered: Iterable[tuple[str, Answer]], clip: Video, sources: Sequence[str]) -> None:
    entries = [
        Entry(asked, answer, tuple(thumbnails(clip, answer.plan)), clip.info.notes) for asked, answer in answered
    ]
    write_whole(path, report_html(entries, sources))


def _print_answers(answers: Sequence[Answer]) -> None:
    values = [answer.to_json() for answer in answers]
    print_json(values[0] if len(values) == 1 else {"answers": values})
