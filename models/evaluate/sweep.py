"""Accuracy against visual tokens: the plan's budget swept, with task-aware plans and with one grid for every task.

The paper plots accuracy against FLOPs (table 13); in one model, those grow with the visual tokens.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tam_edge.models.evaluate.arms import ALL, FIXED, Arm, fixed
from tam_edge.models.evaluate.ask import Reply
from tam_edge.models.evaluate.intervals import count, difference
from tam_edge.models.evaluate.summary import accuracy, looked_at
from tam_edge.runtime import UsageError
from tam_edge.runtime.bundle import Bundle
from tam_edge.runtime.plan import Limits

PLANNED = "planned"
STEPS = 8  # budgets of "all", each larger than the one before by the same factor
LEAST_SHARE = 0.1  # of the most, where "all" begins


def budgets(wanted: Iterable[str], bundle: Bundle) -> tuple[int, ...]:
    """The budgets in `wanted`, which may hold commas and "all", rising; none above what the bundle can take.

    Raises:
        UsageError: no number, or not enough for one frame.
    """
    most, least = bundle.manifest.context_visual_tokens, bundle.manifest.routing.ladder[-1].tokens_per_frame
    found = set[int]()
    for name in (name.strip() for value in wanted for name in value.split(",")):
        if name == ALL:
            found.update(round(most * LEAST_SHARE ** (step / (STEPS - 1))) for step in range(STEPS))
        elif name.isascii() and name.isdigit() and int(name) >= least:
            found.add(int(name))
        else:
            raise UsageError(f"--budgets {name[:40]!r}: name numbers of visual tokens from {least} on, or {ALL}")
    return tuple(sorted({max(least, min(most, budget)) for budget in found}))


def swept(wanted: Sequence[int], bundle: Bundle, strategy: str | None) -> list[Arm]:
    """Two arms for each budget."""
    arms = []
    for budget in wanted:
        limits = Limits(visual_tokens=budget, strategy=strategy)
        arms.append(Arm(f"{PLANNED} {budget}", "planned", bundle.path, limits))
        arms.append(fixed(f"{FIXED} {budget}", bundle, None, limits))
    return arms


def curve(wanted: Sequence[int], replies: Mapping[str, Sequence[Reply]], grid: int, videos: int) -> dict[str, Any]:
    """Both lines, point by point, and at each budget how much better the planned one is."""
    points: dict[str, list[dict[str, Any]]] = {PLANNED: [], FIXED: []}
    better = []
    for budget in wanted:
        counts = {}
        for line, found in points.items():
            said = replies[f"{line} {budget}"]
            found.append({"budget": budget, **accuracy(said, videos), **looked_at(said)})
            counts[line] = count(((reply.video, reply.right) for reply in said), videos)
        better.append({"budget": budget, **difference(counts[PLANNED], counts[FIXED])})
    return {**points, "fixed_grid": grid, "planned_against_fixed": better}
