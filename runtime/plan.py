"""Decide what will be looked at, before a pixel is decoded: task estimate, clip and limits -> `Plan`.

Pure: nothing is opened and nothing is measured here, so the same inputs always give the same plan, and a plan can be
written to a file, read back and repeated.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError

from tam_edge.runtime.errors import UsageError
from tam_edge.runtime.frames import VideoInfo
from tam_edge.runtime.inductor import TaskEstimate
from tam_edge.runtime.manifest import Manifest
from tam_edge.runtime.reasons import Choice, interval_seconds, sentences, still_sentences
from tam_edge.runtime.routing import (
    Group,
    Route,
    Routing,
    choose_times,
    clip_times,
    frame_cap,
    preferred_grid,
    route,
    route_by_hand,
    spread_times,
)
from tam_edge.runtime.sequence import STILL_SECONDS
from tam_edge.runtime.tiles import Way, layout_of, still_tokens, ways_to_see

SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True)
class Rejection:
    """Something that was wanted or considered and not done."""

    what: str
    """The thing, such as "grid 18"."""
    reason: str
    """Why not."""
    needed_bytes: int | None = None
    """Memory it would have needed, where memory was the reason."""
    needed_ms: float | None = None
    """Time to the first token it would have needed, where a deadline was the reason."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a plan must stay within, beside what the bundle's context allows."""

    visual_tokens: int | None = None
    """Most visual tokens that memory and deadline leave; None: no limit of their own."""
    frames: int | None = None
    """Number of frames given by hand."""
    grid: int | None = None
    """Grid given by hand, tokens per side."""
    strategy: str | None = None
    """Strategy by name; None: the bundle's first."""
    most_frames: int | None = None
    """Most frames that the deadline leaves; not followed where frames or grid are given by hand."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What will be looked at and why. Times are strictly increasing, inside the clip, and part of its one list."""

    task: str
    """Most probable task type."""
    confidence: float
    """Its probability, 0 to 1."""
    probabilities: Mapping[str, float]
    """Probability of every task type; they sum to 1."""
    strategy: str
    """How patch features become visual tokens."""
    timestamps_seconds: tuple[float, ...]
    """Times of the frames, as the source counts them."""
    grid: int | None
    """Tokens per side of one frame; None where the strategy has none."""
    expert: int | None
    """Projector expert; None where the strategy has none."""
    visual_tokens: int
    """Number of visual tokens, or an upper bound."""
    visual_tokens_exact: bool
    """False where the number depends on the content."""
    token_budget: int
    """Most visual tokens there could have been."""
    interval_seconds: float
    """Mean distance between neighbouring frames; 0 for a single one."""
    duration_seconds: float
    """Length of the clip or window; 0 for an image."""
    predicted_bytes: dict[str, int] | None = field(compare=False)
    """Resident set of the whole process at the peak of each stage, in bytes; None until a process looked at itself."""
    predicted_ms: float | None = field(compare=False)
    """Time from the question to the first token in milliseconds; None until the device is calibrated."""
    rejections: tuple[Rejection, ...]
    """What was wanted or considered and not done."""
    reasons: tuple[str, ...]
    """The plan in plain English, most important first."""
    task_title: str = ""
    """The task type as the prompt prints it."""
    phrase: str = ""
    """The row's words for the prompt."""
    start_seconds: float = 0.0
    """Where the clip starts, as the source counts; not 0 in a window."""
    images: Way | None = None
    """How still images are seen: in tiles, or each as a whole; None: as frames of a video."""
    predicted_stages_ms: dict[str, float] | None = field(default=None, compare=False)
    """Each stage's share of `predicted_ms`; None until the device is calibrated."""
    predicted_bytes_from: Literal["bundle", "device"] = field(default="bundle", compare=False)
    """Where the engines' figures behind `predicted_bytes` were measured: where the bundle was made, or here."""

    def __post_init__(self) -> None:
        """Hold the one promise every later stage builds on."""
        times = self.timestamps_seconds
        if not times or not all(math.isfinite(t) and t >= 0 for t in times) or any(b <= a for a, b in pairwise(times)):
            raise ValueError("timestamps_seconds must be one or more strictly increasing times from 0 on")

    @property
    def frames(self) -> int:
        """Number of frames."""
        return len(self.timestamps_seconds)

    def to_json(self) -> dict[str, Any]:
        """JSON value that `from_json` turns into an equal plan."""
        return {"schema_version": SCHEMA_VERSION, "frames": self.frames} | asdict(self)

    @classmethod
    def from_json(cls, value: object) -> Plan:
        """Read back what `to_json` wrote; fields it does not know are passed over.

        Raises:
            UsageError: `value` is no plan, or of another version; the message names the field.
        """
        if not isinstance(value, dict) or value.get("schema_version") != SCHEMA_VERSION:
            raise UsageError(f"not a plan: expected a JSON object with schema_version {SCHEMA_VERSION}")
        try:
            return TypeAdapter(cls).validate_python(value)
        except ValidationError as error:
            first = error.errors()[0]
            field = ".".join(map(str, first["loc"])) or "timestamps_seconds"
            raise UsageError(f"not a plan: {field}: {first['msg']}") from error


