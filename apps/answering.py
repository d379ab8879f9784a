"""One question of `tam-edge run`: ask it as wished, and show the answer while it is written."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from itertools import chain

from tam_edge.apps.render import (
    explain_costs,
    explain_plan,
    not_done,
    print_json,
    print_notes,
    print_row,
    print_text,
    progress,
)
from tam_edge.runtime.answer import Answer
from tam_edge.runtime.frames import Video
from tam_edge.runtime.plan import Plan, Rejection
from tam_edge.runtime.session import VideoQA
from tam_edge.runtime.stream import AnswerStream


@dataclass(frozen=True, slots=True)
class Wishes:
    """How every question of this run is answered."""

    deadline: str | None
    """Most time until the first word of each, such as "3s"; None: as long as it takes."""
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

    def stream(
        self, qa: VideoQA, clip: Video, question: str, plan: Plan | None, history: Sequence[tuple[str, str]]
    ) -> AnswerStream:
        """Begin to answer."""
        return qa.stream(clip, question, plan=plan, history=history, **asdict(self))

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
    labelled: bool
    """Questions are shown beside their answers."""
    by_hand: bool
    """The plan was overridden."""
    told: set[Rejection] = field(default_factory=set)
    """What was said beside the answers before, and is not said again."""


@dataclass(frozen=True, slots=True)
class Asking:
    """What every question of a run has in common."""

    wishes: Wishes
    """How it is answered."""
    qa: VideoQA
    """What answers it."""
    clip: Video
    """What it is about."""
    display: Display
    """How the answer is shown."""

    def answer(self, question: str, plan: Plan | None, history: Sequence[tuple[str, str]] = ()) -> Answer:
        """Answer one question and show it."""
        with progress("Deciding what to look at"):
            stream = self.wishes.stream(self.qa, self.clip, question, plan, history)
        with stream:
            return _show(question, stream, self.display)


def _show(question: str, stream: AnswerStream, display: Display) -> Answer:
    planned = stream.plan
    words = sys.stderr if display.as_json else sys.stdout
    if display.explain:
        explain_plan(question, planned, words)
    if not display.as_json:
        _show_text(question, stream, display)
        known = {*display.told, *(planned.rejections if display.explain or not display.by_hand else ())}
        news = [rejection for rejection in stream.answer.rejections if rejection not in known]
        print_notes(not_done(news))
        display.told.update(news)
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
    if display.labelled and not display.explain:
        print_row("Question", question)
    print_text(chain([first], stream), label="Answer" if display.labelled or display.explain else "")


def _show_events(question: str, stream: AnswerStream) -> None:
    print_json({"event": "plan", "question": question, "plan": stream.plan.to_json()})
    for piece in stream:
        print_json({"event": "text", "text": piece})
    print_json({"event": "answer", **stream.answer.to_json()})
