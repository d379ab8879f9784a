"""How a command ends: which exit code, and which one line on stderr.

An error that a person can act on becomes one line. Everything else is a bug of ours and keeps its traceback.
"""

from __future__ import annotations

import errno
import importlib.metadata
import re
from dataclasses import dataclass
from typing import cast

import typer

from tam_edge.apps.interrupt import EXIT_CODE as INTERRUPTED
from tam_edge.runtime.errors import MissingExtraError, TamEdgeError, UsageError

FAILED = 1

# The base of every error of the command-line parser; typer does not export it by name.
ParserError = cast("type[typer.BadParameter]", typer.BadParameter.__base__)


@dataclass(frozen=True, slots=True)
class Ending:
    """How a command ended."""

    code: int
    """Exit code."""
    line: str = ""
    """What was wrong and what to do, without a line break; empty where there is nothing to say."""


def ending(error: BaseException, command: str) -> Ending | None:
    """The exit code and line for `error`, raised by `command` ("tam-edge run"); None for a bug of ours."""
    if isinstance(error, (KeyboardInterrupt, typer.Abort)):
        return Ending(INTERRUPTED)
    if isinstance(error, BrokenPipeError):
        return Ending(FAILED)
    if isinstance(error, ParserError):
        command = error.ctx.command_path if error.ctx else command
        return _line(UsageError(_parser_message(error, command)), command)
    if isinstance(error, MemoryError):
        return _line(TamEdgeError("out of memory; ask for fewer --frames or close other programs"), command)
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO):
        return _line(TamEdgeError(f"cannot write {error.filename or 'the output'}: {error.strerror}"), command)
    if isinstance(error, ModuleNotFoundError):
        extra = _extra_with(error.name or "")
        return _line(MissingExtraError(extra, command), "tam-edge") if extra else None
    return _line(error, command) if isinstance(error, TamEdgeError) else None


def _line(error: TamEdgeError, command: str) -> Ending:
    return Ending(error.exit_code, f"{command}: {error}")


def _parser_message(error: typer.BadParameter, command: str) -> str:
    message = error.format_message().rstrip(".")
    return f"{message[:1].lower()}{message[1:]} (see {command} --help)"


def _extra_with(module: str) -> str | None:
    """The extra of this package that brings `module`, by the names of the packages it lists."""
    top = module.partition(".")[0].lower()
    for requirement in importlib.metadata.requires("tam-edge") or ():
        found = re.match(r"""([\w.-]+).*;.*\bextra == ['"]([\w-]+)['"]""", requirement)
        if found and top and re.split(r"[-_.]", found[1].lower())[0] == top:
            return found[2]
    return None
