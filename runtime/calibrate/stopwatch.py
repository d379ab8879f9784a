"""Measure something some times over, and keep by how much the measurements exceed the figure that comes of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import median
from time import perf_counter

LEAST_ROUNDS, MOST_ROUNDS = 3, 9
"""How often each thing is measured: as often as `ROUNDS_SECONDS` allow, within these bounds."""
ROUNDS_SECONDS = 0.5
LONG_SECONDS = 5.0
"""A measurement that took this long is not repeated, and is the last of its row."""
SPREAD_SHARE = 0.9
"""Share of the measured time that stays below a stage's spread."""


def timed(work: Callable[[], object]) -> float:
    """Milliseconds that `work` takes."""
    start = perf_counter()
    work()
    return 1000 * (perf_counter() - start)


def repeated(once: Callable[[], float]) -> list[float]:
    """Call what measures, some times over."""
    found, began = list[float](), perf_counter()
    while len(found) < LEAST_ROUNDS or (len(found) < MOST_ROUNDS and perf_counter() - began < ROUNDS_SECONDS):
        found.append(once())
        if found[-1] > 1000 * LONG_SECONDS:
            break
    return found


def rounds(work: Callable[[], object], before: Callable[[], object] = lambda: None) -> list[float]:
    """Milliseconds of `work`, some times over; `before` each of them something is made ready."""

    def once() -> float:
        before()
        return timed(work)

    return repeated(once)


class Book:
    """Figures by stage, and by how much single measurements exceeded them."""

    def __init__(self) -> None:
        self._excess: dict[str, list[tuple[float, float]]] = {}  # by how much of its figure, and the figure

    def middle(self, stage: str, measured: Sequence[float]) -> float:
        """The median of measurements, which is noted as their figure."""
        figure = median(measured)
        self.note(stage, measured, figure)
        return figure

    def note(self, stage: str, measured: Sequence[float], figure: float) -> None:
        """Compare measurements with the figure that they gave."""
        if figure > 0:
            self._excess.setdefault(stage, []).extend((max(0.0, ms / figure - 1), figure) for ms in measured)

    def spread(self) -> dict[str, float]:
        """By how much measurements exceed their figure: what all but the worst stay below.

        By time, not by number: what took long says more about a stage that takes long.
        """
        return {stage: _high(some) for stage, some in self._excess.items()}


def _high(excess: Sequence[tuple[float, float]]) -> float:
    left = (1 - SPREAD_SHARE) * sum(weight for _, weight in excess)
    for value, weight in sorted(excess, reverse=True):
        left -= weight
        if left < 0:
            return value
    return 0.0
