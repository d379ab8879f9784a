"""The rule set: task group, duration and one token budget decide how many frames are looked at, and how closely.

The paper (appendix D.3, figure 10) shows four worked examples and no formula; these rules reproduce all four. They are
data of the bundle, not code: another ladder, budget or task type is another `Routing`.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from typing import Annotated, Literal, NamedTuple

from pydantic import Field, PositiveFloat, PositiveInt

from tam_edge.runtime.errors import UsageError
from tam_edge.runtime.schema import Entry, Name

Group = Literal["high", "more", "balanced"]
"""Row of the rule set: few frames at fine detail, many at coarse detail, or something between."""


class TaskRule(Entry):
    """One task type and the row of the rule set it follows."""

    name: Name
    """Name as the Inductor gives it."""
    title: Name
    """Name as the prompt prints it."""
    group: Group
    """Row of the rule set."""
    asks: str = ""
    """Words that continue "The question asks ...", for the plan's explanation; empty: the name is used."""


class Rung(Entry):
    """One grid of the ladder."""

    grid: PositiveInt
    """Tokens per side of one frame."""
    expert: PositiveInt
    """Projector expert of this grid."""
    tokens_per_frame: PositiveInt
    """Visual tokens one frame costs, newline tokens included."""


class Routing(Entry):
    """The rule set (paper, appendix D.3): task group, duration and token budget -> frames and grid."""

    ladder: Annotated[tuple[Rung, ...], Field(min_length=1)]
    """Grids, largest first."""
    tasks: Annotated[tuple[TaskRule, ...], Field(min_length=1)]
    """Task types."""
    frames_per_second: PositiveFloat = 1.0
    """Density of the clip's list of possible times, per second."""
    max_frames: PositiveInt = 120
    """Most frames of that list and of a plan."""
    balanced_grid: PositiveInt
    """Preferred grid of the balanced row."""
    high_grid_short: PositiveInt
    """Preferred grid of the high row for clips below short_seconds."""
    high_grid_long: PositiveInt
    """Preferred grid of the high row for other clips."""
    more_grid: PositiveInt
    """Preferred grid of the more row."""
    short_seconds: PositiveFloat = 30.0
    """Clips below this are short, in seconds."""
    fallback_seconds_per_frame: PositiveFloat = 15.0
    """Detail gives way before fewer than one frame in this many seconds are looked at."""
    confidence_threshold: Annotated[float, Field(ge=0, le=1)]
    """Below this confidence the balanced row is used, 0 to 1."""
    phrases: dict[Group, str]
    """Words of each row for the prompt's {phrase}."""
    context_reserve_tokens: Annotated[int, Field(ge=0)]
    """Tokens of the context kept free for text."""
    max_visual_tokens: PositiveInt | None = None
    """Most visual tokens the model was trained on; null: as many as the context leaves."""

    def rung(self, grid: int) -> Rung:
        """The rung of a grid.

        Raises:
            UsageError: no such grid on the ladder.
        """
        for rung in self.ladder:
            if rung.grid == grid:
                return rung
        grids = ", ".join(str(rung.grid) for rung in self.ladder)
        raise UsageError(f"grid {grid} is not on this bundle's ladder: choose one of {grids}")

    def rule(self, task: str) -> TaskRule:
        """The rule of a task type.

        Raises:
            UsageError: no such task type.
        """
        for rule in self.tasks:
            if rule.name == task:
                return rule
        names = ", ".join(rule.name for rule in self.tasks)
        raise UsageError(f"task type {task!r} is unknown to this bundle: choose one of {names}")


class Route(NamedTuple):
    """What the rule set decided."""

    frames: int
    """Number of frames."""
    grid: int
    """Tokens per side of one frame."""
    expert: int
    """Projector expert of that grid."""


def candidate_times(duration_seconds: float, frame_count: int | None, routing: Routing) -> tuple[float, ...]:
    """The clip's one list of times in seconds: every plan looks at a subset of it, so plans share frames.

    One time per 1 / frames_per_second; where that gives more than max_frames, as many uniform ones up to the last
    frame. A clip with fewer frames than that (a time lapse) gets the middle of each of its frames.
    """
    by_rate = max(1, math.ceil(round(duration_seconds * routing.frames_per_second, 6)))  # 10.0000001 s are 10 s
    available = by_rate if frame_count is None else max(1, min(by_rate, frame_count))
    count = min(routing.max_frames, available)
    if count == by_rate:
        return tuple(i / routing.frames_per_second for i in range(count))
    frame_seconds = duration_seconds / frame_count if frame_count else 1 / routing.frames_per_second
    first = frame_seconds / 2 if available < by_rate else 0.0
    step = (duration_seconds - frame_seconds) / max(1, count - 1)
    return tuple(first + i * step for i in range(count))


def clip_times(
    start_seconds: float,
    duration_seconds: float,
    frame_count: int | None,
    only_at: tuple[float, ...] | None,
    routing: Routing,
) -> tuple[float, ...]:
    """The list of `candidate_times` as the source counts them; of a source with frames `only_at` some times, those.

    There it has at most as many, spread over the clip as evenly as they lie.
    """
    times = candidate_times(duration_seconds, frame_count, routing)
    if only_at is None:
        return tuple(start_seconds + time for time in times)
    return spread_times(only_at, min(len(times), len(only_at)))


