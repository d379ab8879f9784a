"""Which stages of a graph get more bits than asked for: decided by measured error, and by nothing else.

Pure. A stage's noise is what it adds to a hidden state when it is given exact input. Stages add to one residual stream,
so their noises add up, with one unknown factor for what later layers make of them; that factor is measured.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

EXACT = 32
"""Bits of a stage that stays float32."""


@dataclass(frozen=True, slots=True)
class StageNoise:
    """One stage between two hidden states."""

    name: str
    """The hidden state it ends in."""
    numbers: int
    """Weights it holds."""
    noise: Mapping[int, float]
    """Mean squared error it adds, by bits, those that were asked for and above; EXACT adds none."""


def steps(stages: Sequence[StageNoise]) -> list[tuple[str, int]]:
    """Stages to raise and to how many bits, one after the other: always the most noise taken away per byte.

    The order does not depend on how far one has to go, so a stricter limit never gives any stage fewer bits.
    """
    at = {stage.name: min(stage.noise) for stage in stages}
    order: list[tuple[str, int]] = []
    while True:
        worth = [
            (
                (stage.noise[at[stage.name]] - _noise(stage, bits)) / (stage.numbers * (bits - at[stage.name])),
                stage,
                bits,
            )
            for stage in stages
            for bits in (*stage.noise, EXACT)
            if bits > at[stage.name] != EXACT
        ]
        if not worth:
            return order
        _, stage, bits = max(worth, key=lambda one: (one[0], one[1].name, -one[2]))
        order.append((stage.name, bits))
        at[stage.name] = bits


def bits_within(stages: Sequence[StageNoise], most: float) -> dict[str, int]:
    """Bits of every stage, as few as keep the sum of noises within `most`."""
    bits = {stage.name: min(stage.noise) for stage in stages}
    by_name = {stage.name: stage for stage in stages}
    total = sum(_noise(stage, bits[stage.name]) for stage in stages)
    for name, raised in steps(stages):
        if total <= most:
            break
        total += _noise(by_name[name], raised) - _noise(by_name[name], bits[name])
        bits[name] = raised
    return bits


def _noise(stage: StageNoise, bits: int) -> float:
    return 0.0 if bits == EXACT else stage.noise[bits]
