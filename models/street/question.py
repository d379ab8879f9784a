"""What a question is, and how people are named in one."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Question:
    """A question as a person would type it, its answer, its task type (1-8) and its family."""

    text: str
    answer: str
    task: int
    family: str


Asked = Iterator[tuple[str, dict[str, str], str]]  # family, what fills the phrase, answer


def name_person(colour: str, rng: random.Random) -> str:
    """One of the ways to point somebody out by the colour of the clothes."""
    return rng.choice(("the person in {}", "the person in {}", "the one in {}", "whoever wears {}")).format(colour)
