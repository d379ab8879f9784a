"""How fast things follow each other in the street camera's scenes."""

from __future__ import annotations

from dataclasses import dataclass

FIRST_BRISK_SEED = 2_000_000_000_000
"""Scenes of this seed and later ones are brisk."""
MAX_SECONDS = 120.0
"""The longest clip."""


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast things follow each other."""

    min_seconds: float
    """The shortest clip."""
    gap_seconds: float
    """Two things never happen closer together than this,"""
    gap_fraction: float
    """nor than this part of the clip."""
    crossing_gaps: float
    """For how many gaps a cyclist is in view."""
    busy_moments: int | None = None
    """All that happens falls into so many moments in a row; None for the whole clip."""


CALM = Pace(min_seconds=5.0, gap_seconds=1.6, gap_fraction=0.11, crossing_gaps=1.5)
"""Nine frames tell nearly any two events apart, so one pipeline sees what every task asks for."""
BRISK = Pace(min_seconds=48.0, gap_seconds=3.2, gap_fraction=0.046, crossing_gaps=3.6, busy_moments=9)
"""Long stillness and much at once: it takes two dozen frames to tell any two events apart."""


def pace_of(seed: int) -> Pace:
    """The pace of a seed's scene."""
    return BRISK if seed >= FIRST_BRISK_SEED else CALM
