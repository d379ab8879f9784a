"""How good an Inductor is: accuracy, confusion, calibration, and the confidence below which not to trust it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tam_edge.models.inductor import top_tasks

Array = NDArray[np.float64]

BUCKETS = 10
"""Equal confidence buckets of the calibration error."""
PAPER_BUCKETS = 5
"""The paper's: 0-0.2 .. 0.8-1 (Table 4a)."""

_TEMPERATURES = np.exp(np.linspace(np.log(0.25), np.log(8.0), 241))
_THRESHOLDS = np.round(np.arange(0.2, 0.96, 0.01), 2)
_KEPT = 0.97  # a right question sent to the balanced plan costs more than a greeting answered with some other plan


@dataclass(frozen=True, slots=True)
class Bucket:
    """The questions whose confidence falls between two bounds."""

    low: float
    """Lower bound."""

    high: float
    """Upper bound; the last bucket includes it."""

    questions: int
    """How many there are."""

    confidence: float
    """Their mean confidence; the middle of the bucket where there are none."""

    accuracy: float
    """Share of them whose first label was found; 0 where there are none."""


def probabilities(logits: np.ndarray, temperature: float | Array = 1.0) -> Array:
    """Softmax of logits / temperature, [B, tasks]; the temperature may be one per row, [B, 1]."""
    scaled = np.asarray(logits, np.float64) / temperature
    powers = np.exp(scaled - scaled.max(axis=-1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=-1, keepdims=True))


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """The temperature with the smallest cross-entropy on held-out questions; labels int [B], 0-based."""
    rows = np.arange(len(labels))
    losses = [-np.log(probabilities(logits, one)[rows, labels] + 1e-12).mean() for one in _TEMPERATURES]
    return float(_TEMPERATURES[int(np.argmin(losses))])


def confidence_buckets(probabilities_: np.ndarray, labels: np.ndarray, count: int = BUCKETS) -> tuple[Bucket, ...]:
    """`count` equal buckets of confidence with what is in each."""
    confidence, right = probabilities_.max(axis=-1), top_tasks(probabilities_) == labels
    of = np.minimum((confidence * count).astype(int), count - 1)
    buckets = []
    for one in range(count):
        inside = of == one
        mean = float(confidence[inside].mean()) if inside.any() else (one + 0.5) / count
        share = float(right[inside].mean()) if inside.any() else 0.0
        buckets.append(Bucket(one / count, (one + 1) / count, int(inside.sum()), mean, share))
    return tuple(buckets)


def calibration_error(probabilities_: np.ndarray, labels: np.ndarray) -> float:
    """Expected calibration error (paper Eq. 5), ten equal buckets, with the mean confidence of each."""
    buckets = confidence_buckets(probabilities_, labels)
    gaps = [one.questions * abs(one.accuracy - one.confidence) for one in buckets]
    return float(sum(gaps) / len(labels))


def paper_calibration_error(probabilities_: np.ndarray, labels: np.ndarray) -> float:
    """The same as the paper counts: five buckets, with the middle of each as its confidence, whatever is inside.

    That alone reproduces the paper's 0.226 from its table; a perfect Inductor that is always sure gets 0.1.
    """
    buckets = confidence_buckets(probabilities_, labels, PAPER_BUCKETS)
    gaps = [one.questions * abs(one.accuracy - (one.low + one.high) / 2) for one in buckets]
    return float(sum(gaps) / len(labels))


def choose_threshold(confident_right: np.ndarray, confident_none: np.ndarray) -> float:
    """The confidence that turns away most texts that are none of the task types and keeps 97% of the right answers.

    Args:
        confident_right: confidence on held-out questions that were classified rightly.
        confident_none: confidence on texts that are no question about a video.
    """
    kept = [one for one in _THRESHOLDS if (confident_right >= one).mean() >= _KEPT]
    turned_away = [float((confident_none < one).mean()) for one in kept]
    return float(kept[int(np.argmax(turned_away))]) if kept else float(_THRESHOLDS[0])


def confusion(labels: np.ndarray, predicted: np.ndarray, tasks: int) -> list[list[int]]:
    """Counts [true task][predicted task]."""
    counts = np.zeros((tasks, tasks), int)
    np.add.at(counts, (labels, predicted), 1)
    return [[int(count) for count in row] for row in counts]


def lenient_accuracy(predicted: np.ndarray, labels: np.ndarray, seconds: Sequence[int | None]) -> float:
    """Share of questions whose label or second label was found; labels and seconds are 0-based."""
    hits = [one in (label, second) for one, label, second in zip(predicted, labels, seconds, strict=True)]
    return float(np.mean(hits))