def make_plan(estimate: TaskEstimate, info: VideoInfo, manifest: Manifest, limits: Limits = Limits()) -> Plan:
    """Decide frames and grid for one question about one clip.

    The token budget is the smallest of what the context leaves and what `limits` leaves. Below the bundle's confidence
    threshold the balanced row is used. Frames or grid by hand are followed as far as clip and budget allow; what was
    cut is in `rejections`.

    Raises:
        UsageError: unknown strategy, grid or task; or one frame at the smallest grid is more than the budget.
    """
    strategy = _strategy(manifest, limits.strategy)
    rejections = list[Rejection]()
    by_hand = limits.frames is not None or limits.grid is not None
    for images in () if by_hand else ways_to_see(info, manifest):
        tokens, budget = sum(still_tokens(info, manifest, images)), _budget(manifest, limits)
        if tokens <= budget[0]:
            return _still_plan(estimate, info, manifest, images, tokens, budget, strategy, tuple(rejections))
        wanted = "the image in tiles" if images == "tiles" else "whole images without pooling"
        rejections.append(Rejection(wanted, f"{tokens} visual tokens are more than {budget[0]}"))
    choice = _choose(estimate, info, manifest, limits)
    return Plan(
        task=estimate.task,
        confidence=estimate.confidence,
        probabilities=dict(estimate.probabilities),
        strategy=strategy,
        timestamps_seconds=choice.times,
        grid=choice.rung.grid,
        expert=choice.rung.expert,
        visual_tokens=choice.tokens,
        visual_tokens_exact=True,
        token_budget=choice.budget,
        interval_seconds=interval_seconds(choice.times),
        duration_seconds=info.duration_seconds,
        predicted_bytes=None,
        predicted_ms=None,
        rejections=(*rejections, *_rejections(choice, manifest.routing, limits)),
        reasons=sentences(choice) + _unread(estimate),
        task_title=choice.rule.title,
        phrase=manifest.routing.phrases[choice.group],
        start_seconds=info.start_seconds,
    )


def check_plan(plan: Plan, info: VideoInfo, manifest: Manifest) -> None:
    """Refuse a plan from a file that does not fit this clip and bundle.

    Raises:
        UsageError: a time outside the clip, or a strategy, grid or token count that the bundle does not have.
    """
    _strategy(manifest, plan.strategy)
    first, last, end = (
        plan.timestamps_seconds[0],
        plan.timestamps_seconds[-1],
        info.start_seconds + info.duration_seconds,
    )
    if first < info.start_seconds or last > end:
        raise UsageError(
            f"the plan looks at {first:.2f} to {last:.2f} s, the clip is {info.start_seconds:.2f} to {end:.2f} s"
        )
    if plan.images is not None:
        made_for = plan.images in ways_to_see(info, manifest) and plan.frames == len(info.still_sizes_px)
        if not made_for or plan.visual_tokens != sum(still_tokens(info, manifest, plan.images)):
            raise UsageError("the plan was made for other images or another bundle; plan again")
    elif plan.grid is not None:
        rung = manifest.routing.rung(plan.grid)
        tokens = plan.frames * rung.tokens_per_frame + manifest.closing_tokens
        if (plan.expert, plan.visual_tokens) != (rung.expert, tokens):
            raise UsageError(
                f"the plan was made for another bundle: its expert or token count is not grid {plan.grid}'s"
            )
    if plan.visual_tokens > manifest.context_visual_tokens:
        most = manifest.context_visual_tokens
        raise UsageError(f"the plan has {plan.visual_tokens} visual tokens, this bundle has room for {most}")


