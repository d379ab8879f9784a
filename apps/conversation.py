"""A conversation: questions typed at a terminal, or one a line from a pipe, each answered before the next is read."""

from __future__ import annotations

import contextlib
import io
import sys
from collections.abc import Iterator

from tam_edge.apps.answering import Asking, Display
from tam_edge.apps.interrupt import Interrupt
from tam_edge.apps.options import checked_questions
from tam_edge.apps.render import print_json, print_notes
from tam_edge.runtime.answer import Answer
from tam_edge.runtime.errors import TamEdgeError, UsageError
from tam_edge.runtime.page import harmless
from tam_edge.runtime.plan import Plan

PROMPT = "> "
HINT = "Ask about the video. An empty line or Ctrl-D ends the conversation, Ctrl-C stops an answer."


def at_terminal() -> bool:
    """Whether somebody types the questions.

    Raises:
        UsageError: there is no standard input to read them from.
    """
    if sys.stdin is None:  # the program was started with it closed
        raise UsageError("no question: ask with --ask, or leave standard input open to write some there")
    return sys.stdin.isatty()


def converse(asking: Asking, plan: Plan | None, interrupt: Interrupt, command: str) -> list[tuple[str, Answer]]:
    """Answer questions as they are read, each with those before it as its history.

    At a terminal Ctrl-C stops an answer, and a question that cannot be answered is no reason to leave.

    Raises:
        KeyboardInterrupt: Ctrl-C while a question is waited for; of a file or pipe at any time.
        TamEdgeError: a question of a file or pipe cannot be answered, or there is none.
    """
    answered, typed = list[tuple[str, Answer]](), at_terminal()
    for line in questions_read():
        try:
            [question] = checked_questions([line])
            answer = asking.answer(question, plan, [(asked, earlier.text) for asked, earlier in answered])
            answered.append((question, answer))
        except (KeyboardInterrupt, Exception) as error:
            if not typed or not (isinstance(error, TamEdgeError) or interrupt.pressed):
                raise
            # Where Ctrl-C was pressed, a library may have turned it into an error of its own.
            _show_stopped(None if interrupt.take() else f"{command}: {error}", asking.display)
    return answered


def questions_read() -> Iterator[str]:
    """Questions as they are written on standard input; at a terminal an empty line ends them, as its end does.

    Raises:
        UsageError: there was none in a file or pipe.
        KeyboardInterrupt: Ctrl-C while one is waited for.
    """
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="surrogateescape")  # as in arguments; what is no UTF-8 is refused as a question
    return _typed() if at_terminal() else _piped()


def _typed() -> Iterator[str]:
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401  gives `input` its line editing and the earlier questions
    print(HINT, file=sys.stderr)
    while True:
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


def _piped() -> Iterator[str]:
    asked = False
    for line in sys.stdin:
        if question := line.strip():
            asked = True
            yield question
    if not asked:
        raise UsageError("no question: ask with --ask, or write questions on standard input, one a line")


def _show_stopped(error: str | None, display: Display) -> None:
    if display.stream and display.as_json:
        print_json({"event": "stopped", "error": error})
    if error is not None:
        print(harmless(error), file=sys.stderr)
        return
    if not display.as_json:
        print(flush=True)  # ends the line of what was said so far
    print_notes(["stopped"])
