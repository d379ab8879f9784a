"""Which moments a question is about: the last 30 s, or from one time of day to another."""

from __future__ import annotations

import math
from datetime import datetime
from typing import NamedTuple

from tam_edge.runtime.duration import duration_seconds
from tam_edge.runtime.errors import UsageError

Moment = float | str | datetime
"""A time of day: seconds as `time.time()` counts, ISO 8601 as text, or a datetime; local time where no zone is said."""


class Asked(NamedTuple):
    """A stretch of the stream, in seconds of the session."""

    since: float
    """Where it begins; may lie before the session."""
    until: float
    """Where it ends; never in the future."""
    length_seconds: float | None
    """How long it is, where the question is about the last seconds."""


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
        length = duration_seconds(last, "last")
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