def _still_plan(
    estimate: TaskEstimate,
    info: VideoInfo,
    manifest: Manifest,
    images: Way,
    tokens: int,
    budget: tuple[int, str],
    strategy: str,
    rejections: tuple[Rejection, ...],
) -> Plan:
    rule, count = manifest.routing.rule(estimate.task), len(info.still_sizes_px)
    times = tuple(at * STILL_SECONDS for at in range(count))
    tiles = layout_of(info.still_sizes_px[0], manifest).tiles if images == "tiles" else None
    return Plan(
        task=estimate.task,
        confidence=estimate.confidence,
        probabilities=dict(estimate.probabilities),
        strategy=strategy,
        timestamps_seconds=times,
        grid=None,
        expert=None,
        visual_tokens=tokens,
        visual_tokens_exact=True,
        token_budget=budget[0],
        interval_seconds=interval_seconds(times),
        duration_seconds=info.duration_seconds,
        predicted_bytes=None,
        predicted_ms=None,
        rejections=rejections,
        reasons=still_sentences(count, tiles, tokens, *budget) + _unread(estimate),
        task_title=rule.title,
        phrase=manifest.routing.phrases[rule.group],
        images=images,
    )


def _strategy(manifest: Manifest, name: str | None) -> str:
    names = [strategy.name for strategy in manifest.strategies]
    if name is not None and name not in names:
        raise UsageError(f"strategy {name!r} is unknown to this bundle: choose one of {', '.join(names)}")
    return names[0] if name is None else name


def _choose(estimate: TaskEstimate, info: VideoInfo, manifest: Manifest, limits: Limits) -> Choice:
    routing, duration = manifest.routing, info.duration_seconds
    rule = routing.rule(estimate.task)
    sure = estimate.confidence >= routing.confidence_threshold
    group: Group = rule.group if sure else "balanced"
    budget, budget_from = _budget(manifest, limits)
    candidates = clip_times(info.start_seconds, duration, info.frame_count, info.times_seconds, routing)
    choose = choose_times if info.times_seconds is None else spread_times
    decided = _route(group, duration, len(candidates), budget - manifest.closing_tokens, routing, limits)
    return Choice(
        rule=rule,
        confidence=estimate.confidence,
        group=group,
        sure=sure,
        by_hand=tuple(name for name in ("frames", "grid") if getattr(limits, name) is not None),
        preferred_grid=preferred_grid(group, duration, routing),
        rung=routing.rung(decided.grid),
        times=choose(candidates, decided.frames),
        available=len(candidates),
        closing_tokens=manifest.closing_tokens,
        start_seconds=info.start_seconds,
        duration_seconds=duration,
        budget=budget,
        budget_from=budget_from,
    )


def _unread(estimate: TaskEstimate) -> tuple[str, ...]:
    if not estimate.unread_tokens:
        return ()
    return (f"The question is long: {estimate.unread_tokens} tokens of its middle played no part in its task type.",)


def _budget(manifest: Manifest, limits: Limits) -> tuple[int, str]:
    trained = manifest.routing.max_visual_tokens
    bounds = [(manifest.context_visual_tokens, "what the context leaves beside text and answer")]
    if trained is not None:
        bounds.insert(0, (trained, "the most this model was trained on"))
    if limits.visual_tokens is not None:
        bounds.append((limits.visual_tokens, "what the limits of this run leave"))
    return min(bounds, key=lambda bound: bound[0])


def _route(group: Group, duration: float, available: int, budget: int, routing: Routing, limits: Limits) -> Route:
    if limits.frames is None and limits.grid is None:
        most = available if limits.most_frames is None else min(available, limits.most_frames)
        return route(group, duration, most, budget, routing)
    return route_by_hand(group, duration, available, budget, routing, frames=limits.frames, grid=limits.grid)


def _rejections(choice: Choice, routing: Routing, limits: Limits) -> Iterator[Rejection]:
    frames = len(choice.times)
    wanted = limits.frames if limits.frames is not None else frames
    if wanted > choice.available:
        yield Rejection(f"{wanted} frames", f"the clip's list has {choice.available} times")
    elif wanted > frames:
        yield Rejection(f"{wanted} frames", f"{choice.budget} visual tokens hold {frames} at grid {choice.rung.grid}")
    start = limits.grid if limits.grid is not None else choice.preferred_grid
    for rung in routing.ladder:
        if choice.rung.grid < rung.grid <= start:
            fit = frame_cap(rung, choice.budget - choice.closing_tokens, routing)
            yield Rejection(f"grid {rung.grid}", f"only {fit} frames of it fit into {choice.budget} visual tokens")
