"""What is taught beside answers, and thrown away after training: notes on frames and people, where words look, and what
an answer rests on.
"""

from __future__ import annotations

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

from tam_edge.models.language import LanguageModel
from tam_edge.models.recipe.findings import COMPARING_HEAD, Findings
from tam_edge.models.recipe.glances import GLANCING_BLOCKS, Glances, find_glances
from tam_edge.models.recipe.notes import LATE_BLOCK, Notes
from tam_edge.models.recipe.occasions import (
    ANSWERING_BLOCKS,
    MENTIONING_BLOCKS,
    OCCASIONS_HEAD,
    REFERRING_BLOCK,
    find_occasions,
)
from tam_edge.models.recipe.pack import Packed
from tam_edge.models.recipe.views import View
from tam_edge.models.street.question import Question

NOTES_WEIGHT, GLANCES_WEIGHT, FINDINGS_WEIGHT = 0.6, 0.3, 0.2


def notice(language: LanguageModel, guidance: Guidance, view: View, visual: Tensor) -> Tensor:
    """Loss of the notes on a view's visual tokens [T, d] alone, with nothing asked: the lower blocks are enough."""
    language.hidden_states(visual.unsqueeze(0), blocks=LATE_BLOCK + 1)
    return guidance.notes.loss(view, 0)


class Guidance(nn.Module):
    """Listens to a decoder and grades its last forward pass."""

    def __init__(self, language: LanguageModel, tokenizer: Tokenizer) -> None:
        super().__init__()
        self.notes, self.findings = Notes(language), Findings(language, tokenizer)
        self._glances = [Glances(language, block) for block in GLANCING_BLOCKS]
        self._mentions = [Glances(language, block, OCCASIONS_HEAD) for block in MENTIONING_BLOCKS]
        self._answers = [Glances(language, block, OCCASIONS_HEAD) for block in ANSWERING_BLOCKS]
        self._references = Glances(language, REFERRING_BLOCK, COMPARING_HEAD)
        self._tokenizer = tokenizer

    def loss(self, view: View, asked: list[Question], packed: Packed) -> Tensor:
        """The weighted sum of all losses for the sequence that was just passed."""
        total = NOTES_WEIGHT * self.notes.loss(view, len(packed.before))
        total = total + FINDINGS_WEIGHT * self.findings.loss(view, asked, packed)
        named = find_glances(self._tokenizer, view, asked, packed)
        occasions = find_occasions(self._tokenizer, view, asked, packed)
        looks = [(glances, *named) for glances in self._glances]
        looks += [(glances, *occasions.mentions) for glances in self._mentions]
        looks += [(glances, *occasions.answers) for glances in self._answers]
        losses = [glances.loss(packed, rows, cells) for glances, rows, cells in looks if len(rows)]
        if occasions.references:
            losses.append(self._references.loss_of_text(packed, occasions.references))
        return total + GLANCES_WEIGHT / len(GLANCING_BLOCKS) * torch.stack(losses).sum() if losses else total
