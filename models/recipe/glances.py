"""Which patches the words of a question name, and the lesson that one head looks there.

"the person in red" should look at patches that show somebody in red, in whatever frame; a word that nothing shows
looks at the very first token instead, so that absence is as plain as presence. Where an answer spells what is written,
each of its characters is looked at when its turn comes.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

from tam_edge.models.language import LanguageModel, rotary_angles, rotate
from tam_edge.models.projector import pool
from tam_edge.models.recipe.pack import Packed, answering_rows, row_of_character
from tam_edge.models.recipe.sightings import PEOPLE, SHOWN
from tam_edge.models.recipe.symbols import view_labels
from tam_edge.models.recipe.views import View
from tam_edge.models.street.doubts import CANNOT_TELL
from tam_edge.models.street.labels import CHOICES, GROUP_INDEX
from tam_edge.models.street.question import Question

GLANCING_BLOCKS, GLANCING_HEAD = (2, 3), 0  # another head of the same blocks looks up events (`occasions.py`)
KIND_OF_WORD = {
    **{word: word for word in ("car", "dog", "cyclist", "sign", "visitor")},
    **dict.fromkeys(("camera", "face", "mouth"), "visitor"),
    "animal": "dog",
    "vehicle": "car",
    # What keeps a car from driving is asked for without its name.
    **dict.fromkeys(("obstacle", "driver", "stop", "moving", "still", "go", "safe", "safely", "danger"), "obstacle"),
}
_READING = 8  # task type whose answers are spelled
CODE_WORDS = ("code", "plate", "letter", "digit")
TEXT_WORDS = ("word", "number", "digits", "text", "everything", "whole", "say")


@dataclass(frozen=True, slots=True)
class Named:
    """A word of a question that names something to be seen."""

    end: int
    """Index of the character behind the word."""
    group: str
    """Group of labels, as in `street.labels.GROUPS`."""
    choice: str
    """The label; empty: any."""
    kinds: tuple[str, ...] = ()
    """Kinds of things it may be a label of; empty: any."""


def named_words(text: str) -> list[Named]:
    """The words of a question that patches can show."""
    words = list(re.finditer("[a-z]+", text.lower()))
    named = []
    for index, match in enumerate(words):
        word, after = match.group(), words[index + 1].group() if index + 1 < len(words) else ""
        if word in CHOICES["colour"]:
            named.append(Named(match.end(), "colour", word, ("car",) if after == "car" else PEOPLE))
        elif word in CHOICES["doing"] and word != "behind":
            named.append(Named(match.end(), "doing", word))
        elif word in CHOICES["expression"]:
            named.append(Named(match.end(), "expression", word))
        elif word in KIND_OF_WORD:
            named.append(Named(match.end(), "kind", KIND_OF_WORD[word]))
        elif word in CODE_WORDS:
            named.append(Named(match.end(), "character", "", ("car",)))
        elif word in TEXT_WORDS and "sign" in text:
            named.append(Named(match.end(), "character", "", ("sign",)))
    return named


def find_glances(tokenizer: Tokenizer, view: View, asked: list[Question], packed: Packed) -> tuple[Tensor, Tensor]:
    """Rows [W] of the packed sequence that name or spell something, and the visual tokens that show it: [W, T] bool."""
    labels, shown = view_labels(view), dict[Named, Tensor]()
    rows, cells = [], []
    for index, question in enumerate(asked):
        for word in named_words(question.text):
            key = Named(0, word.group, word.choice, word.kinds)
            if key not in shown:
                shown[key] = _cells_showing(key, labels, view.grid)
            rows.append(row_of_character(tokenizer, packed, question, index, word.end))
            cells.append(shown[key])
    for row, character in _characters_read(tokenizer, asked, packed):
        if character not in shown:
            shown[character] = _cells_showing(character, labels, view.grid)
        rows.append(row)
        cells.append(shown[character])
    empty = torch.zeros(0, packed.visual_tokens, dtype=torch.bool)
    return torch.tensor(rows, dtype=torch.int64), torch.stack(cells) if cells else empty


def _characters_read(tokenizer: Tokenizer, asked: list[Question], packed: Packed) -> Iterator[tuple[int, Named]]:
    """The row from which each character of a text is answered, and the character: what is read out is looked at."""
    first = len(packed.before) + packed.visual_tokens
    for question, row in zip(asked, answering_rows(packed).tolist(), strict=True):
        if question.task != _READING or question.answer == CANNOT_TELL:
            continue
        kind = "car" if "car" in re.findall("[a-z]+", question.text.lower()) else "sign"
        while row - first < len(packed.targets) and (token := int(packed.targets[row - first])) >= 0:
            text = tokenizer.id_to_token(token)
            if text in CHOICES["character"]:
                yield row, Named(0, "character", text, (kind,))
            row += 1


def _cells_showing(named: Named, labels: Tensor, grid: int) -> Tensor:
    """[N, T, groups] labels -> [N * grid * grid] bool."""
    shown = labels[..., GROUP_INDEX[named.group]]
    patches = shown == CHOICES[named.group][named.choice] if named.choice else shown > 0
    if named.kinds:
        kinds = torch.tensor([CHOICES["kind"][kind] for kind in named.kinds])
        patches &= torch.isin(labels[..., GROUP_INDEX["kind"]], kinds)
    return pool(patches.float().unsqueeze(-1), grid).flatten() >= SHOWN


class Glances:
    """Hears what goes into the attention of one block, and says how far one of its heads is from looking right."""

    def __init__(self, language: LanguageModel, block: int, head: int = GLANCING_HEAD) -> None:
        self._config = language.config
        self._head = head
        self._attention = language.attention(block)
        self._states: Tensor | None = None
        self._attention.register_forward_pre_hook(self._hear)

    def _hear(self, _: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        self._states = arguments[0][0]

    def loss(self, packed: Packed, rows: Tensor, cells: Tensor) -> Tensor:
        """Mean of -log(attention that falls where it should) over the words, on the last forward pass.

        Args:
            packed: the sequence that was passed.
            rows: [W] rows of the sequence that glance, W > 0.
            cells: [W, T] bool, visual tokens to look at; a row without any should look at the first token.
        """
        first, last = len(packed.before), len(packed.before) + packed.visual_tokens
        attention = self._log_attention(packed, rows)  # [W, L]
        there = cells.any(-1).to(attention.device)
        hidden = ~cells.to(attention.device)
        right = attention[:, first:last].masked_fill(hidden, -1e9).logsumexp(-1)
        return -torch.where(there, right, attention[:, 0]).mean()

    def loss_of_text(self, packed: Packed, pairs: list[tuple[int, int]]) -> Tensor:
        """Mean of -log(attention) from a row of the sequence to another, over pairs of them, on the last pass."""
        rows, looked_at = torch.tensor(pairs).unbind(-1)
        attention = self._log_attention(packed, rows)
        return -attention.gather(-1, looked_at.to(attention.device).unsqueeze(-1)).mean()

    def _log_attention(self, packed: Packed, rows: Tensor) -> Tensor:
        assert self._states is not None
        states, side = self._states, self._config.head_width
        group = self._head * self._config.kv_heads // self._config.heads
        rows = rows.to(states.device)
        angles = rotary_angles(packed.positions.unsqueeze(0).to(states.device), side, self._config.rope_theta)
        cos, sin = (angle[0, 0] for angle in angles)
        query = self._attention.q_proj(states[rows])[:, self._head * side :][:, :side]
        key = self._attention.k_proj(states)[:, group * side :][:, :side]
        scores = rotate(query, cos[rows], sin[rows]).float() @ rotate(key, cos, sin).float().T * side**-0.5
        mask = packed.mask.to(states.device)[rows]
        log_attention: Tensor = scores.masked_fill(~mask, -math.inf).log_softmax(-1)
        return log_attention
