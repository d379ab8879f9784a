"""Arms beside each other: they answered the same questions, so every difference is a paired one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

from tam_edge.models.evaluate.arms import BASELINE
from tam_edge.models.evaluate.ask import Reply
from tam_edge.models.evaluate.intervals import Counts, count, difference
from tam_edge.models.evaluate.summary import accuracy, doubt, looked_at

Told = Mapping[str, Sequence[Reply]]
"""Replies of each arm, by its name."""


def compare(told: Told, what: Mapping[str, str], task_names: Sequence[str], videos: int) -> dict[str, Any]:
    """A row for each arm with its difference to the baseline; then every two arms among themselves.

    `what` says what is different about each arm, and in which order they come.
    """
    counts = {name: _counts(told[name], videos) for name in what}
    return {
        "rows": [_row(name, words, told[name], told[BASELINE], task_names, videos) for name, words in what.items()],
        "pairs": [
            {"arm": first, "than": second, **difference(counts[first], counts[second])}
            for first, second in combinations(counts, 2)
        ],
    }


def _row(
    name: str, what: str, told: Sequence[Reply], baseline: Sequence[Reply], task_names: Sequence[str], videos: int
) -> dict[str, Any]:
    tasks = sorted({reply.question.task for reply in baseline})
    return {
        "arm": name,
        "what": what,
        **_measured(name, told, baseline, videos),
        **looked_at(told),
        **doubt(told, videos),
        "per_task": {
            task_names[task - 1]: _measured(name, _of(told, task), _of(baseline, task), videos) for task in tasks
        },
    }


def _measured(name: str, told: Sequence[Reply], baseline: Sequence[Reply], videos: int) -> dict[str, Any]:
    measured = accuracy(told, videos)
    if name == BASELINE:
        return measured
    return {**measured, **difference(_counts(told, videos), _counts(baseline, videos))}


def _of(replies: Sequence[Reply], task: int) -> list[Reply]:
    return [reply for reply in replies if reply.question.task == task]


def _counts(replies: Sequence[Reply], videos: int) -> Counts:
    return count(((reply.video, reply.right) for reply in replies), videos)
