"""Keep a deadline: of the plans that the rules make, the one with most visual tokens whose predicted time fits. Pure.

The rules are asked twice over: for ever fewer frames, which they then look at as closely as the task type wants, and
for ever fewer visual tokens, which gives up detail before too few moments are seen. Of all these plans the one with the
most visual tokens is taken that fits, of equals the one with the most frames. Which plans there are does not depend on
the deadline, and none has more visual tokens than the plan without one: so more time never gives fewer of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from tam_edge.runtime.calibration import COMMAND, Calibrated
from tam_edge.runtime.ceiling import Admission
from tam_edge.runtime.costs import Prediction
from tam_edge.runtime.duration import duration_seconds, duration_text
from tam_edge.runtime.errors import DeadlineError
from tam_edge.runtime.plan import Plan, Rejection

NAMED_SPARE_SHARE = 0.1
"""Added to what was spent before the plan, in the deadline that a refusal names: the next process may take longer."""


@dataclass(frozen=True, slots=True)
class Option:
    """A plan that fits under the memory ceiling, with the time it takes."""

    admission: Admission
    """The plan and how memory is saved."""
    prediction: Prediction
    """What is still to come."""

    @property
    def plan(self) -> Plan:
        """The plan."""
        return self.admission.plan


def checked_deadline(value: float | str | None, calibrated: Calibrated) -> float | None:
    """The deadline in seconds, None where there is none.

    Raises:
        UsageError: it is no time.
        DeadlineError: what this device takes is not known.
    """
    if value is None:
        return None
    seconds = duration_seconds(value, "a deadline", "3s or 800ms")
    if calibrated.rates is None:
        why = calibrated.problem or f"this device is not calibrated for this bundle: run {COMMAND} once"
        raise DeadlineError(seconds, None, f"a deadline needs to know what work takes here: {why}")
    return seconds


def smaller_plans(
    wanted: Plan, plans_within: Callable[[int | None, int | None], Iterable[Plan]], least_tokens: int, *, by_hand: bool
) -> list[Plan]:
    """Plans to take instead of `wanted`, none with more visual tokens; most visual tokens first, then most frames.

    Args:
        wanted: the plan without a deadline.
        plans_within: plans of at most so many visual tokens and frames; the last one by the rules alone.
        least_tokens: fewest visual tokens that it can be asked for.
        by_hand: whether frames or grid are given by hand: then only visual tokens can be fewer.
    """
    found: dict[object, Plan] = {}

    def add(plans: Iterable[Plan]) -> int:
        tokens = 0
        for plan in plans:
            tokens = plan.visual_tokens
            if tokens <= wanted.visual_tokens:
                found.setdefault((plan.timestamps_seconds, plan.grid, plan.images), plan)
        return tokens

    for frames in range(0 if by_hand else wanted.frames - 1, 0, -1):
        add(plans_within(None, frames))
    tokens = wanted.visual_tokens - 1
    while tokens >= least_tokens:
        tokens = min(tokens, add(plans_within(tokens, None))) - 1
    return sorted(found.values(), key=lambda plan: (-plan.visual_tokens, -plan.frames))


def best_in_time(seconds: float, spent_ms: Callable[[], float], wanted: Option, others: Iterable[Option]) -> Option:
    """`wanted`, or the first of the `others` that is predicted to give its first token in time.

    `seconds` count from the question; `spent_ms` tells how many milliseconds of them are over, as choosing goes on.

    Raises:
        DeadlineError: nothing fits; names the smallest deadline that would do.
    """
    if spent_ms() + wanted.prediction.safe_ms <= 1000 * seconds:
        return wanted
    cheapest = wanted
    for option in others:
        if (spent := spent_ms()) + option.prediction.safe_ms <= 1000 * seconds:
            return _instead(option, wanted, seconds, spent)
        cheapest = min(cheapest, option, key=lambda one: one.prediction.safe_ms)
    raise _refusal(seconds, spent_ms(), cheapest)


def _instead(option: Option, wanted: Option, seconds: float, spent_ms: float) -> Option:
    needed_ms = spent_ms + wanted.prediction.safe_ms
    shown = _frames_of(option.plan)
    fewer = Rejection(
        _frames_of(wanted.plan),
        f"may take {duration_text(_rounded_up(needed_ms))} to the first token; "
        f"{shown} fit into {duration_text(seconds)}",
        needed_ms=round(needed_ms, 3),
    )
    plan = replace(option.plan, rejections=(*option.plan.rejections, fewer))
    return replace(option, admission=replace(option.admission, plan=plan))


def _frames_of(plan: Plan) -> str:
    """As "576 visual tokens of 9 frames"."""
    return f"{plan.visual_tokens:,} visual tokens of {plan.frames} frame{'s' if plan.frames > 1 else ''}"


def _refusal(seconds: float, spent_ms: float, cheapest: Option) -> DeadlineError:
    needed = _rounded_up(spent_ms * (1 + NAMED_SPARE_SHARE) + cheapest.prediction.safe_ms)
    stages = {"before the plan": spent_ms, **cheapest.prediction.stages_ms}
    longest = max(stages, key=lambda name: stages[name])
    message = (
        f"{duration_text(seconds)} to the first token is too little: {_frames_of(cheapest.plan)}, the quickest, "
        f"may take {duration_text(_rounded_up(spent_ms + cheapest.prediction.safe_ms))}, most of it {longest}; "
        f"allow at least {duration_text(needed)}"
    )
    return DeadlineError(seconds, needed, message)


def _rounded_up(ms: float) -> float:
    """Seconds in two digits, no less."""
    step: int = 10 ** max(0, math.floor(math.log10(max(ms, 1))) - 1)
    return math.ceil(ms / step) * step / 1000
