"""The routing of an imported checkpoint: TAM's own rules on the ladder and line breaks it has."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from tam_edge.export.pretrained.sizes import CheckpointSizes, newline_tokens
from tam_edge.runtime.routing import TAM_ROUTING, Routing, Rung, TaskRule

MAX_OUTPUT_TOKENS = 2048
"""TAM's longest answer."""
SMALL_SHARE = 8
"""A context too short for TAM's numbers keeps an eighth for the answer and an eighth for text."""


def output_tokens(context: int) -> int:
    """Tokens of a context that are kept free for the answer."""
    return min(MAX_OUTPUT_TOKENS, context // SMALL_SHARE)


def routing_of(sizes: CheckpointSizes, rules: Sequence[TaskRule], threshold: float) -> Routing:
    """TAM's rule set; where the ladder is another, its first, second, third and last grid take the places of theirs.

    Args:
        sizes: ladder, line breaks and context.
        rules: one per task type of the Inductor.
        threshold: confidence below which a question counts as none of them.
    """
    grids = sizes.config.projector.grids
    ladder = tuple(
        Rung(grid=grid, expert=expert, tokens_per_frame=newline_tokens(sizes.newline, grid))
        for expert, grid in enumerate(grids, start=1)
    )
    return Routing(
        ladder=ladder,
        tasks=tuple(rules),
        frames_per_second=TAM_ROUTING.frames_per_second,
        max_frames=TAM_ROUTING.max_frames,
        high_grid_short=grids[0],
        high_grid_long=grids[min(1, len(grids) - 1)],
        balanced_grid=grids[min(2, len(grids) - 1)],
        more_grid=grids[-1],
        short_seconds=TAM_ROUTING.short_seconds,
        fallback_seconds_per_frame=TAM_ROUTING.fallback_seconds_per_frame,
        confidence_threshold=threshold,
        phrases=TAM_ROUTING.phrases,
        context_reserve_tokens=_reserve(sizes.config.language.context),
    )


def least_context(sizes: CheckpointSizes) -> int:
    """Shortest context in which one frame at the smallest grid leaves room for text and answer."""
    frame = newline_tokens(sizes.newline, sizes.config.projector.grids[-1]) + (sizes.newline == "one")
    return next(
        context
        for context in itertools.count(SMALL_SHARE)
        if context - output_tokens(context) - _reserve(context) >= frame
    )


def rules_for(tasks: Sequence[str], known: Sequence[TaskRule]) -> tuple[TaskRule, ...]:
    """TAM's rule of each task type, and of those that TAM does not have the one they came with."""
    rules = {rule.name: rule for rule in (*known, *TAM_ROUTING.tasks)}
    return tuple(rules[name] for name in tasks)


def _reserve(context: int) -> int:
    return min(TAM_ROUTING.context_reserve_tokens, context // SMALL_SHARE)
