"""The view kept ready: what most questions look at is in the language model before the next one comes.

Between questions the commonest one is asked again and read no further than its first piece; the next question that
looks at as many frames of as long a stretch, as finely, then enters only its own text. Such a view is good for half the
time that lies between its frames: a newer one would show no more than what its own plan passes over. Making it takes a
tenth of the time at most, and ends some minutes after the last question.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Hashable
from dataclasses import dataclass
from time import monotonic

from tam_edge.runtime.live.window import WindowVideo
from tam_edge.runtime.plan import Plan

BUSY_SHARE = 0.1
"""Most of the time that keeping a view ready takes."""
AWAKE_SECONDS = 300.0
"""How long after the last question a view is kept ready."""
REMEMBERED = 16
"""Questions among which the commonest is looked for."""


@dataclass(frozen=True, slots=True)
class Usual:
    """A question of which there have been many alike."""

    question: str
    """One of them."""
    length_seconds: float
    """How long the stretch was that it was about."""
    looks: Hashable
    """What was looked at, but for the times: strategy, grid and number of frames."""


@dataclass(frozen=True, slots=True, eq=False)
class ReadyView:
    """A stretch that stands in the language model, or did."""

    video: WindowVideo
    """The stretch."""
    length_seconds: float
    """How long a stretch it was made for."""
    fresh_until: float
    """Seconds of the session until which it is as good as a newer one."""


class Ready:
    """Remembers what is asked, and says when a view is to be made anew."""

    def __init__(self, spacing_seconds: float) -> None:
        self.view: ReadyView | None = None
        """The view that was entered last."""
        self._spacing = spacing_seconds
        self._asked: deque[Usual] = deque(maxlen=REMEMBERED)
        self._cost = 0.0
        self._made = self._last = float("-inf")

    def note(self, question: str, length_seconds: float, plan: Plan) -> None:
        """Remember a question about the last seconds, and what was looked at for it."""
        self._last = monotonic()
        self._asked.append(Usual(question, length_seconds, (plan.strategy, plan.grid, plan.frames)))

    def entered(self, video: WindowVideo, length_seconds: float, plan: Plan) -> None:
        """Note that a plan's frames stand in the language model."""
        fresh = max(1.5 * self._spacing, plan.interval_seconds / 2)
        self.view = ReadyView(video, length_seconds, plan.timestamps_seconds[-1] + fresh)

    def made(self, cost_seconds: float) -> None:
        """Note that a view was made, and what it took."""
        self._cost, self._made = cost_seconds, monotonic()

    def fitting(self, length_seconds: float | None, now: float) -> WindowVideo | None:
        """The stretch that is ready and as good as one that ends now."""
        view = self.view
        if view is None or view.length_seconds != length_seconds or now > view.fresh_until:
            return None
        return view.video

    def wanted(self, now: float) -> Usual | None:
        """The question to ask again, if one is to be: `now` in seconds of the session."""
        since = monotonic() - self._made
        if not self._asked or monotonic() - self._last > AWAKE_SECONDS or since < self._cost / BUSY_SHARE:
            return None
        looks, _ = Counter((usual.length_seconds, usual.looks) for usual in self._asked).most_common(1)[0]
        usual = next(usual for usual in reversed(self._asked) if (usual.length_seconds, usual.looks) == looks)
        half_fresh = self.fitting(usual.length_seconds, now + self._spacing) is not None
        return None if half_fresh else usual
