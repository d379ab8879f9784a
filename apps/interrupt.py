"""Ctrl-C: ends the work in any stage with exit code 130, and never with a traceback."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from types import FrameType

EXIT_CODE = 130
"""128 + SIGINT, as shells report it."""
RETRY_SECONDS = 0.05


class Interrupt:
    """Whether Ctrl-C was pressed."""

    def __init__(self) -> None:
        self.pressed = False
        """True from the first press on, whatever became of the exception it raised."""
        self._raised = False

    def on_signal(self, signum: int, frame: FrameType | None) -> None:
        """Raise KeyboardInterrupt the first time, so that every stage cleans up; end the process the second time."""
        if self._raised:
            os._exit(EXIT_CODE)
        self.pressed = self._raised = True
        raise KeyboardInterrupt

    def take(self) -> bool:
        """Whether Ctrl-C was pressed; from now on it was not, and the next press is the first again."""
        pressed, self.pressed, self._raised = self.pressed, False, False
        return pressed

    def on_unraisable(self, unraisable: sys.UnraisableHookArgs) -> None:
        """Press again where the exception was swallowed: in a destructor, or a callback of a native library."""
        if not issubclass(unraisable.exc_type, KeyboardInterrupt):
            sys.__unraisablehook__(unraisable)
            return
        import threading  # here: until the handler is installed every import is a moment without one

        self._raised = False
        threading.Timer(RETRY_SECONDS, os.kill, (os.getpid(), signal.SIGINT)).start()


@contextlib.contextmanager
def interruptible() -> Iterator[Interrupt]:
    """Turn Ctrl-C into one KeyboardInterrupt; after the block it is ignored, only the interpreter's end is left."""
    interrupt = Interrupt()
    signal.signal(signal.SIGINT, interrupt.on_signal)
    sys.unraisablehook = interrupt.on_unraisable
    try:
        yield interrupt
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
