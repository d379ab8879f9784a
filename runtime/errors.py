"""Every error this package raises on purpose, so that a program can catch one class and a person reads one line.

* TamEdgeError             exit code 1
  x UsageError             exit code 2
    + QuestionError
  x VideoError
    + TooLargeError
  x BundleError
  x MemoryLimitError
  x DeadlineError
  x EngineError
  x MissingExtraError
  x BusyError

The message is always one printable line: what was wrong, and what to do about it.
"""

from __future__ import annotations

from os import PathLike, fspath
from typing import ClassVar


class TamEdgeError(Exception):
    """Base class: something that the user can read and act on."""

    exit_code: ClassVar[int] = 1
    """Exit code of a command that ends with this error."""

    def __init__(self, message: str) -> None:
        """Keep `message` as one printable line, whatever file name or library text it quotes."""
        super().__init__(_one_line(message))


class UsageError(TamEdgeError):
    """An option or argument makes no sense: unknown strategy, bad size, a start beyond the end."""

    exit_code: ClassVar[int] = 2


class QuestionError(UsageError):
    """The question is empty or too long."""


class VideoError(TamEdgeError):
    """A source cannot be opened or decoded."""

    def __init__(self, source: str | PathLike[str], message: str) -> None:
        """Name the `source` (path, or what the caller gave) before the `message`."""
        self.source: str = fspath(source)
        super().__init__(f"{_shortened(self.source)}: {message}")


class TooLargeError(VideoError):
    """A frame or image has more pixels than are ever decoded."""


class BundleError(TamEdgeError):
    """A bundle is incomplete, damaged, or says something untrue about itself."""

    def __init__(self, bundle: str | PathLike[str], field: str, message: str) -> None:
        """Name the `bundle` folder and the manifest `field` (dotted, e.g. `projectors.12`) before the `message`."""
        self.bundle: str = fspath(bundle)
        self.field: str = field
        super().__init__(f"bundle {_shortened(self.bundle)}: {field}: {message}")


class MemoryLimitError(TamEdgeError):
    """The memory ceiling is too low for what was asked."""

    def __init__(self, limit_bytes: int, needed_bytes: int, message: str) -> None:
        """Carry the ceiling and the smallest need, both in bytes; `message` is the whole line."""
        self.limit_bytes: int = limit_bytes
        self.needed_bytes: int = needed_bytes
        super().__init__(message)


class DeadlineError(TamEdgeError):
    """The deadline is too short for what was asked, or what this device takes is not known."""

    def __init__(self, deadline_seconds: float, needed_seconds: float | None, message: str) -> None:
        """Carry the deadline and the smallest that would do, None where that is not known; `message` is the line."""
        self.deadline_seconds: float = deadline_seconds
        self.needed_seconds: float | None = needed_seconds
        super().__init__(message)


class EngineError(TamEdgeError):
    """An engine could not be opened, or failed while it ran."""


class MissingExtraError(TamEdgeError):
    """Something needs an extra that is not installed."""

    def __init__(self, extra: str, needed_by: str) -> None:
        """Say what needs the `extra` and how to install it."""
        self.extra: str = extra
        super().__init__(f"{needed_by} needs the extra '{extra}': pip install 'tam-edge[{extra}]'")


class BusyError(TamEdgeError):
    """More questions are waiting than the queue holds: ask again later. A server answers 503."""


def _one_line(text: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in " ".join(text.split()))


def _shortened(name: str, limit: int = 300) -> str:
    return name if len(name) <= limit else f"{name[: limit - 3]}..."
