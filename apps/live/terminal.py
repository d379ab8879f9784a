"""`tam-edge live --terminal`: the conversation without a browser: status, question, plan and why, answer, evidence."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from itertools import chain

from tam_edge.apps.conversation import at_terminal, converse, questions_read, show_stopped
from tam_edge.apps.interrupt import Interrupt
from tam_edge.apps.render import not_done, print_json, print_notes, print_row, print_text, progress
from tam_edge.apps.units import milliseconds_text
from tam_edge.runtime.budget import size_text
from tam_edge.runtime.live.answers import LiveAnswer
from tam_edge.runtime.live.events import LiveStatus
from tam_edge.runtime.live.session import Live
from tam_edge.runtime.page import harmless

TIMES_SHOWN = 4


@dataclass(frozen=True, slots=True)
class Said:
    """What of an answer the next question needs: its frames are let go of, or a long conversation would keep them."""

    text: str
    """The answer."""


class Terminal:
    """A conversation about one live session."""

    def __init__(self, live: Live, last: str | None, *, as_json: bool) -> None:
        """Ask about so much time until now; None: all that is kept."""
        self._live, self._last, self._as_json = live, last, as_json
        self._heard = 0
        self._told = set[str]()

    def converse(self, interrupt: Interrupt, command: str) -> None:
        """Answer what is asked until the end of the input.

        Raises: KeyboardInterrupt; TamEdgeError where a question of a file or pipe cannot be answered.
        """
        questions = questions_read("what the camera sees", self.show_status, required=False)
        try:
            converse(
                self._answer if at_terminal() else self._answer_piped,
                questions,
                partial(show_stopped, as_json=self._as_json, stream=True),
                interrupt,
                command,
            )
        finally:
            self._show_events()

    def show_status(self) -> None:
        """Say on stderr how the session is, and what happened to it since."""
        self._show_events()
        print(harmless(status_line(self._live.status)), file=sys.stderr, flush=True)

    def _answer_piped(self, question: str, history: Sequence[tuple[str, str]]) -> Said:
        self.show_status()
        return self._answer(question, history)

    def _answer(self, question: str, history: Sequence[tuple[str, str]]) -> Said:
        with progress("Deciding what to look at"):
            stream = self._live.stream(question, last=self._last, history=history)
        with stream:
            if self._as_json:
                print_json({"event": "plan", "question": question, "plan": stream.plan.to_json()})
                for piece in stream:
                    print_json({"event": "text", "text": piece})
                print_json({"event": "answer", **stream.answer.to_json()})
                return Said(stream.answer.text)
            if not (at_terminal() and sys.stdout.isatty()):
                print_row("Question", question)
            print_row("Task type", f"{stream.plan.task} ({stream.plan.confidence:.0%})")
            for number, reason in enumerate(stream.plan.reasons):
                print_row("" if number else "Plan", reason)
            with progress("Reading what was seen"):
                first = next(stream, "")
            print_text(chain([first], stream), label="Answer")
            self._show_costs(stream.answer)
            return Said(stream.answer.text)

    def _show_costs(self, answer: LiveAnswer) -> None:
        times, told = answer.answer.timings, answer.answer
        print_row("Seen at", times_text([frame.time_seconds for frame in answer.evidence]))
        first, total = milliseconds_text(times.first_token), milliseconds_text(times.total)
        memory = f"peak {size_text(told.peak_bytes)} of {size_text(told.memory_limit_bytes)}"
        print_row("Cost", f"first word after {first}, all of it {total}; {memory}")
        news = [note for note in (*answer.notes, *not_done(told.rejections)) if note not in self._told]
        self._told.update(not_done(told.rejections))
        print_notes(news)

    def _show_events(self) -> None:
        for event in self._live.events_after(self._heard):
            self._heard = event.number
            if self._as_json:
                print_json({"event": "session", **event.to_json()})
            else:
                print_notes([f"{clock(event.time_seconds)} {event.text}"])


def status_line(status: LiveStatus) -> str:
    """The session at a glance, in one line."""
    kept = "nothing kept" if status.kept_from_seconds is None else f"{_length(status)} kept"
    state = status.state if not status.problem else f"{status.state} ({status.problem})"
    return ", ".join(
        (
            f"{status.source}: {state}",
            f"{status.read_fps:.1f} frames/s",
            f"{status.seen_fps:.1f} looked at in {milliseconds_text(status.look_ms)} each",
            kept,
            f"{size_text(status.resident_bytes)} of {size_text(status.memory_limit_bytes)}",
        )
    )


def times_text(times: Sequence[float]) -> str:
    """Times of day, local ones; the middle ones of many are left out."""
    texts = [clock(seconds) for seconds in times]
    if len(texts) <= 2 * TIMES_SHOWN:
        return ", ".join(texts)
    return f"{', '.join(texts[:TIMES_SHOWN])}, ... {', '.join(texts[-TIMES_SHOWN:])}"


def clock(seconds: float) -> str:
    """A Unix time as the local time of day, to a tenth of a second."""
    return datetime.fromtimestamp(seconds).astimezone().strftime("%H:%M:%S.%f")[:-5]


def _length(status: LiveStatus) -> str:
    seconds = status.newest_seconds - (status.kept_from_seconds or status.newest_seconds)
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
