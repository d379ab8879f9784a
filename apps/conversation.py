"""A conversation: questions typed at a terminal, or one a line from a pipe, each answered before the next is read."""

from __future__ import annotations

import contextlib
import io
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Protocol, TypeVar

from tam_edge.apps.interrupt import Interrupt
from tam_edge.apps.options import checked_questions
from tam_edge.apps.render import print_json, print_notes
from tam_edge.runtime.errors import TamEdgeError, UsageError
from tam_edge.runtime.page import harmless

PROMPT = "> "
HINT = "Ask about {}. An empty line or Ctrl-D ends the conversation, Ctrl-C stops an answer."


class HasText(Protocol):
    """An answer, as far as the next question needs it."""

    @property
    def text(self) -> str:
        """The answer's text."""


Whole = TypeVar("Whole", bound=HasText)


def at_terminal() -> bool:
    """Whether somebody types the questions.

    Raises:
        UsageError: there is no standard input to read them from.
    """
    if sys.stdin is None:  # the program was started with it closed
        raise UsageError("no question: ask with --ask, or leave standard input open to write some there")
    return sys.stdin.isatty()


def converse(
    answer: Callable[[str, Sequence[tuple[str, str]]], Whole],
    questions: Iterable[str],
    show_stopped: Callable[[str | None], None],
    interrupt: Interrupt,
    command: str,
) -> list[tuple[str, Whole]]:
    """Answer questions as they are read, each with those before it as its history.

    At a terminal Ctrl-C stops an answer, and a question that cannot be answered is no reason to leave: `show_stopped`
    hears of it, with the line to say, or None after Ctrl-C.

    Raises:
        KeyboardInterrupt: Ctrl-C while a question is waited for; of a file or pipe at any time.
        TamEdgeError: a question of a file or pipe cannot be answered, or there is none.
    """
    answered, typed = list[tuple[str, Whole]](), at_terminal()
    for line in questions:
        try:
            [question] = checked_questions([line])
            answered.append((question, answer(question, [(asked, earlier.text) for asked, earlier in answered])))
        except (KeyboardInterrupt, Exception) as error:
            if not typed or not (isinstance(error, TamEdgeError) or interrupt.pressed):
                raise
            # Where Ctrl-C was pressed, a library may have turned it into an error of its own.
            show_stopped(None if interrupt.take() else f"{command}: {error}")
    return answered


def questions_read(about: str, before: Callable[[], None] = lambda: None, *, required: bool = True) -> Iterator[str]:
    """Questions as they are written on standard input; at a terminal an empty line ends them, as its end does.

    `about` says what they are about, `before` is called ahead of each one that is typed. None at all is a
    mistake where they are `required`.

    Raises:
        UsageError: there was none in a file or pipe.
        KeyboardInterrupt: Ctrl-C while one is waited for.
    """
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="surrogateescape")  # as in arguments; what is no UTF-8 is refused as a question
    return _typed(about, before) if at_terminal() else _piped(required=required)


def _typed(about: str, before: Callable[[], None]) -> Iterator[str]:
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401  gives `input` its line editing and the earlier questions
    print(HINT.format(about), file=sys.stderr)
    while True:
        before()
        try:
            line = _input().strip()
        except (EOFError, KeyboardInterrupt) as end:
            print(file=sys.stderr)  # what was typed has not ended its line
            if isinstance(end, EOFError):
                return
            raise
        if not line:
            return
        yield line


def _input() -> str:
    if sys.stdout is not None and sys.stdout.isatty():
        return input(PROMPT)  # line editing must know of the prompt to draw the line anew
    print(PROMPT, end="", file=sys.stderr, flush=True)
    return input()


def _piped(*, required: bool) -> Iterator[str]:
    asked = False
    for line in sys.stdin:
        if question := line.strip():
            asked = True
            yield question
    if required and not asked:
        raise UsageError("no question: ask with --ask, or write questions on standard input, one a line")


def show_stopped(error: str | None, *, as_json: bool, stream: bool) -> None:
    """Say why there is no answer, or no whole one: the line, or None after Ctrl-C."""
    if stream and as_json:
        print_json({"event": "stopped", "error": error})
    if error is not None:
        print(harmless(error), file=sys.stderr)
        return
    if not as_json:
        print(flush=True)  # ends the line of what was said so far
    print_notes(["stopped"])
