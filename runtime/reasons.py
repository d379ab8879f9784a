"""Say in plain English why a plan is what it is: the text behind ``--explain`` and `Plan.reasons`."""

from __future__ import annotations

from dataclasses import dataclass

from tam_edge.runtime.routing import Group, Rung, TaskRule

_STYLES: dict[Group, str] = {
    "high": "few frames at fine detail",
    "more": "many frames at coarse detail",
    "balanced": "frames and detail in balance",
}


@dataclass(frozen=True, slots=True)
class Choice:
    """Everything that went into one decision, as far as a person wants to hear of it."""

    rule: TaskRule
    """The most probable task type."""
    confidence: float
    """Its probability, 0 to 1."""
    group: Group
    """Row of the rule set that was used."""
    sure: bool
    """False where the confidence was below the threshold, so the balanced row was used."""
    by_hand: tuple[str, ...]
    """What was given by hand: "frames", "grid"."""
    preferred_grid: int
    """Grid the row starts from."""
    rung: Rung
    """Grid that was taken, with its expert and cost."""
    times: tuple[float, ...]
    """Times that were taken, in seconds."""
    available: int
    """Times there were to choose from."""
    start_seconds: float
    """Where the clip starts, as the source counts."""
    duration_seconds: float
    """Length of the clip; 0 for an image."""
    closing_tokens: int
    """Visual tokens that end the clip, beside those of its frames."""
    budget: int
    """Visual tokens that could have been."""
    budget_from: str
    """Which limit set the budget."""

    @property
    def tokens(self) -> int:
        """Visual tokens that will be made."""
        return len(self.times) * self.rung.tokens_per_frame + self.closing_tokens


def sentences(choice: Choice) -> tuple[str, ...]:
    """Explain `choice`, most important first."""
    times = times_sentence(choice.times, choice.start_seconds, choice.duration_seconds)
    return _task(choice), _budget(choice), times


def still_sentences(
    count: int, tiles: tuple[int, int] | None, tokens: int, budget: int, budget_from: str
) -> tuple[str, ...]:
    """Explain how still images are seen: one in `tiles` (rows, columns), or each of `count` as a whole."""
    if tiles is not None:
        seen = f"A single image is seen whole and, finer, in {tiles[0]} x {tiles[1]} tiles."
    else:
        seen = "The image is seen as a whole." if count == 1 else f"Each of the {count} images is seen as a whole."
    return seen, f"That makes {tokens:,} visual tokens; {budget:,} is {budget_from}."


def same_plan_sentence(frames: int, grid: int | None, tokens: int, why: str) -> str:
    """Say that an earlier question's plan is taken instead of the one the rules make, and why that is as good."""
    seen = f"{frames} frames at {grid}x{grid} tokens, {tokens:,} in all"
    return f"Instead, {seen}, are looked at as for an earlier question: {why}."


def same_frames_sentence() -> str:
    """Say that the frames were chosen among those of an earlier question."""
    return "The frames are taken from those of an earlier question, since they are no worse spread over the clip."


def times_sentence(times: tuple[float, ...], start_seconds: float, duration_seconds: float) -> str:
    """Say where in a clip, which may be an image, the frames lie."""
    if duration_seconds == 0:
        return "An image is a clip of one frame."
    clip = f"the clip goes from {start_seconds:.2f} s to {start_seconds + duration_seconds:.2f} s"
    first, last = times[0], times[-1]
    if len(times) == 1:
        return f"It is the frame at {first:.2f} s; {clip}."
    return f"One frame every {interval_seconds(times):.2f} s, from {first:.2f} s to {last:.2f} s; {clip}."


def interval_seconds(times: tuple[float, ...]) -> float:
    """Mean distance between neighbouring times in seconds; 0 for a single frame."""
    return (times[-1] - times[0]) / (len(times) - 1) if len(times) > 1 else 0.0


def _task(choice: Choice) -> str:
    grid = choice.rung.grid
    style, seen = _STYLES[choice.group], f"{_seen(choice)} at {grid}x{grid} tokens each"
    if choice.sure:
        lead = f"The question asks {choice.rule.asks or f'about {choice.rule.name}'}"
    else:
        lead = f"The question fits no task type well (closest: {choice.rule.name}, {choice.confidence:.0%})"
    if choice.by_hand:
        return f"{lead}; {' and '.join(choice.by_hand)} given by hand: {seen}."
    if grid > choice.preferred_grid:
        return f"{lead}, which calls for {style}; finer detail costs no frame here: {seen}."
    if grid < choice.preferred_grid:
        return f"{lead}, which calls for {style}; detail gives way so that enough of the clip is seen: {seen}."
    return f"{lead}, so {style}: {seen}."


def _seen(choice: Choice) -> str:
    frames = len(choice.times)
    if choice.available == 1:
        return "the one frame there is"
    return (
        f"all {frames} possible frames"
        if frames == choice.available
        else f"{frames} of {choice.available} possible frames"
    )


def _budget(choice: Choice) -> str:
    return f"That makes {choice.tokens:,} visual tokens; {choice.budget:,} is {choice.budget_from}."
