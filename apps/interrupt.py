"""Ctrl-C: ends the work in any stage, and never with a traceback."""

from __future__ import annotations

import _thread
import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sys import UnraisableHookArgs

EXIT_CODE = 130
RETRY_SECONDS = 0.05


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """The first Ctrl-C raises KeyboardInterrupt, so that every stage cleans up; a second one ends the process at once.

    After the block Ctrl-C is ignored: the work is done and only the interpreter's own shutdown is left.
    """
    pressed = False

    def on_interrupt(signum: int, frame: FrameType | None) -> None:
        nonlocal pressed
        if pressed:
            os._exit(EXIT_CODE)
        pressed = True
        raise KeyboardInterrupt

    def on_unraisable(unraisable: UnraisableHookArgs) -> None:
        # A Ctrl-C that arrives in a destructor or a native library's callback is swallowed there: press again.
        nonlocal pressed
        if not issubclass(unraisable.exc_type, KeyboardInterrupt):
            sys.__unraisablehook__(unraisable)
            return
        pressed = False
        threading.Timer(RETRY_SECONDS, _thread.interrupt_main).start()

    signal.signal(signal.SIGINT, on_interrupt)
    sys.unraisablehook = on_unraisable
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
