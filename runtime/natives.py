"""Import native libraries so that a Ctrl-C meanwhile is heard, only later.

A KeyboardInterrupt that arises while onnxruntime's or numpy's C code starts up comes out as an ImportError, or is
printed and lost.
"""

from __future__ import annotations

import importlib
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


def import_native(name: str) -> Any:
    """Import the module `name`; a Ctrl-C that arrives meanwhile is raised when it is there.

    Raises: ImportError if it is not installed or does not fit this machine.
    """
    with _interrupt_held_back():
        return importlib.import_module(name)


@contextmanager
def _interrupt_held_back() -> Iterator[None]:
    handler = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or handler is None:  # None: not Python's to replace
        yield
        return
    pressed = threading.Event()

    def remember(signum: int, frame: FrameType | None) -> None:
        pressed.set()

    signal.signal(signal.SIGINT, remember)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
        if pressed.is_set():
            signal.raise_signal(signal.SIGINT)
