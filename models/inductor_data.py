"""The Inductor's training questions: where each comes from, which are held out, and how a batch is drawn.

Labelled questions are few and decide what is right; weakly labelled public ones bring wording, generated ones bring
what public sets lack, and the street camera's own questions are what the bundled model is mostly asked.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tam_edge.models.inductor import TASKS
from tam_edge.models.inductor_phrases import Phrases, dressed, generate, load_phrases, noise, pick
from tam_edge.models.inductor_public import read_public_questions, weak_task
from tam_edge.models.street.questions import questions
from tam_edge.models.street.world import make_scene

WRITTEN_FILE = Path(__file__).parent / "data" / "written_questions.jsonl"
FOLDS = 5
NO_TASK = 0
"""Stands for "none of the task types" where a task type 1..8 would stand."""

Groups = tuple[tuple[int, tuple[str, ...]], ...]
"""Texts that are drawn equally often as a group, each group with its task type 1..8."""

_SECOND_LABEL_SHARE = 0.15  # of the target, where another label is nearly as good
_NOISE_SHARE = 0.4  # of the questions that are none; the rest are sentences


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
    """`written` for this project, or the public set it was sampled from."""


@dataclass(frozen=True, slots=True)
class Mixture:
    """How often a training question comes from each source; shares of empty sources go to the generated ones."""

    labelled: float = 0.25
    """Labelled by hand, not held out."""

    public: float = 0.2
    """Public questions with weak labels."""

    street: float = 0.2
    """The street camera's questions."""

    none: float = 0.06
    """Texts that are no question about a video; their target is the even distribution."""


@dataclass(frozen=True, slots=True)
class QuestionSets:
    """Everything a training run draws from."""

    labelled: tuple[LabelledQuestion, ...]
    """Labelled questions outside the held-out fold."""

    held_out: tuple[LabelledQuestion, ...]
    """Labelled questions inside it: never trained on, in no source."""

    public: Groups
    """Weakly labelled questions, a group per task type."""

    street: Groups
    """The street camera's questions, a group per family."""

    phrases: Phrases
    """Templates of the generated ones."""

    hidden: frozenset[str]
    """The held-out questions without case and marks: whatever source brings one again, it is dropped."""


def fold_of(text: str) -> int:
    """Which of the five folds a question belongs to: its SHA-256 modulo 5, so it never moves."""
    return int(hashlib.sha256(text.encode()).hexdigest(), 16) % FOLDS


def read_labelled(queries: Path | None) -> list[LabelledQuestion]:
    """`labelled.jsonl` in the folder where it is there, else the written questions that ship with the project."""
    path = queries / "labelled.jsonl" if queries is not None else WRITTEN_FILE
    lines = (path if path.is_file() else WRITTEN_FILE).read_text(encoding="utf-8").splitlines()
    records = [json.loads(line) for line in lines if line.strip()]
    return [LabelledQuestion(one["question"], one["task"], one["second"], one["source"]) for one in records]


def street_groups(seeds: Iterable[int]) -> Groups:
    """The questions of these street scenes, without repetitions, a group per family."""
    found: dict[tuple[int, str], dict[str, None]] = {}
    for seed in seeds:
        for question in questions(make_scene(seed)):
            found.setdefault((question.task, question.family), {})[question.text] = None
    return tuple((task, tuple(texts)) for (task, _), texts in sorted(found.items()))


def collect(queries: Path | None, street: Groups = (), *, held_out_fold: int = 0) -> QuestionSets:
    """Read every source and keep the held-out fold apart.

    Args:
        queries: folder with labelled and public questions; without it the project's own ones are all there is.
        street: the street camera's questions.
        held_out_fold: fold 0..4 of the labelled questions that is only measured on.
    """
    labelled = read_labelled(queries)
    held_out = tuple(one for one in labelled if fold_of(one.text) == held_out_fold)
    hidden = frozenset(_folded(one.text) for one in held_out)
    return QuestionSets(
        labelled=tuple(one for one in labelled if _folded(one.text) not in hidden),
        held_out=held_out,
        public=_public_groups(queries, hidden) if queries is not None else (),
        street=street,
        phrases=load_phrases(),
        hidden=hidden,
    )


def draw(sets: QuestionSets, mixture: Mixture, rng: np.random.Generator, count: int) -> tuple[list[str], np.ndarray]:
    """A training batch: `count` texts and their targets, float32 [count, 8], each row a distribution."""
    texts: list[str] = []
    targets = np.empty((count, len(TASKS)), np.float32)
    while len(texts) < count:
        text, task, second = _draw_one(sets, mixture, rng)
        if _folded(text) in sets.hidden:
            continue
        targets[len(texts)] = _target(task, second)
        texts.append(dressed(text, sets.phrases, rng))
    return texts, targets


def tokenizer_texts(sets: QuestionSets, seed: int, count: int = 20_000) -> list[str]:
    """What the tokenizer is learned from: `count` drawn questions, as plain as they were written."""
    rng = np.random.default_rng([seed, 1])
    return [_draw_one(sets, Mixture(none=0.01), rng)[0] for _ in range(count)]


def none_texts(phrases: Phrases, part: str, gibberish: int = 60) -> list[str]:
    """Texts that ask nothing about a video: the sentences of `part` and some gibberish."""
    rng = np.random.default_rng(2)
    return [*phrases.none[part], *(noise(rng) for _ in range(gibberish))]


def _public_groups(queries: Path, hidden: frozenset[str]) -> Groups:
    found: dict[int, dict[str, None]] = {}
    for question in read_public_questions(queries):
        task = weak_task(question)
        if task is not None and _folded(question.text) not in hidden:
            found.setdefault(task, {})[question.text] = None
    return tuple((task, tuple(texts)) for task, texts in sorted(found.items()))


def _draw_one(sets: QuestionSets, mixture: Mixture, rng: np.random.Generator) -> tuple[str, int, int | None]:
    shares = (mixture.labelled, mixture.public, mixture.street, mixture.none)
    source = int(np.searchsorted(np.cumsum(shares), rng.random(), side="right"))
    if source == 0 and sets.labelled:
        one = sets.labelled[int(rng.integers(len(sets.labelled)))]
        return one.text, one.task, one.second
    if source in (1, 2) and (groups := (sets.public, sets.street)[source - 1]):
        task, texts = groups[int(rng.integers(len(groups)))]
        return pick(texts, rng), task, None
    if source == 3:
        text = noise(rng) if rng.random() < _NOISE_SHARE else pick(sets.phrases.none["train"], rng)
        return text, NO_TASK, None
    task = int(rng.integers(1, len(TASKS) + 1))
    return generate(sets.phrases, task, rng), task, None


def _target(task: int, second: int | None) -> np.ndarray:
    if task == NO_TASK:
        return np.full(len(TASKS), 1 / len(TASKS), np.float32)
    row = np.zeros(len(TASKS), np.float32)
    row[task - 1] = 1.0
    if second is not None:
        row[task - 1], row[second - 1] = 1.0 - _SECOND_LABEL_SHARE, _SECOND_LABEL_SHARE
    return row


def _folded(text: str) -> str:
    return "".join(letter for letter in text.casefold() if letter.isalnum() or letter == " ").strip()
