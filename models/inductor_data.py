"""What an Inductor is trained on: every source of questions, without the held-out ones, and how a batch is drawn.

Labelled questions are few and decide what is right; weakly labelled public ones bring wording, written and generated
ones bring what public sets lack, and the street camera's own questions are what the bundled model is mostly asked.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tam_edge.models.inductor import TASKS
from tam_edge.models.inductor_phrases import Phrases, dressed, expand, generate, load_phrases, noise, pick
from tam_edge.models.inductor_public import read_public_questions, weak_task
from tam_edge.models.inductor_questions import (
    LabelledQuestion,
    fold_of,
    question_key,
    read_labelled,
    read_paraphrases,
    read_rephrased,
    read_wide,
    said_otherwise,
)
from tam_edge.models.inductor_rewording import reworded
from tam_edge.models.street.questions import questions
from tam_edge.models.street.world import make_scene

NO_TASK = 0
"""Stands for "none of the task types" where a task type 1..8 would stand."""

Groups = tuple[tuple[int, tuple[str, ...]], ...]
"""Texts that are drawn as a group, each group with its task type 1..8."""
Drawn = tuple[str, int, int | None]
"""A text, its task type (or NO_TASK) and another one that is nearly as good."""

_SECOND_LABEL_SHARE = 0.15  # of the target, where another label is nearly as good
_NOISE_SHARE = 0.3  # of the questions that are none; the rest are sentences
_WRITTEN_SHARE = 0.5  # of the labelled ones: there are twice as many public ones, and they are alike


@dataclass(frozen=True, slots=True)
class Mixture:
    """How often a training question comes from each source; shares of empty sources go to the generated ones."""

    labelled: float
    """Labelled by hand, not held out."""

    wide: float
    """Written for training only."""

    public: float
    """Public questions with weak labels."""

    street: float
    """The street camera's questions."""

    none: float
    """Texts that are no question about a video; their target is the even distribution."""

    rephrased: float = 0.0
    """Written for training only, in unusual order."""

    reworded: float = 0.0
    """Share of all drawn questions that are said in other words, by rule."""


@dataclass(frozen=True, slots=True)
class QuestionSets:
    """Everything a training run draws from."""

    labelled: tuple[tuple[LabelledQuestion, ...], ...]
    """Labelled questions outside the held-out folds, and each in other words: written, then public; no empty kinds."""

    held_out: tuple[LabelledQuestion, ...]
    """Labelled questions inside them: never trained on, in no source."""

    wide: tuple[tuple[LabelledQuestion, ...], ...]
    """Written questions that are only trained on, a group per task type."""

    rephrased: tuple[tuple[LabelledQuestion, ...], ...]
    """Written questions and templates in unusual order, only trained on, a group per task type."""

    public: Groups
    """Weakly labelled questions, a group per task type."""

    street: Groups
    """The street camera's questions, a group per family."""

    phrases: Phrases
    """Templates of the generated ones."""

    hidden: frozenset[tuple[str, ...]]
    """Keys of the held-out questions and of all paraphrases: whatever source brings one of them, it is dropped."""


def street_groups(seeds: Iterable[int]) -> Groups:
    """The questions of these street scenes, without repetitions, a group per family."""
    found: dict[tuple[int, str], dict[str, None]] = {}
    for seed in seeds:
        for question in questions(make_scene(seed)):
            found.setdefault((question.task, question.family), {})[question.text] = None
    return tuple((task, tuple(texts)) for (task, _), texts in sorted(found.items()))


def collect(queries: Path | None, street: Groups = (), *, held_out_folds: Collection[int]) -> QuestionSets:
    """Read every source and keep the held-out folds apart.

    Args:
        queries: folder with labelled and public questions; without it the project's own ones are all there is.
        street: the street camera's questions.
        held_out_folds: folds 0..4 of the labelled questions that are only measured on; all five, and none is trained
            on.
    """
    labelled = read_labelled(queries)
    held_out = tuple(one for one in labelled if fold_of(one.text) in held_out_folds)
    hidden = frozenset(question_key(text) for text in [one.text for one in held_out] + _paraphrases())
    seen = [one for one in labelled if question_key(one.text) not in hidden]
    seen += [one for one in said_otherwise(seen) if question_key(one.text) not in hidden]
    kinds = ([one for one in seen if one.source == "written"], [one for one in seen if one.source != "written"])
    return QuestionSets(
        labelled=tuple(tuple(kind) for kind in kinds if kind),
        held_out=held_out,
        wide=_by_task(read_wide(), hidden),
        rephrased=_by_task(read_rephrased(), hidden),
        public=_public_groups(queries, hidden) if queries is not None else (),
        street=tuple((task, kept) for task, texts in street if (kept := _without(texts, hidden))),
        phrases=load_phrases(),
        hidden=hidden,
    )


