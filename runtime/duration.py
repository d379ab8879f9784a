"""Lengths of time as people write them: 800ms, 3s, 10min, 1.5 h. Pure."""

from __future__ import annotations

import math
import re

from tam_edge.runtime.errors import UsageError

_UNITS = {"ms": 0.001, "s": 1.0, "min": 60.0, "h": 3600.0}
_LENGTH = re.compile(r"(\d{1,9}(?:\.\d{1,6})?)\s*(ms|s|min|h)", re.IGNORECASE | re.ASCII)


def duration_seconds(value: float | str, what: str, example: str = "30s or 10min") -> float:
    """A length of time in seconds, given as a number of them or as text with a unit.

    The error says that `what` cannot be that, and shows the `example`.

    Raises: UsageError: it is no length of time, or none that is longer than nothing and ends.
    """
    if isinstance(value, str):
        match = _LENGTH.fullmatch(value.strip())
        seconds = float(match[1]) * _UNITS[match[2].lower()] if match else 0.0
    else:
        seconds = float(value)
    if not 0 < seconds < math.inf:
        text = repr(value[:40]) if isinstance(value, str) else f"{value}"
        raise UsageError(f"{what} cannot be {text}: write a number and a unit, such as {example}")
    return seconds


def duration_text(seconds: float) -> str:
    """Seconds as `duration_seconds` reads them."""
    number, unit = (seconds, "s") if seconds >= 1 else (1000 * seconds, "ms")
    return f"{number:.3f}".rstrip("0").rstrip(".") + unit
