"""Shares with 95% intervals, by bootstrap over videos: the questions of one video go together, so videos are drawn."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 2000
PERCENTILES = (2.5, 97.5)

Counts = NDArray[np.float64]
"""[V, 2]: how often it was so, and how often it could have been, video by video."""


def count(outcomes: Iterable[tuple[int, bool]], videos: int) -> Counts:
    """Count outcomes, each with the number of its video, below `videos`."""
    counts = np.zeros((videos, 2))
    for video, hit in outcomes:
        counts[video] += (hit, 1)
    return counts


def share(counts: Counts) -> dict[str, Any]:
    """The share of hits and its interval; both None where there was nothing to hit."""
    hits, chances = counts.sum(0)
    if not chances:
        return {"share": None, "ci95": None, "questions": 0}
    drawn = _drawn(counts)
    return {
        "share": round(hits / chances, 4),
        "ci95": _interval(drawn[:, 0], drawn[:, 1]),
        "questions": int(chances),
    }


def difference(counts: Counts, other: Counts) -> dict[str, Any]:
    """How much larger the share of `counts` is than that of `other`, on the same videos and questions.

    Paired: each resample draws the same videos for both. It counts where its interval excludes 0, and more than one
    video was asked about: a single one says nothing about others.
    """
    pairs = np.concatenate([counts, other], axis=1)
    hits, chances, other_hits, other_chances = pairs.sum(0)
    if not chances or not other_chances:
        return {"difference": None, "difference_ci95": None, "counts": False}
    drawn = _drawn(pairs)
    drawn = drawn[(drawn[:, 1] > 0) & (drawn[:, 3] > 0)]
    low, high = np.percentile(drawn[:, 0] / drawn[:, 1] - drawn[:, 2] / drawn[:, 3], PERCENTILES)
    return {
        "difference": round(hits / chances - other_hits / other_chances, 4),
        "difference_ci95": [round(float(low), 4), round(float(high), 4)],
        "counts": bool((low > 0 or high < 0) and np.count_nonzero(pairs[:, (1, 3)].all(1)) > 1),
    }


def _interval(hits: NDArray[np.float64], chances: NDArray[np.float64]) -> list[float]:
    some = chances > 0
    low, high = np.percentile(hits[some] / chances[some], PERCENTILES)
    return [round(float(low), 4), round(float(high), 4)]


def _drawn(counts: NDArray[np.float64]) -> NDArray[np.float64]:
    """[RESAMPLES, columns] sums over as many videos as there are, drawn with replacement; the same ones every time."""
    rng = np.random.default_rng(0)
    videos = len(counts)
    return np.stack([rng.multinomial(videos, np.full(videos, 1 / videos)) @ counts for _ in range(RESAMPLES)])
