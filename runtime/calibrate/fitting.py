"""Costs from measurements: the sum of a few terms, none of them negative, that comes closest in proportion. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from tam_edge.runtime.rates import PREFILL_CHUNK_TOKENS, DecoderCost, Line, PrefillCost


@dataclass(frozen=True, slots=True)
class PrefillSample:
    """Some tokens, entered."""

    tokens: int
    """How many."""
    before: int
    """How many stood before them."""
    ms: float
    """What it took."""


@dataclass(frozen=True, slots=True)
class DecodedSample:
    """A clip, decoded."""

    megapixels: float
    """Of a frame, in millions."""
    kilobytes: float
    """Of a stored frame, in thousands of bytes."""
    frame_ms: float
    """What a frame took."""


def line(points: Sequence[tuple[float, float]]) -> Line:
    """The line through measurements (size, ms)."""
    fixed, each = _terms(np.array([(1.0, size) for size, _ in points]), np.array([ms for _, ms in points]))
    return Line(fixed_ms=fixed, each_ms=each)


def prefill_cost(samples: Sequence[PrefillSample]) -> PrefillCost:
    """What a call, a token, and a token that attends to another take."""
    rows = [
        (-(-one.tokens // PREFILL_CHUNK_TOKENS), one.tokens, one.tokens * (one.before + one.tokens / 2))
        for one in samples
    ]
    call, token, pair = _terms(np.array(rows, np.float64), np.array([one.ms for one in samples]))
    return PrefillCost(call_ms=call, token_ms=token, pair_ms=pair)


def decoder_cost(samples: Sequence[DecodedSample]) -> DecoderCost:
    """What a frame, its pixels and its bytes take."""
    rows = np.array([(1.0, one.megapixels, one.kilobytes) for one in samples])
    frame, pixels, stored = _terms(rows, np.array([one.frame_ms for one in samples]))
    return DecoderCost(frame_ms=frame, megapixel_ms=pixels, kilobyte_ms=stored)


def _terms(rows: NDArray[np.float64], ms: NDArray[np.float64]) -> list[float]:
    """Factors, none negative, with least squares of the relative errors: rows [N, K], ms [N] -> K numbers.

    With so few terms every choice of those that are not 0 can be tried.
    """
    weights = 1 / np.maximum(ms, 1e-3)
    scaled, ones = rows * weights[:, None], ms * weights
    best, least = [0.0] * rows.shape[1], float("inf")
    for count in range(1, rows.shape[1] + 1):
        for chosen in combinations(range(rows.shape[1]), count):
            found = np.linalg.lstsq(scaled[:, chosen], ones, rcond=None)[0]
            error = float(np.sum((scaled[:, chosen] @ found - ones) ** 2))
            if (found >= 0).all() and error < least - 1e-12:
                factors = dict(zip(chosen, found.tolist(), strict=True))
                best, least = [factors.get(i, 0.0) for i in range(rows.shape[1])], error
    return best
