"""What the original bundle makes of every sample, stage by stage: computed once, compared with many times."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tam_edge.quant.chain import Chain, Floats, divergence, relative_error
from tam_edge.quant.samples import Sample
from tam_edge.runtime.vision import PatchFeatures

FEATURE_BYTES = 512 * 1024**2
"""Most patch features held at once; samples beyond are left out."""


@dataclass(frozen=True, slots=True, eq=False)
class Reference:
    """One sample, answered by the original."""

    sample: Sample
    """The question."""
    features: PatchFeatures
    """[N, S * S, D]"""
    tokens: Floats
    """[T, d]"""
    ids: list[int]
    """Greedy answer."""
    logits: Floats
    """[n, V] before each of its tokens."""


def references(chain: Chain, found: Sequence[Sample], progress: Callable[[str], None]) -> list[Reference]:
    """Answer the samples; those whose patch features would not fit into memory are left out."""
    made: list[Reference] = []
    held = 0
    for number, sample in enumerate(found, start=1):
        progress(f"asking the original: {number} of {len(found)}")
        features = chain.features(sample)
        held += features.values.nbytes
        if made and held > FEATURE_BYTES:
            break
        tokens = chain.tokens(features, sample)
        chain.enter(tokens, sample)
        ids, logits = chain.answer()
        made.append(Reference(sample, features, tokens, ids, logits))
    return made


def stage_errors(chain: Chain, made: Sequence[Reference]) -> dict[str, Any]:
    """What each stage of `chain` does to the original's own input, and all of them together to the next token."""
    vision, projected = [], []
    alone, together = _Divergence(), _Divergence()
    for one in made:
        features = chain.features(one.sample)
        vision.append(relative_error(features.values, one.features.values))
        projected.append(relative_error(chain.tokens(one.features, one.sample), one.tokens))
        alone.add(chain, one, one.tokens)
        together.add(chain, one, chain.tokens(features, one.sample))
    return {
        "vision": _mean(vision),
        "strategy": _mean(projected),
        "language": alone.result(),
        "all": together.result(),
        "questions": len(made),
    }


def divergence_of(chain: Chain, made: Sequence[Reference], changed: str) -> float:
    """Mean divergence of the next token's probabilities with `changed` (vision, projectors, language) as in `chain`."""
    total = _Divergence()
    for one in made:
        features = chain.features(one.sample) if changed == "vision" else one.features
        total.add(chain, one, one.tokens if changed == "language" else chain.tokens(features, one.sample))
    return float(total.result()["divergence_nats"])


class _Divergence:
    def __init__(self) -> None:
        self._nats: list[float] = []
        self._agree = self._tokens = 0

    def add(self, chain: Chain, one: Reference, tokens: Floats) -> None:
        chain.enter(tokens, one.sample)
        nats, agree = divergence(chain.logits(one.ids), one.logits)
        self._nats.append(nats)
        self._agree += agree
        self._tokens += len(one.ids)

    def result(self) -> dict[str, float]:
        return {"divergence_nats": _mean(self._nats), "same_token_share": self._agree / max(1, self._tokens)}


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else 0.0