def spread_times(candidates: tuple[float, ...], frames: int) -> tuple[float, ...]:
    """`frames` of `candidates`, which may lie unevenly, as evenly in time as can be: first and last included.

    Each is the nearest to its place among those that leave enough for the others; a single one is the middle.
    """
    first, last = candidates[0], candidates[-1]
    if frames == 1:
        return (min(candidates, key=lambda time: abs(time - (first + last) / 2)),)
    chosen, low = list[float](), 0
    for place in range(frames):
        wanted = first + place * (last - first) / (frames - 1)
        high = len(candidates) - (frames - place)  # the last that leaves enough
        at = bisect_left(candidates, wanted, low, high)
        if at > low and wanted - candidates[at - 1] < candidates[at] - wanted:
            at -= 1
        chosen.append(candidates[at])
        low = at + 1
    return tuple(chosen)


def choose_times(candidates: tuple[float, ...], frames: int) -> tuple[float, ...]:
    """Spread `frames` times over `candidates`: first and last included, none twice; a single one is the middle."""
    last = len(candidates) - 1
    if frames == 1:
        return (candidates[last // 2],)
    # round(i * last / (frames - 1)) in whole numbers: steps are at least 1, so no two times can meet
    return tuple(candidates[(2 * i * last + frames - 1) // (2 * (frames - 1))] for i in range(frames))


def preferred_grid(group: Group, duration_seconds: float, routing: Routing) -> int:
    """The grid a row starts from, before budget and duration have their say."""
    if group == "high":
        return routing.high_grid_short if duration_seconds < routing.short_seconds else routing.high_grid_long
    return routing.more_grid if group == "more" else routing.balanced_grid


def frame_cap(rung: Rung, budget: int, routing: Routing) -> int:
    """Most frames of this grid that `budget` visual tokens hold."""
    return min(routing.max_frames, budget // rung.tokens_per_frame)


def route(group: Group, duration_seconds: float, available: int, budget: int, routing: Routing) -> Route:
    """Decide frames and grid for a row of the rule set.

    `available` is the number of times to choose from, `budget` the visual tokens. More budget never gives fewer tokens:
    wherever frames or grid change with growing budget, the new choice uses it to the last token.

    Raises:
        UsageError: one frame at the smallest grid is more than `budget`.
    """
    start = routing.rung(preferred_grid(group, duration_seconds, routing))
    least = max(1, min(available, math.ceil(duration_seconds / routing.fallback_seconds_per_frame)))
    return _fit(start, available, least, budget, routing)


def route_by_hand(
    group: Group,
    duration_seconds: float,
    available: int,
    budget: int,
    routing: Routing,
    *,
    frames: int | None = None,
    grid: int | None = None,
) -> Route:
    """As `route`, with frames, grid or both given by hand and followed as far as clip and budget allow.

    A grid by hand stays unless not even one frame of it fits; then the next smaller is taken. Frames by hand alone step
    the grid down until all of them fit.

    Raises:
        UsageError: no frame asked for, a grid that is not on the ladder, or no frame fits.
    """
    if frames is not None and frames < 1:
        raise UsageError(f"{frames} frames cannot be looked at: ask for at least 1")
    start = routing.rung(preferred_grid(group, duration_seconds, routing) if grid is None else grid)
    wanted = available if frames is None else min(frames, available)
    if grid is None:
        return _fit(start, wanted, wanted, budget, routing)
    return _fit(start, wanted, 1, budget, routing, step_up=False)


def _fit(start: Rung, wanted: int, least: int, budget: int, routing: Routing, *, step_up: bool = True) -> Route:
    """Step down from `start` until `least` frames fit, take up to `wanted`, then step up where no frame is lost."""
    caps = [frame_cap(rung, budget, routing) for rung in routing.ladder]
    index = routing.ladder.index(start)
    while index + 1 < len(caps) and caps[index] < min(least, routing.max_frames):
        index += 1
    frames = min(wanted, caps[index])
    if frames < 1:
        side, needed = routing.ladder[-1].grid, routing.ladder[-1].tokens_per_frame
        raise UsageError(
            f"{budget} visual tokens are not enough for one frame: {side}x{side}, the smallest, is {needed}"
        )
    while step_up and index > 0 and caps[index - 1] >= frames:
        index -= 1
    return Route(frames, routing.ladder[index].grid, routing.ladder[index].expert)


def _tam_routing() -> Routing:
    tasks = (
        ("static attributes", "Static Attributes", "high", "what somebody or something looks like"),
        ("action recognition", "Action Recognition", "balanced", "what somebody does"),
        ("fine-grained attributes", "Fine-grained Recognition", "high", "about a small detail"),
        ("temporal sequence", "Temporal Sequence", "more", "when or in which order things happen"),
        ("spatial orientation", "Spatial Orientation", "high", "where something is"),
        ("summary", "Summary & Generalization", "more", "for a summary"),
        ("reasoning", "Reasoning & Logic", "balanced", "why something happens"),
        ("OCR and cross-modal", "OCR & Cross-modal", "high", "what is written"),
    )
    ladder = [Rung(grid=g, expert=i + 1, tokens_per_frame=g * (g + 1)) for i, g in enumerate((27, 18, 14, 11))]
    return Routing.model_validate(
        {
            "ladder": ladder,
            "tasks": [dict(zip(("name", "title", "group", "asks"), task, strict=True)) for task in tasks],
            "balanced_grid": 14,
            "high_grid_short": 27,
            "high_grid_long": 18,
            "more_grid": 11,
            "confidence_threshold": 0.2,
            "phrases": {
                "high": "less frames with higher resolution",
                "more": "more frames with lower resolution",
                "balanced": "balanced frames and resolution",
            },
            "context_reserve_tokens": 1500,
        }
    )


TAM_ROUTING = _tam_routing()
"""The paper's ladder, constants and words; a context of 21000 less 2048 for the answer leaves 17452 visual tokens."""
