"""The questions whose task type a person decided, and what keeps those that are measured on out of training.

`written_questions.jsonl`, `wide_questions.jsonl` and `rephrased_questions.jsonl` were written for this project; a
folder may add labelled public ones. `said_otherwise.jsonl` says every labelled question in other words, five times, and
is trained on with it; `paraphrases.jsonl` does so for some, in another sitting, and is only ever measured on, as are
the questions of `fresh_questions.jsonl`, written after all the others.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

DATA = Path(__file__).parent / "data"
WRITTEN_FILE, WIDE_FILE, REPHRASED_FILE, SAID_OTHERWISE_FILE, PARAPHRASES_FILE, FRESH_FILE = (
    DATA / f"{name}.jsonl"
    for name in (
        "written_questions",
        "wide_questions",
        "rephrased_questions",
        "said_otherwise",
        "paraphrases",
        "fresh_questions",
    )
)
FOLDS = 5

_WORD = re.compile(r"\w+")
_IDLE_WORDS = frozenset({"a", "an", "the", "please", "pls", "plz", "hey", "hi", "ok", "so", "robot", "and"})


@dataclass(frozen=True, slots=True)
class LabelledQuestion:
    """A question whose task type a person decided."""

    text: str
    """The question."""

    task: int
    """Task type 1..8."""

    second: int | None
    """Another task type that is nearly as good."""

    source: str
    """`written` for the labelled set, `wide` for training only, or the public set it was sampled from."""


@dataclass(frozen=True, slots=True)
class Paraphrase:
    """A labelled question in somebody else's words."""

    original_sha256: str
    """SHA-256 of the question, which may belong to a public set and is not repeated here."""

    text: str
    """The paraphrase."""


def sha256_of(text: str) -> str:
    """A question's SHA-256, in hexadecimal: names it without repeating it."""
    return hashlib.sha256(text.encode()).hexdigest()


def fold_of(text: str) -> int:
    """Which of the five folds a question belongs to: its SHA-256 modulo 5, so it never moves."""
    return int(sha256_of(text), 16) % FOLDS


def question_key(text: str) -> tuple[str, ...]:
    """What near-duplicates share: the words, whatever their order, case and marks, without articles and greetings."""
    words = _WORD.findall(text.casefold().replace("'", ""))
    return tuple(sorted(word for word in words if word not in _IDLE_WORDS))


def read_labelled(queries: Path | None) -> list[LabelledQuestion]:
    """`labelled.jsonl` in the folder where it is there, else the written questions that ship with the project."""
    path = queries / "labelled.jsonl" if queries is not None else WRITTEN_FILE
    return [_labelled(record) for record in _records(path if path.is_file() else WRITTEN_FILE)]


def read_wide() -> list[LabelledQuestion]:
    """Written questions that are only trained on."""
    return [_labelled(record | {"source": "wide"}) for record in _records(WIDE_FILE)]


def read_rephrased() -> list[LabelledQuestion]:
    """Written questions, and templates of some, that put things the other way round; only trained on."""
    return [_labelled(record | {"source": "rephrased"}) for record in _records(REPHRASED_FILE)]


def read_fresh() -> list[tuple[str, int, str | None]]:
    """Questions that were labelled before any model was asked, with task type and, for some, a paraphrase."""
    return [(record["question"], record["task"], record.get("paraphrase")) for record in _records(FRESH_FILE)]


def said_otherwise(questions: Iterable[LabelledQuestion]) -> list[LabelledQuestion]:
    """These labelled questions in other words, with their labels; only trained on, and never without the question."""
    words = {record["original_sha256"]: record["said_otherwise"] for record in _records(SAID_OTHERWISE_FILE)}
    return [replace(one, text=text) for one in questions for text in words.get(sha256_of(one.text), ())]


def read_paraphrases() -> list[Paraphrase]:
    """Paraphrases of labelled questions, public ones included."""
    return [Paraphrase(record["original_sha256"], record["paraphrase"]) for record in _records(PARAPHRASES_FILE)]


def _records(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def _labelled(record: dict[str, Any]) -> LabelledQuestion:
    return LabelledQuestion(record["question"], record["task"], record["second"], record["source"])
