"""Prefer what an earlier question has looked at, where the rules leave a choice and the answer loses nothing.

The rules leave a choice for balanced tasks, for questions that fit no task type well, and for follow-ups; never where
frames or grid are given by hand. An earlier plan of the same clip is then at least as good as the one the rules make if

* it has as many frames or more and a grid as fine or finer, and so as many visual tokens or more, and they fit the
  budget or are in the language model already; or
* the question fits no task type well, and it is what the rules make for the closest one; or
* as many of its frames as the rules ask for can be seen at their grid without a longer stretch of the clip going
  unseen than with frames chosen anew (for balanced tasks and unsure estimates: no moment is asked about).

What stands in the language model comes first, then the rules' own frames where each of them was looked at, then the
plan looked at last. Only plans count, not what the caches still hold, so the same questions in the same order
get the same plans whatever the memory, as long as all visual tokens fit under its ceiling.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import replace
from itertools import chain, pairwise

from tam_edge.runtime.frames import VideoInfo
from tam_edge.runtime.inductor import TaskEstimate
from tam_edge.runtime.manifest import Manifest
from tam_edge.runtime.plan import Limits, Plan, make_plan
from tam_edge.runtime.reasons import interval_seconds, same_frames_sentence, same_plan_sentence, times_sentence
from tam_edge.runtime.routing import choose_times

PLANS_REMEMBERED = 16
"""Plans that later questions may prefer; one of 120 frames is 4 KiB."""


class SeenPlans:
    """The plans that were looked at to the end, the last first; so many that later questions find one to prefer."""

    def __init__(self) -> None:
        self._plans: list[tuple[str, Plan]] = []

    def add(self, identity: str, plan: Plan) -> None:
        """Note that a plan was looked at in the video of this identity."""
        others = [pair for pair in self._plans if (pair[0], _shows(pair[1])) != (identity, _shows(plan))]
        self._plans = [(identity, plan), *others][:PLANS_REMEMBERED]

    def of(self, identity: str) -> list[Plan]:
        """The plans of one video, the last first."""
        return [plan for source, plan in self._plans if source == identity]


def prefer_seen(
    ruled: Plan,
    estimate: TaskEstimate,
    info: VideoInfo,
    manifest: Manifest,
    limits: Limits,
    seen: Sequence[Plan],
    *,
    last_in_model: bool = False,
    follow_up: bool = False,
) -> Plan:
    """`ruled`, which the rules make, or one that looks at what a plan of `seen` has looked at.

    `seen` are plans of this clip, the last first; `last_in_model`: the visual tokens of the first of them stand in the
    language model. What was preferred, and why, is in the plan's reasons.
    """
    sure = estimate.confidence >= manifest.routing.confidence_threshold
    no_moment = not sure or manifest.routing.rule(estimate.task).group == "balanced"
    by_hand = limits.frames is not None or limits.grid is not None
    if by_hand or ruled.grid is None or not (no_moment or follow_up):
        return ruled
    closest = ruled if sure else make_plan(replace(estimate, confidence=1.0), info, manifest, limits)
    earlier = [plan for plan in seen if _comparable(plan, ruled)]
    if last_in_model and earlier[:1] == [*seen][:1] and (found := _instead(earlier[0], ruled, closest)):
        return found
    if set(ruled.timestamps_seconds) <= {time for plan in earlier for time in plan.timestamps_seconds}:
        return ruled
    fitting = (plan for plan in earlier if plan.visual_tokens <= ruled.token_budget)
    whole = (found for plan in fitting if (found := _instead(plan, ruled, closest)))
    parts = (found for plan in earlier if no_moment and (found := _frames_of(plan, ruled)))
    return next(chain(whole, parts), ruled)


def _instead(plan: Plan, ruled: Plan, closest: Plan) -> Plan | None:
    """What an earlier plan as a whole is taken for; None where it is not as good."""
    if _shows(plan) == _shows(ruled):
        return ruled
    if _shows(plan) == _shows(closest):
        return _again(closest, ruled, "what the closest task type asks for")
    if _dominates(plan, ruled):
        return _again(replace(plan, phrase=ruled.phrase), ruled, "no fewer frames, and none coarser")
    return None


def _shows(plan: Plan) -> Hashable:
    extent = (plan.start_seconds, plan.duration_seconds)
    return plan.strategy, plan.grid, plan.images, plan.timestamps_seconds, extent


def _comparable(plan: Plan, ruled: Plan) -> bool:
    """Whether both are about the same part of the clip in the same way."""
    extent = (plan.strategy, plan.start_seconds, plan.duration_seconds)
    return plan.grid is not None and extent == (ruled.strategy, ruled.start_seconds, ruled.duration_seconds)


def _dominates(plan: Plan, ruled: Plan) -> bool:
    fine = (plan.grid or 0) >= (ruled.grid or 0)
    return fine and plan.frames >= ruled.frames and _longest_gap(plan.timestamps_seconds, ruled) <= _own_gap(ruled)


def _frames_of(plan: Plan, ruled: Plan) -> Plan | None:
    """The rules' plan with as many of an earlier one's frames, if they are no worse spread than its own."""
    if plan.frames < ruled.frames:
        return None
    times = choose_times(plan.timestamps_seconds, ruled.frames)
    return _with_frames(times, ruled) if _longest_gap(times, ruled) <= _own_gap(ruled) else None


def _own_gap(ruled: Plan) -> float:
    return _longest_gap(ruled.timestamps_seconds, ruled) + 1e-9  # sums of the same times in another order


def _longest_gap(times: tuple[float, ...], ruled: Plan) -> float:
    """Longest stretch of the clip without a frame, in seconds, its ends included."""
    bounds = (ruled.start_seconds, *times, ruled.start_seconds + ruled.duration_seconds)
    return max(later - earlier for earlier, later in pairwise(bounds))


def _again(plan: Plan, ruled: Plan, why: str) -> Plan:
    """The plan, made for another question, for this one."""
    task, _, _, *rest = ruled.reasons
    return replace(
        plan,
        task=ruled.task,
        confidence=ruled.confidence,
        probabilities=ruled.probabilities,
        token_budget=ruled.token_budget,
        task_title=ruled.task_title,
        reasons=(task, same_plan_sentence(plan.frames, plan.grid, plan.visual_tokens, why), _times(plan), *rest),
    )


def _with_frames(times: tuple[float, ...], ruled: Plan) -> Plan:
    plan = replace(ruled, timestamps_seconds=times, interval_seconds=interval_seconds(times))
    task, budget, _, *rest = ruled.reasons
    return replace(plan, reasons=(task, same_frames_sentence(), budget, _times(plan), *rest))


def _times(plan: Plan) -> str:
    return times_sentence(plan.timestamps_seconds, plan.start_seconds, plan.duration_seconds)
