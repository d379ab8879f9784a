"""One pipeline for every task: what is left of a bundle's rules when the task has no say (paper, tables 3e and 13)."""

from __future__ import annotations

from tam_edge.runtime.routing import Routing


def one_pipeline(routing: Routing, grid: int | None = None) -> Routing:
    """The rules with the balanced row for every task; it starts from `grid`, by default from its own.

    The budget of visual tokens stays, and so does the way down for long clips and up for short ones: how much is looked
    at depends on the clip alone.

    Raises:
        UsageError: no such grid on the ladder.
    """
    tasks = tuple(rule.model_copy(update={"group": "balanced"}) for rule in routing.tasks)
    start = routing.rung(routing.balanced_grid if grid is None else grid)
    return routing.model_copy(update={"tasks": tasks, "balanced_grid": start.grid})
