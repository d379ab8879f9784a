"""History: the earlier questions and answers of a conversation, as far as they may stand before a question.

They come behind the visual tokens, so these stay in the language model; the oldest are left out where room is short.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from tam_edge.runtime.errors import QuestionError
from tam_edge.runtime.inductor import check_question
from tam_edge.runtime.manifest import PromptTexts
from tam_edge.runtime.plan import Plan, Rejection
from tam_edge.runtime.prompt import turn_tokens

if TYPE_CHECKING:
    from tokenizers import Tokenizer


class Turn(NamedTuple):
    """An earlier question and what was answered."""

    question: str
    """As it was asked."""
    answer: str
    """As it was given; may be empty."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A question and what of its history stands before it."""

    question: str
    """The question."""
    turns: tuple[Turn, ...] = ()
    """Earlier turns, oldest first."""
    left_out: tuple[Rejection, ...] = ()
    """Which turns were left out, and why."""


def check_history(history: Sequence[tuple[str, str]]) -> tuple[Turn, ...]:
    """The turns, questions without surrounding white space.

    Raises:
        QuestionError: a turn is no pair of texts, or its question is none.
    """
    turns = list[Turn]()
    for number, turn in enumerate(history, start=1):
        if isinstance(turn, str) or len(turn) != 2 or not all(isinstance(text, str) for text in turn):
            raise QuestionError(f"history, turn {number}: give a question and its answer, both as text")
        question, answer = turn
        try:
            answer.encode()
            turns.append(Turn(check_question(question), answer))
        except (QuestionError, UnicodeEncodeError) as error:
            raise QuestionError(f"history, turn {number}: {error}") from error
    return tuple(turns)


def history_tokens(
    turns: Sequence[Turn], texts: PromptTexts, plan: Plan, tokenizer: Tokenizer, room_tokens: int
) -> int:
    """Most tokens that `fit_history` takes; unlike what it does take, never more for fewer visual tokens of a plan."""
    if texts.follow_up is None:
        return 0
    return max(0, min(room_tokens, sum(turn_tokens(texts, plan, tokenizer, turn) for turn in turns)))


def fit_history(
    question: str, turns: Sequence[Turn], texts: PromptTexts, plan: Plan, tokenizer: Tokenizer, room_tokens: int
) -> Asked:
    """Take the newest `turns` that fit into `room_tokens`; a bundle without `follow_up` text gets none."""
    if not turns:
        return Asked(question)
    if texts.follow_up is None:
        reason = "this bundle's language model was not trained on them: each question is answered by itself"
        return Asked(question, left_out=(Rejection("earlier questions", reason),))
    room, kept = room_tokens, 0
    for turn in reversed(turns):
        room -= turn_tokens(texts, plan, tokenizer, turn)
        if room < 0:
            break
        kept += 1
    left = len(turns) - kept
    reason = f"{max(0, room_tokens)} tokens of text are left beside the question: the oldest are dropped first"
    rejections = (Rejection(f"{left} of {len(turns)} earlier questions", reason),) if left else ()
    return Asked(question, tuple(turns[left:]), rejections)
