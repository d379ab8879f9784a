"""Run `tam-edge` in tests: inside this process where that shows the same, as a real child where it does not."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

from tam_edge.apps.cli import run
from tam_edge.apps.interrupt import Interrupt

PROGRAM = Path(sys.executable).with_name("tam-edge")
CHILD_SECONDS = 120


@dataclass(frozen=True)
class Outcome:
    """How a command line ended."""

    code: int
    out: str
    err: str


def call(*arguments: str | Path) -> Outcome:
    """Run a command line in this process."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = run([str(argument) for argument in arguments], Interrupt())
    return Outcome(code, out.getvalue(), err.getvalue())


def start(*arguments: str | Path, env: dict[str, str] | None = None, **options) -> subprocess.Popen[str]:
    """Start a command line as a child process, with `env` beside this process's environment."""
    return subprocess.Popen(
        [PROGRAM, *map(str, arguments)],
        stdout=options.pop("stdout", subprocess.PIPE),
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        env={**os.environ, **(env or {})},
        **options,
    )


def spawn(*arguments: str | Path, **options) -> Outcome:
    """Run a command line as a child process to its end."""
    with start(*arguments, **options) as child:
        out, err = child.communicate(timeout=CHILD_SECONDS)
    return Outcome(child.returncode, out or "", err)
