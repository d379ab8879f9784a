"""When an answer is right: the same words, whatever their case, articles, punctuation or way to write a number."""

from __future__ import annotations

import re

NUMBER_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_DIGITS = {word: str(number) for number, word in enumerate(NUMBER_WORDS)}
_ARTICLES = frozenset({"a", "an", "the"})


def normalise(text: str) -> str:
    """The form two answers are compared in."""
    words = re.findall(r"[^\W_]+", text.casefold())
    return " ".join(_DIGITS.get(word, word) for word in words if word not in _ARTICLES)


def score(prediction: str, answer: str) -> bool:
    """Exact match of the normalised forms."""
    return normalise(prediction) == normalise(answer)
