"""Run `tam-edge` in tests: inside this process where that shows the same, as a real child where it does not."""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import pytest

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


class Terminal:
    """A child that talks to somebody at a terminal; its stdout and stderr are pipes."""

    def __init__(self, *arguments, stdout=None):
        pty = pytest.importorskip("pty")
        self.keys, inside = pty.openpty()
        self.child = start(*arguments, stdin=inside, **({} if stdout is None else {"stdout": stdout}))
        os.close(inside)

    def type(self, text):
        os.write(self.keys, text.encode())

    def wait_for(self, prompt="> "):
        """Read stderr up to a prompt; gives what came before it."""
        said = ""
        while not said.endswith(prompt):
            character = self.child.stderr.read(1)
            assert character, f"it ended after {said!r}"
            said += character
        return said.removesuffix(prompt)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        os.close(self.keys)
        if self.child.poll() is None:
            self.child.kill()
        for pipe in (self.child.stdout, self.child.stderr):
            with contextlib.suppress(AttributeError):
                pipe.close()
        self.child.wait()


def ended(terminal):
    """How it ends: code, what is left of stdout and of stderr."""
    out, err = terminal.child.communicate(timeout=60)
    return terminal.child.returncode, out, err