def draw(sets: QuestionSets, mixture: Mixture, rng: np.random.Generator, count: int) -> tuple[list[str], np.ndarray]:
    """A training batch: `count` texts and their targets, float32 [count, 8], each row a distribution."""
    texts: list[str] = []
    targets = np.empty((count, len(TASKS)), np.float32)
    while len(texts) < count:
        text, task, second = _draw_one(sets, mixture, rng)
        if mixture.reworded and task != NO_TASK and rng.random() < mixture.reworded:
            text = reworded(text, rng)
        if question_key(text) in sets.hidden:
            continue
        targets[len(texts)] = _target(task, second)
        texts.append(dressed(text, sets.phrases, rng))
    return texts, targets


def vocabulary_texts(sets: QuestionSets, seed: int, count: int = 20_000) -> list[str]:
    """What decides which word pieces are kept: every text of the sources, and `count` generated ones."""
    rng = np.random.default_rng([seed, 1])
    generated = [generate(sets.phrases, 1 + at % len(TASKS), rng) for at in range(count)]
    listed = [text for _, texts in (*sets.public, *sets.street) for text in texts]
    return [*listed, *(one.text for group in (*sets.wide, *sets.labelled) for one in group), *generated]


def none_texts(phrases: Phrases, part: str, gibberish: int = 60) -> list[str]:
    """Texts that ask nothing about a video: the sentences of `part` and some gibberish."""
    rng = np.random.default_rng(2)
    return [*phrases.none[part], *(noise(rng) for _ in range(gibberish))]


def _paraphrases() -> list[str]:
    return [one.text for one in read_paraphrases()]


def _without(texts: Iterable[str], hidden: Collection[tuple[str, ...]]) -> tuple[str, ...]:
    return tuple(text for text in texts if question_key(text) not in hidden)


def _by_task(
    questions_: Iterable[LabelledQuestion], hidden: Collection[tuple[str, ...]]
) -> tuple[tuple[LabelledQuestion, ...], ...]:
    kept = [one for one in questions_ if question_key(one.text) not in hidden]
    return tuple(tuple(one for one in kept if one.task == task) for task in range(1, len(TASKS) + 1))


def _public_groups(queries: Path, hidden: Collection[tuple[str, ...]]) -> Groups:
    found: dict[int, dict[str, None]] = {}
    for question in read_public_questions(queries):
        task = weak_task(question)
        if task is not None and question_key(question.text) not in hidden:
            found.setdefault(task, {})[question.text] = None
    return tuple((task, tuple(texts)) for task, texts in sorted(found.items()))


def _draw_one(sets: QuestionSets, mixture: Mixture, rng: np.random.Generator) -> Drawn:
    shares = (mixture.labelled, mixture.wide, mixture.public, mixture.street, mixture.none, mixture.rephrased)
    source = int(np.searchsorted(np.cumsum(shares), rng.random(), side="right"))
    if source == 0 and sets.labelled:
        kind = 0 if len(sets.labelled) == 1 or rng.random() < _WRITTEN_SHARE else 1
        return _one_of(sets.labelled[kind], rng)
    if source == 1:
        return _one_of(sets.wide[int(rng.integers(len(sets.wide)))], rng)
    if source in (2, 3) and (groups := (sets.public, sets.street)[source - 2]):
        # A type with few public questions would repeat itself; the street camera's families count the same.
        task, texts = _group(groups, rng, by_size=source == 2)
        return pick(texts, rng), task, None
    if source == 4:
        text = noise(rng) if rng.random() < _NOISE_SHARE else pick(sets.phrases.none["train"], rng)
        return text, NO_TASK, None
    if source == 5:
        text, task, second = _one_of(sets.rephrased[int(rng.integers(len(sets.rephrased)))], rng)
        return expand(text, sets.phrases.slots, rng), task, second
    task = int(rng.integers(1, len(TASKS) + 1))
    return generate(sets.phrases, task, rng), task, None


def _group(groups: Groups, rng: np.random.Generator, *, by_size: bool) -> tuple[int, tuple[str, ...]]:
    weights = np.sqrt([len(texts) if by_size else 1 for _, texts in groups])
    return groups[int(rng.choice(len(groups), p=weights / weights.sum()))]


def _one_of(group: Sequence[LabelledQuestion], rng: np.random.Generator) -> Drawn:
    one = group[int(rng.integers(len(group)))]
    return one.text, one.task, one.second


def _target(task: int, second: int | None) -> np.ndarray:
    if task == NO_TASK:
        return np.full(len(TASKS), 1 / len(TASKS), np.float32)
    row = np.zeros(len(TASKS), np.float32)
    row[task - 1] = 1.0
    if second is not None:
        row[task - 1], row[second - 1] = 1.0 - _SECOND_LABEL_SHARE, _SECOND_LABEL_SHARE
    return row
