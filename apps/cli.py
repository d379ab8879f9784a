"""`tam-edge`: finds the command, runs it, and turns whatever happened into an exit code and at most one line."""

from __future__ import annotations

import io
import os
import sys
import warnings
from collections.abc import Sequence

from tam_edge.apps.interrupt import EXIT_CODE, Interrupt, interruptible

PROGRAM = "tam-edge"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command line, by default this process's, and exit with 0, 1, 2 or 130."""
    with interruptible() as interrupt:
        try:
            _prepare()
            code = run(sys.argv[1:] if arguments is None else arguments, interrupt)
        except KeyboardInterrupt:
            code = EXIT_CODE
    sys.exit(code)


def run(arguments: Sequence[str], interrupt: Interrupt) -> int:
    """Run a command line and return its exit code; the process stays, a bug of ours is raised."""
    from tam_edge.apps.commands import command_group

    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # onnxruntime would call home, and leave files to do so
    group = command_group()
    named = arguments[:1] if arguments and arguments[0] in group.commands else ()
    try:
        result = group.main(list(arguments), prog_name=PROGRAM, standalone_mode=False, obj=interrupt)
        _flush_stdout()
    except BaseException as error:
        if interrupt.pressed:  # a library may have turned it into an error of its own
            return EXIT_CODE
        return _end(error, " ".join((PROGRAM, *named)))
    if interrupt.pressed:
        return EXIT_CODE
    return result if isinstance(result, int) else 0


def _end(error: BaseException, command: str) -> int:
    from tam_edge.apps.exits import ending

    end = ending(error, command)
    if end is None:
        raise error
    if isinstance(error, BrokenPipeError):
        _drop_stdout()
    if end.line:
        print(end.line, file=sys.stderr)
    return end.code


def _prepare() -> None:
    if not sys.warnoptions:
        warnings.simplefilter("ignore")  # meant for whoever writes the program; -W shows them
    # An answer with an accent must not end a program whose terminal knows only ASCII.
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _flush_stdout() -> None:
    if sys.stdout is not None:  # None where the program was started with it closed
        sys.stdout.flush()


def _drop_stdout() -> None:
    # The reader has gone; what is still buffered must not fail a second time when the interpreter shuts down.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
