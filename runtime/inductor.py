"""The Inductor: a small text model that names a question's task type. It never sees the video."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TaskEstimate:
    """What kind of question this is."""

    question: str
    """The question, without surrounding white space."""
    task: str
    """Most probable task type; the first of equals."""
    confidence: float
    """Its probability, 0 to 1."""
    probabilities: Mapping[str, float]
    """Probability of every task type; they sum to 1."""
