"""`tam-edge run`: ask about a video, and read the answer while it is written."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import Annotated

import typer

import tam_edge.apps.options as opt
from tam_edge.apps.plan import read_plans
from tam_edge.apps.render import (
    explain_costs,
    explain_plan,
    import_printing,
    not_done,
    print_json,
    print_notes,
    print_row,
    print_text,
    progress,
)
from tam_edge.apps.report import Entry, report_html
from tam_edge.apps.thumbnails import thumbnails
from tam_edge.apps.writing import check_writable, write_whole
from tam_edge.runtime.answer import Answer
from tam_edge.runtime.errors import UsageError
from tam_edge.runtime.frames import Video
from tam_edge.runtime.plan import Plan
from tam_edge.runtime.session import AnswerStream, VideoQA

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


@dataclass(frozen=True, slots=True)
class Wishes:
    """How every question of this run is answered."""

    strategy: str | None
    """Strategy by name; None: the bundle's first."""
    frames: int | None
    """Number of frames by hand."""
    grid: int | None
    """Grid by hand, tokens per side."""
    max_tokens: int | None
    """Longest answer in tokens; None: the bundle's."""
    temperature: float
    """0 is greedy."""
    seed: int
    """Seed of the draws."""

    def stream(self, qa: VideoQA, clip: Video, question: str, plan: Plan | None) -> AnswerStream:
        """Begin to answer."""
        return qa.stream(clip, question, plan=plan, **asdict(self))

    @property
    def by_hand(self) -> bool:
        """Whether the plan was overridden, so that what of it was not possible is news."""
        return self.frames is not None or self.grid is not None


@dataclass(frozen=True, slots=True)
class Display:
    """How answers are shown."""

    as_json: bool
    """JSON on stdout instead of text."""
    stream: bool
    """With JSON: one object a line, as things happen."""
    explain: bool
    """Plan and costs in words; beside JSON they go to stderr."""
    several: bool
    """More than one question is answered."""
    by_hand: bool
    """The plan was overridden."""


def run(
    video: opt.Videos,
    ask: opt.Questions,
    model: opt.Model = None,
    memory: opt.Memory = None,
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
    """Answer questions about a video."""
    opt.show_log(verbose)
    questions = opt.checked_questions(ask)
    wishes = Wishes(strategy, frames, grid, max_tokens, temperature, seed)
    if plan and (strategy or wishes.by_hand):
        raise UsageError("--plan says what to look at: leave out --strategy, --frames and --grid")
    plans = read_plans(plan, len(questions)) if plan else [None] * len(questions)
    if report:
        check_writable(report, [*video, *([str(plan)] if plan else [])])
    if explain:
        import_printing()
    display = Display(as_json, stream, explain, len(questions) > 1, wishes.by_hand)
    with opt.load(model, memory, device, threads) as qa, opt.opened(qa, video, start, end) as clip:
        if not as_json:
            print_notes(clip.info.notes)
        answers = [
            _answer(wishes, qa, clip, asked, given, display) for asked, given in zip(questions, plans, strict=True)
        ]
        if as_json and not stream:
            _print_answers(answers)
        if report:
            qa.close()  # the frames are decoded once more: not beside the engines
            pairs = zip(questions, answers, strict=True)
            entries = [
                Entry(asked, answer, tuple(thumbnails(clip, answer.plan)), clip.info.notes) for asked, answer in pairs
            ]
            write_whole(report, report_html(entries, video))


def _answer(wishes: Wishes, qa: VideoQA, clip: Video, question: str, plan: Plan | None, display: Display) -> Answer:
    with progress("Deciding what to look at"):
        stream = wishes.stream(qa, clip, question, plan)
    with stream:
        return _show(question, stream, display)


def _show(question: str, stream: AnswerStream, display: Display) -> Answer:
    planned = stream.plan
    words = sys.stderr if display.as_json else sys.stdout
    if display.explain:
        explain_plan(question, planned, words)
    if not display.as_json:
        _show_text(question, stream, display)
        known = planned.rejections if display.explain or not display.by_hand else ()
        print_notes(not_done(rejection for rejection in stream.answer.rejections if rejection not in known))
    elif display.stream:
        _show_events(question, stream)
    else:
        with progress(f"Looking at {planned.frames} frames"):
            for _ in stream:
                pass
    if display.explain:
        explain_costs(stream.answer, words)
    return stream.answer


def _show_text(question: str, stream: AnswerStream, display: Display) -> None:
    with progress(f"Looking at {stream.plan.frames} frames"):
        first = next(stream, "")
    if display.several and not display.explain:
        print_row("Question", question)
    print_text(chain([first], stream), label="Answer" if display.several or display.explain else "")


def _show_events(question: str, stream: AnswerStream) -> None:
    print_json({"event": "plan", "question": question, "plan": stream.plan.to_json()})
    for piece in stream:
        print_json({"event": "text", "text": piece})
    print_json({"event": "answer", **stream.answer.to_json()})


def _print_answers(answers: Sequence[Answer]) -> None:
    values = [answer.to_json() for answer in answers]
    print_json(values[0] if len(values) == 1 else {"answers": values})
