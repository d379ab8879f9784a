"""The questions an extension learns from: the user's own of the new task type, and the project's of the old ones."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tam_edge.models.inductor import TASKS
from tam_edge.models.inductor_data import none_texts, street_groups
from tam_edge.models.inductor_phrases import generate, load_phrases
from tam_edge.models.inductor_questions import (
    LabelledQuestion,
    question_key,
    read_labelled,
    read_wide,
    sha256_of,
)
from tam_edge.runtime.errors import QuestionError, UsageError
from tam_edge.runtime.inductor import check_question

FEWEST, MOST = 40, 5000
"""Distinct questions of the new type: fewer teach nothing, more need the whole training."""
TEST_SHARE = 5
"""Where no test questions are given, one in this many is kept from training."""

_GENERATED_PER_TASK, _STREET_SCENES = 150, 150


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """Questions of the old task types."""

    train: tuple[str, ...]
    """Texts that are not of the new type; gibberish among them."""

    test: tuple[LabelledQuestion, ...]
    """Written questions to measure on, none of them or their like in `train`."""


def read_questions(path: Path, option: str) -> tuple[str, ...]:
    """The distinct questions of a file with one JSON object a line, `{"question": "..."}`.

    Raises:
        UsageError: names the option and the line that cannot be used.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no UTF-8 text"
        raise UsageError(f"{option} {path} cannot be read: {reason}") from error
    found: dict[tuple[str, ...], str] = {}
    for number, line in enumerate(lines, start=1):
        if line.strip():
            text = _question(line, f"{option} {path}, line {number}")
            found.setdefault(question_key(text), text)
    return tuple(found.values())


def split(questions: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Questions to train on and to measure on, by their SHA-256."""
    test = tuple(text for text in questions if int(sha256_of(text), 16) % TEST_SHARE == 0)
    return tuple(text for text in questions if text not in test), test


def check_counts(train: Sequence[str], test: Sequence[str]) -> None:
    """Refuse what cannot teach or measure anything.

    Raises:
        UsageError: too few or too many questions, or a test question that is also trained on.
    """
    if not FEWEST <= len(train) <= MOST:
        raise UsageError(f"{len(train)} distinct questions of the new type: give {FEWEST} to {MOST:,}")
    if not test:
        raise UsageError("there are no questions to measure on: add --test FILE")
    trained = {question_key(text) for text in train}
    if (again := next((text for text in test if question_key(text) in trained), None)) is not None:
        raise UsageError(f"the test question {again[:60]!r} is also trained on: take it out of one file")


def rehearsal(tasks: Sequence[str]) -> Rehearsal:
    """The project's own questions of the task types the Inductor knows."""
    phrases, rng = load_phrases(), np.random.default_rng(0)
    known = [number for number, name in enumerate(TASKS, start=1) if name in tasks]
    test = tuple(one for one in read_labelled(None) if one.task in known)
    measured = {question_key(one.text) for one in test}
    generated = [generate(phrases, task, rng) for task in known for _ in range(_GENERATED_PER_TASK)]
    street = [text for _, texts in street_groups(range(_STREET_SCENES)) for text in texts]
    wide = [one.text for one in read_wide() if one.task in known]
    texts = [*wide, *generated, *street, *none_texts(phrases, "train")]
    return Rehearsal(tuple(text for text in texts if question_key(text) not in measured), test)


def _question(line: str, where: str) -> str:
    try:
        record = json.loads(line)
    except ValueError as error:
        raise UsageError(f'{where} is no JSON: write {{"question": "..."}}') from error
    text = record.get("question") if isinstance(record, dict) else None
    if not isinstance(text, str):
        raise UsageError(f'{where} has no question: write {{"question": "..."}}')
    try:
        return check_question(text)
    except QuestionError as error:
        raise UsageError(f"{where}: {error}") from error
