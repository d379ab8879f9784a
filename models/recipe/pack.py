"""Packs several questions about one view behind one visual prefix: each sees the prefix and itself, never another.

The ids are those the runtime's own prompt code makes, answer and stop token appended.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from tokenizers import Tokenizer
from torch import Tensor

from tam_edge.models.recipe.nano import PROMPT, STOP
from tam_edge.models.recipe.views import View, title_of
from tam_edge.models.street.question import Question
from tam_edge.runtime.prompt import prompt_texts
from tam_edge.runtime.tokenizer import encode_plain, encode_template


@dataclass(frozen=True, slots=True)
class Packed:
    """One sequence: prefix ids, a hole of visual tokens, then every question's ids with its answer."""

    before: Tensor  # [b] int64
    visual_tokens: int
    text: Tensor  # [t] int64, questions and answers
    positions: Tensor  # [b + visual + t] int64
    mask: Tensor  # [L, L] bool, True where a row may look
    targets: Tensor  # [t] int64, the next token where it is part of an answer, else -100
    starts: tuple[int, ...]  # per question, where its own words start in `text`


def answering_rows(packed: Packed) -> Tensor:
    """Rows [Q] of the sequence from which the first token of each answer is read."""
    answers = packed.targets >= 0
    first = answers.clone()
    first[1:] &= ~answers[:-1]
    return torch.nonzero(first).flatten() + len(packed.before) + packed.visual_tokens


def row_of_character(tokenizer: Tokenizer, packed: Packed, question: Question, index: int, end: int) -> int:
    """The row of the sequence that holds the character before `end` of the text of question number `index`."""
    ends = [stop for _, stop in tokenizer.encode(question.text, add_special_tokens=False).offsets]
    piece = next(place for place, stop in enumerate(ends) if stop >= end)
    return len(packed.before) + packed.visual_tokens + packed.starts[index] + piece


def question_ids(
    tokenizer: Tokenizer, view: View, question: Question
) -> tuple[list[int], list[int], list[int], list[int]]:
    """Ids before the visual tokens, after them up to the question, from there to the answer, and of the answer."""
    frames = len(view.times)
    interval = (view.times[-1] - view.times[0]) / (frames - 1) if frames > 1 else 0.0
    before, head, tail = prompt_texts(
        PROMPT,
        task_title=title_of(question),
        phrase="",
        frames=frames,
        duration_seconds=view.duration_seconds,
        interval_seconds=interval,
    )
    title = list(encode_template(tokenizer, head))
    asked = [*encode_plain(tokenizer, question.text), *encode_template(tokenizer, tail)]
    answer = [*encode_plain(tokenizer, f" {question.answer}"), tokenizer.token_to_id(STOP)]
    return list(encode_template(tokenizer, before)), title, asked, answer


def pack(tokenizer: Tokenizer, view: View, asked: list[Question]) -> Packed:
    """Pack `asked` behind the view's visual tokens."""
    visual = len(view.times) * view.grid**2
    before: list[int] = []
    text: list[int] = []
    targets: list[int] = []
    blocks: list[int] = []
    starts: list[int] = []
    for question in asked:
        before, title, own, answer = question_ids(tokenizer, view, question)
        starts.append(len(text) + len(title))
        after = title + own
        text += after + answer
        targets += [-100] * (len(after) - 1) + answer + [-100]
        blocks.append(len(after) + len(answer))
    prefix = len(before) + visual
    total = prefix + len(text)
    mask = torch.zeros(total, total, dtype=torch.bool)
    mask[:, :prefix] = True
    mask[:prefix, :prefix].tril_()
    positions = torch.arange(total)
    start = prefix
    for length in blocks:
        mask[start : start + length, start : start + length] = torch.ones(length, length, dtype=torch.bool).tril()
        positions[start : start + length] = torch.arange(prefix, prefix + length)
        start += length
    return Packed(
        torch.tensor(before), visual, torch.tensor(text), positions, mask, torch.tensor(targets), tuple(starts)
    )
