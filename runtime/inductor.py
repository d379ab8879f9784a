"""The Inductor: a small text model that names a question's task type. It never sees the video (paper, section 3.3)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from tam_edge.runtime.errors import EngineError, QuestionError
from tam_edge.runtime.manifest import InductorSpec
from tam_edge.runtime.tokenizer import encode_plain

if TYPE_CHECKING:
    from tokenizers import Tokenizer

QUESTION_CHARACTERS = 4000
"""Longest question, in characters."""

BATCH_QUESTIONS = 32
"""Most questions that go through the graph at once; bounds its memory."""


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
    unread_tokens: int = 0
    """Tokens of the question's middle that were left out because it is longer than the Inductor reads."""


class Graph(Protocol):
    """What the Inductor needs of an engine."""

    def run(self, inputs: Mapping[str, NDArray[np.generic]]) -> list[NDArray[np.float32]]:
        """Run the graph once; inputs by name, outputs in the graph's order."""
        ...


def check_question(question: str) -> str:
    """The question without surrounding white space.

    Raises:
        QuestionError: empty, longer than 4,000 characters, or not valid text.
    """
    text = question.strip()
    if not text:
        raise QuestionError("the question is empty: ask something")
    if len(text) > QUESTION_CHARACTERS:
        raise QuestionError(f"the question has {len(text):,} characters: shorten it to {QUESTION_CHARACTERS:,}")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise QuestionError(
            f"the question is not valid text at character {error.start + 1}: write it as UTF-8"
        ) from error
    return text


class Inductor:
    """Classifies questions with a graph and a tokenizer that the caller has opened and closes."""

    def __init__(self, spec: InductorSpec, graph: Graph, tokenizer: Tokenizer) -> None:
        self._spec = spec
        self._graph = graph
        self._tokenizer = tokenizer

    def classify(self, questions: Sequence[str]) -> list[TaskEstimate]:
        """Estimate the task type of every question, in order.

        Raises:
            QuestionError: a question is empty, too long, or holds nothing the Inductor can read.
            EngineError: the graph fails or its output is not one finite number per task.
        """
        texts = [check_question(question) for question in questions]
        encoded = [encode_plain(self._tokenizer, text, surround=True) for text in texts]
        around = self._tokenizer.num_special_tokens_to_add(False)  # start and end tokens are there for any text
        for text, ids in zip(texts, encoded, strict=True):
            if len(ids) <= around:
                raise QuestionError(f"the question {text[:20]!r} holds no word the Inductor can read")
        kept = [_without_middle(ids, self._spec.max_tokens) for ids in encoded]
        estimates: dict[int, TaskEstimate] = {}
        for indices in _batches(kept):
            probabilities = self._probabilities([kept[index] for index in indices])
            for index, row in zip(indices, probabilities, strict=True):
                estimates[index] = self._estimate(texts[index], row, len(encoded[index]) - len(kept[index]))
        return [estimates[index] for index in range(len(texts))]

    def _probabilities(self, batch: list[tuple[int, ...]]) -> NDArray[np.float64]:
        ids = np.array(batch, dtype=np.int64)  # [B, L]
        logits = self._graph.run({"input_ids": ids, "attention_mask": np.ones_like(ids)})[0].astype(np.float64)
        expected = (len(batch), len(self._spec.tasks))
        if logits.shape != expected or not np.isfinite(logits).all():
            raise EngineError(f"the Inductor gave {logits.shape} numbers, not finite {expected}: make the bundle again")
        scaled = logits / self._spec.temperature
        weights = np.exp(scaled - scaled.max(axis=1, keepdims=True))
        return np.asarray(weights / weights.sum(axis=1, keepdims=True))

    def _estimate(self, text: str, probabilities: NDArray[np.float64], unread: int) -> TaskEstimate:
        best = int(probabilities.argmax())
        named = dict(zip(self._spec.tasks, probabilities.tolist(), strict=True))
        return TaskEstimate(text, self._spec.tasks[best], float(probabilities[best]), named, unread)


def _without_middle(ids: tuple[int, ...], most: int) -> tuple[int, ...]:
    """Keep head and tail: what is asked stands at either end, and start and end tokens stay where they belong."""
    tail = most // 2
    return ids if len(ids) <= most else ids[: most - tail] + ids[-tail:]


def _batches(encoded: Sequence[tuple[int, ...]]) -> Iterator[list[int]]:
    """Indices of questions of equal length: without padding an answer cannot depend on what else was asked."""
    by_length = sorted(range(len(encoded)), key=lambda index: len(encoded[index]))
    for _, group in groupby(by_length, key=lambda index: len(encoded[index])):
        indices = list(group)
        for start in range(0, len(indices), BATCH_QUESTIONS):
            yield indices[start : start + BATCH_QUESTIONS]
