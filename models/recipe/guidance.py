"""What is taught beside answers, and thrown away after training: notes on frames and people, and where words look."""

from __future__ import annotations

from tokenizers import Tokenizer
from torch import Tensor, nn

from tam_edge.models.language import LanguageModel
from tam_edge.models.recipe.glances import Glances, find_glances
from tam_edge.models.recipe.notes import Notes
from tam_edge.models.recipe.pack import Packed
from tam_edge.models.recipe.views import View
from tam_edge.models.street.question import Question

NOTES_WEIGHT, GLANCES_WEIGHT = 0.5, 0.3


class Guidance(nn.Module):
    """Listens to a decoder and grades its last forward pass."""

    def __init__(self, language: LanguageModel, tokenizer: Tokenizer) -> None:
        super().__init__()
        self.notes = Notes(language)
        self._glances, self._tokenizer = Glances(language), tokenizer

    def loss(self, view: View, asked: list[Question], packed: Packed) -> Tensor:
        """The weighted sum of both losses for the sequence that was just passed."""
        total = NOTES_WEIGHT * self.notes.loss(view, len(packed.before))
        rows, cells = find_glances(self._tokenizer, view, asked, packed)
        return total + GLANCES_WEIGHT * self._glances.loss(packed, rows, cells) if len(rows) else total
