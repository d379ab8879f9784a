"""Generated questions: templates with slots, spoken-style dressing, typing errors, answer options, and noise.

Questions typed at a camera look unlike those of the public sets: commands, fragments, no question mark, letters
swapped. Everything is drawn from the caller's random generator, so a seed gives the same questions again.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

TEMPLATES_FILE = Path(__file__).parent / "data" / "question_templates.json"

_ALTERNATIVES = re.compile(r"\[([^\[\]]*)\]")
_SLOT = re.compile(r"\{(\w+)\}")
_OPTION_SLOTS = {
    1: ("colour", "thing", "material", "wear"),
    2: ("doing",),
    3: ("feel", "pose", "emotion"),
    4: ("event", "does"),
    5: ("place",),
    6: ("topic",),
    7: ("do", "event"),
    8: ("quote", "carrier"),
}
"""Which slot fills the answer options of a multiple-choice question, per task type."""

_OPTION_STYLES = (
    ("A) ", "B) ", "C) ", "D) "),
    ("a: ", "b: ", "c: ", "d: "),
    ("(1) ", "(2) ", "(3) ", "(4) "),
    ("",) * 4,
)
_KEYS = ("qwertyuiop", "asdfghjkl", "zxcvbnm", "0123456789")


@dataclass(frozen=True, slots=True)
class Phrases:
    """The template file, read once."""

    slots: Mapping[str, tuple[str, ...]]
    """What may stand for `{name}`."""

    dress: Mapping[str, tuple[str, ...]]
    """`before`, `after` and `marks`: what people say around a question."""

    templates: Mapping[int, tuple[str, ...]]
    """Templates per task type 1..8; `[a|b]` is a choice, `{name}` a slot."""

    none: Mapping[str, tuple[str, ...]]
    """Texts that are no question about a video: `train`, and `held_out` to choose the confidence threshold on."""


def load_phrases(path: Path = TEMPLATES_FILE) -> Phrases:
    """Read the template file."""
    data = json.loads(path.read_text(encoding="utf-8"))

    def frozen(part: str) -> dict[str, tuple[str, ...]]:
        return {key: tuple(values) for key, values in data[part].items()}

    templates = {int(task): texts for task, texts in frozen("templates").items()}
    return Phrases(frozen("slots"), frozen("dress"), templates, frozen("none"))


def expand(template: str, slots: Mapping[str, Sequence[str]], rng: np.random.Generator) -> str:
    """One question from a template: every choice and slot drawn independently."""
    text = template
    while match := _ALTERNATIVES.search(text):
        text = text[: match.start()] + pick(match[1].split("|"), rng) + text[match.end() :]
    text = _SLOT.sub(lambda match: pick(slots[match[1]], rng), text)
    return " ".join(text.split())


def generate(phrases: Phrases, task: int, rng: np.random.Generator) -> str:
    """A plain generated question of task type 1..8, now and then with answer options."""
    question = expand(pick(phrases.templates[task], rng), phrases.slots, rng)
    return with_options(question, task, phrases, rng) if rng.random() < 0.06 else question


def with_options(question: str, task: int, phrases: Phrases, rng: np.random.Generator) -> str:
    """The question as multiple choice, options before or after it."""
    slot = pick(_OPTION_SLOTS[task], rng)
    style = _OPTION_STYLES[int(rng.integers(len(_OPTION_STYLES)))]
    values = [pick(phrases.slots[slot], rng) for _ in range(int(rng.integers(2, 5)))]
    separator = pick((" ", ", ", " / "), rng) if style[0] else pick((", ", " or "), rng)
    options = separator.join(label + value for label, value in zip(style, values, strict=False))
    return f"{options} - {question}" if rng.random() < 0.3 else f"{question}{pick(('? ', ': ', ' '), rng)}{options}"


def dressed(question: str, phrases: Phrases, rng: np.random.Generator) -> str:
    """The question as somebody might type or say it: greeting, afterthought, marks, capitals, slips."""
    text = question.rstrip(" ?.!") or question if rng.random() < 0.5 else question
    if rng.random() < 0.15:
        text = pick(phrases.dress["before"], rng) + text
    if rng.random() < 0.12:
        text = text + pick(phrases.dress["after"], rng)
    if text[-1:] not in "?.!" and rng.random() < 0.6:
        text += pick(phrases.dress["marks"], rng)
    if rng.random() < 0.15:
        text = text.replace("'", "")
    return misspelt(text, rng) if rng.random() < 0.2 else text


def misspelt(text: str, rng: np.random.Generator) -> str:
    """One or two slips of the fingers: a letter dropped, doubled, swapped with its neighbour or mistyped."""
    for _ in range(int(rng.integers(1, 3))):
        at = int(rng.integers(len(text)))
        if len(text) > 1 and text[at].isalpha():
            text = text[:at] + _slip(text[at : at + 2], rng) + text[at + 2 :]
    return text


def noise(rng: np.random.Generator) -> str:
    """Gibberish: random keys, random syllables or repeated characters."""
    kind = rng.random()
    length = int(rng.integers(1, 6))
    if kind < 0.4:
        row = _KEYS[int(rng.integers(len(_KEYS)))]
        return " ".join(_letters(row, int(rng.integers(2, 9)), rng) for _ in range(length))
    if kind < 0.8:
        pairs = [_letters("bcdfghjklmnprstvwz", 1, rng) + _letters("aeiou", 1, rng) for _ in range(3 * length)]
        return " ".join("".join(pairs[at : at + 3]) for at in range(0, len(pairs), 3))
    return _letters("xyz?!.#0178", 1, rng) * int(rng.integers(1, 12))


def pick(values: Sequence[str], rng: np.random.Generator) -> str:
    """One of `values`, evenly."""
    return values[int(rng.integers(len(values)))]


def _slip(two: str, rng: np.random.Generator) -> str:
    slips = (two[1:], two[0] + two, two[::-1], pick("abcdefghijklmnopqrstuvwxyz", rng) + two[1:])
    return pick(slips, rng)


def _letters(alphabet: str, count: int, rng: np.random.Generator) -> str:
    return "".join(pick(alphabet, rng) for _ in range(count))
