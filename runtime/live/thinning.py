"""Which frame is let go of when there are too many: spacing grows with age, and the newest stay. Pure.

Let go of is the frame without which the gap between its neighbours is smallest for its age, that of the older one. If
each such gap were larger than a share x of its age, ages would fall by 1 - x over every two frames, and N frames
could not lie between the oldest age H and the newest spacing d: so x is at most 1 - (d / H) ** (2 / (N - 2)), about
2 ln(H / d) / N. Afterwards a gap only grows older. Hence a gap between frames that are kept is never larger than that
share of its age, unless the source itself left it.
"""

from __future__ import annotations

from collections.abc import Sequence

FEWEST_FRAMES = 4
"""With fewer there is nothing to choose from."""


def worst_share(frames: int, horizon_seconds: float, spacing_seconds: float) -> float:
    """The largest gap, as a share of the age of its older end, between `frames` kept ones that came so far apart."""
    oldest = max(horizon_seconds, spacing_seconds)
    return float(1 - (spacing_seconds / oldest) ** (2 / max(1, frames - 2)))


def let_go(times: Sequence[float], now: float) -> int:
    """Which of the rising `times`, at least four, to let go of at time `now`; never the first or the last."""
    return min(range(1, len(times) - 1), key=lambda at: (times[at + 1] - times[at - 1]) / (now - times[at - 1]))


def past(times: Sequence[float], now: float, horizon_seconds: float) -> int:
    """How many of the first `times` nobody can ask about: all beyond the horizon but one, which was on screen at it."""
    beyond = 0
    while beyond + 1 < len(times) and now - times[beyond + 1] >= horizon_seconds:
        beyond += 1
    return beyond
