"""How far an array of a bundle is from its reference, and how far it may be.

Errors are in units of the reference's standard deviation, so that they mean the same at every stage and size.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tam_edge.export.parity import ParityError

TOLERANCE = 1e-4
"""Largest root mean square error of features, visual tokens and float32 logits, in standard deviations."""
WORST_TOLERANCE = 1e-3
"""Largest single error of the same; a real SigLIP has a few channels a hundred times the others."""


@dataclass(frozen=True, slots=True)
class Error:
    """How far one array is from its reference, in standard deviations of the reference."""

    rms: float
    """Root mean square."""
    worst: float
    """Largest."""

    def __str__(self) -> str:
        return f"{self.rms:.3g} of a standard deviation (largest {self.worst:.3g})"


def error_of(got: NDArray[np.float32], expected: NDArray[np.float32]) -> Error:
    """How far `got` is from `expected`, arrays of one shape.

    Raises:
        ParityError: they have different shapes.
    """
    if got.shape != expected.shape:
        raise ParityError(f"the bundle gives {list(got.shape)}, transformers {list(expected.shape)}")
    apart = (got.astype(np.float64) - expected) / expected.std(dtype=np.float64)
    return Error(float(np.sqrt(np.square(apart).mean())), float(np.abs(apart).max()))


def require(what: str, error: Error, tolerance: float) -> None:
    """Refuse an array that is further off than `tolerance`.

    Raises:
        ParityError: it is; `what` says which one.
    """
    worst = WORST_TOLERANCE * tolerance / TOLERANCE
    if not (error.rms <= tolerance and error.worst <= worst):  # also where it is not a number
        raise ParityError(
            f"{what} differ from transformers' by {error}, more than {tolerance:g} ({worst:g}): no bundle"
        )
