"""Strategies: how patch features become visual tokens. One per file, found by name in the table below.

A strategy is made for a bundle, opens the engines it needs through the function it is given, and draws patch
features frame by frame: one that needs a frame only once never holds two.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from tam_edge.runtime.bundle import Bundle
from tam_edge.runtime.engines import Engine
from tam_edge.runtime.errors import UsageError
from tam_edge.runtime.plan import Plan
from tam_edge.runtime.schema import EngineSpec
from tam_edge.runtime.vision import PatchFeatures

OpenEngine = Callable[[str, tuple[EngineSpec, ...]], Engine]
"""Opens the first engine of a role that fits, given the role's manifest field; the caller keeps and closes it."""


@dataclass(frozen=True, slots=True, eq=False)
class VisualTokens:
    """What the language model gets to see."""

    embeddings: NDArray[np.float32]
    """[T, d] in the order they enter the prompt."""
    frame_tokens: tuple[int, ...]
    """Tokens each frame became, in order; with those that close the clip they sum to T."""
    grid: int | None
    """Tokens per side of one frame; None where the strategy has none."""
    expert: int | None
    """Projector expert; None where the strategy has none."""
    exact: bool
    """Whether T was known before the frames were seen."""
    closing_tokens: int = 0
    """Tokens that end the clip and belong to no frame."""


class Strategy(Protocol):
    """Makes visual tokens for one bundle."""

    def prepare(self, plan: Plan) -> None:
        """Open the engines this plan needs."""
        ...

    def project(self, features: Iterable[PatchFeatures], plan: Plan) -> VisualTokens:
        """Visual tokens of the frames in `features`, which are at most those of the plan."""
        ...


def make_strategy(name: str, bundle: Bundle, open_engine: OpenEngine) -> Strategy:
    """The strategy called `name`.

    Raises: UsageError if the bundle names a strategy that this version does not know.
    """
    from tam_edge.runtime.strategies.tam import Tam

    strategies: dict[str, Callable[[Bundle, OpenEngine], Strategy]] = {"tam": Tam}
    if name not in strategies:
        raise UsageError(f"strategy {name!r} is not in this version; it knows {', '.join(strategies)}")
    return strategies[name](bundle, open_engine)
