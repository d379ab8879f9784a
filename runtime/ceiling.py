"""Fit a question under the memory ceiling: the plan, what is given up for it, or one refusal before any work. Pure.

What is given up, in this order, each only where it lowers the predicted peak: decoding ahead of vision; the language
model opened beside it; frames at once; vision and language model open at the same time; the Inductor kept open; patch
features kept for later; decoder threads; plain attention; cells for longer questions; 16-bit cells. None of these but
the last changes an answer by more than rounding. Visual tokens go last of all, once everything else is given up, and by
as few as possible.

The list of steps does not depend on the ceiling, only how far it is followed does: so more memory never gives fewer
tokens or a smaller chunk.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from tam_edge.runtime.budget import MIB, MemoryLimit, size_text
from tam_edge.runtime.errors import MemoryLimitError
from tam_edge.runtime.footprint import Case, Needs, Thrift, attention_of, expected_bytes, stage_bytes, stage_needs
from tam_edge.runtime.frames import VideoInfo
from tam_edge.runtime.manifest import Manifest
from tam_edge.runtime.plan import Plan, Rejection
from tam_edge.runtime.schema import Attention
from tam_edge.runtime.standing import Standing

NAMED_SPARE_BYTES = 1 * MIB
"""Added to the ceiling that a refusal names: the same program started again holds a little more or less."""
SETTLED_BYTES = 2 * MIB
"""Of what is spared, how much may have been taken by the time the Inductor has been asked: what fitted before still
fits. An engine that is closed again leaves up to 1.5 MB more behind than was measured."""
FEATURE_STEPS = 4
"""Kept patch features shrink by this factor; below 1 MiB none are kept."""


@dataclass(frozen=True, slots=True)
class Setting:
    """What does not change while a question is fitted in."""

    manifest: Manifest
    """The bundle."""
    standing: Standing
    """What the process holds."""
    info: VideoInfo | None
    """The video; None where none is decoded."""
    limit: MemoryLimit
    """The ceiling."""

    def needs(self, case: Case, thrift: Thrift) -> Needs:
        """What each stage holds at its peak."""
        return stage_needs(self.manifest, self.standing, self.info, case, thrift)

    def peak(self, case: Case, thrift: Thrift) -> int:
        """Predicted peak of the process, no less than the one it has had."""
        return max(self.standing.peak_bytes, *stage_bytes(self.needs(case, thrift)).values())


@dataclass(frozen=True, slots=True)
class Admission:
    """A question that fits."""

    plan: Plan
    """What is looked at, with predictions and what was given up."""
    thrift: Thrift
    """How memory is saved."""
    attention: Attention
    """How the language model attends."""
    decided: Plan
    """The plan before predictions and what was given up were added: what later questions may prefer."""


@dataclass(frozen=True, slots=True)
class _Step:
    thrift: Thrift
    given_up: tuple[Rejection, ...]


def admit(
    setting: Setting,
    plan_within: Callable[[int | None], Plan],
    case_of: Callable[[Plan], Case],
    least_tokens: int,
    start: Thrift,
    settled_bytes: int = 0,
) -> Admission:
    """Find the plan and the savings that fit.

    Args:
        setting: bundle, process, video and ceiling.
        plan_within: the plan for at most so many visual tokens; None: as many as it likes.
        case_of: what a plan means for memory.
        least_tokens: fewest visual tokens that `plan_within` can be asked for; from the wanted number on: it is fixed.
        start: what there is to give up.
        settled_bytes: what the smallest plan may pass the ceiling by, spare included.

    Raises:
        MemoryLimitError: nothing fits; names the smallest ceiling that would do, and why.
    """
    wanted = plan_within(None)
    case, allowed = case_of(wanted), setting.limit.limit_bytes
    start = replace(
        start, chunk_frames=min(start.chunk_frames, case.frames) if case.images is None else start.chunk_frames
    )
    last = _Step(start, ())
    for last in _steps(setting, case, start):
        if setting.peak(case, last.thrift) <= allowed:
            return _admission(setting, wanted, case, last)
    frugal, most = last.thrift, wanted.visual_tokens

    def within_peak(tokens: int) -> int:
        return setting.peak(_any_grid(case_of(plan_within(tokens))), frugal)

    within = _most_tokens(within_peak, least_tokens, most, allowed)
    if within is None:
        smallest = case if least_tokens >= most else _any_grid(case_of(plan_within(least_tokens)))
        if setting.peak(smallest, frugal) > allowed + settled_bytes:
            raise refusal(setting, smallest, frugal)
        if least_tokens >= most:
            return _admission(setting, wanted, case, last)
        within = least_tokens
    plan = plan_within(within)
    need = setting.peak(case, frugal)
    fewer = Rejection(
        f"{most:,} visual tokens", f"need {size_text(need)}; {plan.visual_tokens:,} fit into {_allowed(setting)}", need
    )
    return _admission(setting, plan, case_of(plan), _Step(frugal, (*last.given_up, fewer)))


def check_least(setting: Setting, case: Case, start: Thrift) -> None:
    """Refuse what cannot fit whatever is given up.

    Raises:
        MemoryLimitError: names the smallest ceiling that would do, and why.
    """
    frugal = _frugal(setting, case, _Step(start, ())).thrift
    if setting.peak(case, frugal) > setting.limit.limit_bytes:
        raise refusal(setting, case, frugal)


def refusal(setting: Setting, case: Case, thrift: Thrift) -> MemoryLimitError:
    """The error that names what is needed at least, and which need dominates."""
    needs = setting.needs(case, thrift)
    stages = stage_bytes(needs)
    stage = max(stages, key=lambda name: stages[name])
    needed = setting.peak(case, thrift)
    parts = ", ".join(f"{name} {size_text(size)}" for name, size in needs[stage].items() if size >= MIB // 20)
    why = f"{stage} needs {size_text(stages[stage])} ({parts})"
    if setting.standing.peak_bytes >= stages[stage]:
        why = f"this process has held {size_text(setting.standing.peak_bytes)} already"
    smallest = math.ceil((needed + NAMED_SPARE_BYTES) / MIB)
    message = (
        f"{_allowed(setting)} of memory ({setting.limit.source}) is too little: {why}; allow at least {smallest}MiB"
    )
    return MemoryLimitError(setting.limit.limit_bytes, smallest * MIB, message)


def _steps(setting: Setting, case: Case, start: Thrift) -> Iterator[_Step]:
    """From everything to nothing left to give up; each step lowers the peak, the one that harms least comes first."""
    step = _Step(start, ())
    yield step
    peak = setting.peak(case, start)
    while True:
        for what, instead, thrift in _possible(setting, case, step.thrift):
            lower = setting.peak(case, thrift)
            if lower < peak:
                reason = f"need {size_text(peak)} in all, {_allowed(setting)} are allowed: {instead}"
                step = _Step(thrift, (*step.given_up, Rejection(what, reason, peak)))
                yield step
                peak = lower
                break
        else:
            yield _frugal(setting, case, step)
            return


def _frugal(setting: Setting, case: Case, step: _Step) -> _Step:
    """Everything given up that can be: visual tokens come after it."""
    peak = setting.peak(case, step.thrift)
    while (following := next(_possible(setting, case, step.thrift), None)) is not None:
        what, instead, thrift = following
        reason = f"before visual tokens are: {instead}"
        step = _Step(thrift, (*step.given_up, Rejection(what, reason, peak)))
    return step


def _possible(setting: Setting, case: Case, thrift: Thrift) -> Iterator[tuple[str, str, Thrift]]:
    """What could be given up next: what, what there is instead, and the savings with it."""
    yield from _possible_before_cells(setting, thrift)
    _, way = attention_of(setting.manifest, case, thrift)
    further = replace(thrift, attention=thrift.attention + 1)
    _, less = attention_of(setting.manifest, case, further)
    if way == "plain" and less == "flash":
        yield "plain attention", "block by block", further
    if not thrift.no_spare_cells:
        yield "cells for longer questions", "for this one only", replace(thrift, no_spare_cells=True)
    if less == "q8_0" and way != less:
        yield "16-bit key-value cells", "8 bits", further


def _possible_before_cells(setting: Setting, thrift: Thrift) -> Iterator[tuple[str, str, Thrift]]:
    frames, threads = thrift.chunk_frames, setting.standing.threads
    if thrift.decode_ahead:
        yield "decoding ahead of vision", "in turns with it", replace(thrift, decode_ahead=False)
    if thrift.language_beside:
        yield "the language model opened beside vision", "after it", replace(thrift, language_beside=False)
    if frames > 1:
        half = frames // 2
        yield f"{frames} frames at once", f"{half} at a time", replace(thrift, chunk_frames=half)
    if not thrift.in_turn and not thrift.stays_open:
        yield "vision and language model open at once", "one after the other", replace(thrift, in_turn=True)
    if not thrift.close_inductor and not thrift.stays_open:
        yield "the Inductor kept open", "opened for each question", replace(thrift, close_inductor=True)
    if thrift.features_bytes:
        smaller = thrift.features_bytes // FEATURE_STEPS if thrift.features_bytes >= FEATURE_STEPS * MIB else 0
        kept = f"{size_text(thrift.features_bytes)} of patch features kept"
        yield kept, size_text(smaller) if smaller else "none", replace(thrift, features_bytes=smaller)
    if thrift.decoder_threads != 1 and threads > 1:
        yield f"{threads} decoder threads", "one", replace(thrift, decoder_threads=1)


def _most_tokens(peak: Callable[[int], int], least: int, most: int, allowed: int) -> int | None:
    """The most visual tokens below `most`, from `least` on, whose peak is allowed; None if not even `least` is."""
    if least >= most or peak(least) > allowed:
        return None
    fits, too_many = least, most
    while too_many - fits > 1:
        middle = (fits + too_many) // 2
        fits, too_many = (middle, too_many) if peak(middle) <= allowed else (fits, middle)
    return fits


def _any_grid(case: Case) -> Case:
    """With the dearest projector: fewer tokens may mean another grid, and must not need more."""
    return replace(case, grid=None)


def _admission(setting: Setting, plan: Plan, case: Case, step: _Step) -> Admission:
    predicted = expected_bytes(setting.needs(case, step.thrift))
    told = replace(plan, predicted_bytes=predicted, rejections=(*plan.rejections, *step.given_up))
    earlier = tuple(rejection for rejection in plan.rejections if rejection.needed_bytes is None)
    decided = replace(plan, predicted_bytes=None, rejections=earlier)
    return Admission(told, step.thrift, attention_of(setting.manifest, case, step.thrift)[1], decided)


def _allowed(setting: Setting) -> str:
    return size_text(setting.limit.limit_bytes)
