"""Which moments a question is about: the last 30 s, or from one time of day to another."""

from __future__ import annotations

import math
import re
from datetime import datetime
from typing import NamedTuple

from tam_edge.runtime.errors import UsageError

Moment = float | str | datetime
"""A time of day: seconds as `time.time()` counts, ISO 8601 as text, or a datetime; local time where no zone is said."""
_UNITS = {"ms": 0.001, "s": 1.0, "min": 60.0, "h": 3600.0}
_LENGTH = re.compile(r"(\d{1,9}(?:\.\d{1,6})?)\s*(ms|s|min|h)", re.IGNORECASE | re.ASCII)


class Asked(NamedTuple):
    """A stretch of the stream, in seconds of the session."""

    since: float
    """Where it begins; may lie before the session."""
    until: float
    """Where it ends; never in the future."""
    length_seconds: float | None
    """How long it is, where the question is about the last seconds."""


def length_seconds(value: float | str, what: str) -> float:
    """A length in seconds, given as a number of them or as text such as "30s" or "10min"; `what` names it in the error.

    Raises: UsageError if it is none.
    """
    if isinstance(value, str):
        match = _LENGTH.fullmatch(value.strip())
        seconds = float(match[1]) * _UNITS[match[2].lower()] if match else 0.0
    else:
        seconds = float(value)
    if not 0 < seconds < math.inf:
        text = repr(value[:40]) if isinstance(value, str) else f"{value}"
        raise UsageError(f"{what} is {text}: write a number and a unit, such as 30s or 10min")
    return seconds


def asked_about(
    last: float | str | None,
    since: Moment | None,
    until: Moment | None,
    *,
    started_unix: float,
    now: float,
    horizon_seconds: float,
) -> Asked:
    """The stretch that is asked about; by default all that the window covers. `now` is in seconds of the session.

    Raises: UsageError if it cannot be understood, is empty or has not begun.
    """
    if last is not None:
        if since is not None or until is not None:
            raise UsageError("say either last, or since and until")
        length = length_seconds(last, "last")
        return Asked(now - length, now, length)
    first = now - horizon_seconds if since is None else _unix(since, "since") - started_unix
    end = now if until is None else min(now, _unix(until, "until") - started_unix)
    if first >= end:
        raise UsageError("since must lie before until, and before now")
    return Asked(first, end, horizon_seconds if since is None and until is None else None)


def _unix(value: Moment, what: str) -> float:
    if isinstance(value, str):
        text = value.strip()
        try:
            value = datetime.fromisoformat(text.replace("Z", "+00:00"))
        except ValueError:
            raise UsageError(f"{what} is {text[:40]!r}: write a time such as 2026-05-01T14:03:20") from None
    seconds = value.timestamp() if isinstance(value, datetime) else float(value)
    if not math.isfinite(seconds):
        raise UsageError(f"{what} is {seconds}: give seconds as time.time() counts")
    return seconds
