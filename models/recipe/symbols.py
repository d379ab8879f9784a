"""Visual tokens that are never rendered: what a perfect eye and projector would hand the language model.

Each patch is the scaled sum of the word embeddings of what it shows, turned, and pooled like features are. Binding "the
person in red" to a place is a phase transition that visual tokens alone take very long to reach; on symbols it takes
minutes. Unless they are turned, a word that looks for what is like it finds itself.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn import functional

from tam_edge.models.projector import ChangeEmbedding, PositionEmbedding, frames_before, pool
from tam_edge.models.recipe.views import View
from tam_edge.models.street.labels import GROUPS, label_frame
from tam_edge.runtime.tokenizer import encode_plain

SCALE = 30.0  # at 1 nothing was learned: word embeddings start at a standard deviation of 0.02


def turned(words: Tensor) -> Tensor:
    """Word embeddings [..., d] as patches carry them, and back: the two halves of the channels change places."""
    return words.roll(words.shape[-1] // 2, -1)


@lru_cache(maxsize=4)  # several lessons read the same view's
def view_labels(view: View) -> Tensor:
    """The labels of every frame of a view: [N, T, groups] int64."""
    return torch.from_numpy(np.stack([label_frame(view.scene, t) for t in view.times]).astype(np.int64))


def mark(tokens: Tensor, view: View, *, position: PositionEmbedding | None, change: ChangeEmbedding | None) -> Tensor:
    """Visual tokens [T, d] of a view: its tokens [N, grid*grid, d], each told its place and time, and what is new."""
    assert position is not None and change is not None
    changed: Tensor = change(tokens, frames_before(tokens)).to(tokens.dtype)
    marked: Tensor = tokens + changed + position(view.grid, torch.tensor(view.time_fractions, device=tokens.device))
    return marked.flatten(0, 1)


class Symbols:
    """The table from labels to word embeddings."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        rows: list[list[int]] = []
        self.starts: list[int] = []
        for words in GROUPS.values():
            self.starts.append(len(rows))
            for word in words:
                rows.append([*encode_plain(tokenizer, word if word.isupper() or word.isdigit() else f" {word}")])
        self.offsets = torch.tensor(self.starts)
        self.counts = torch.tensor([len(row) for row in rows], dtype=torch.float32)
        longest = max(map(len, rows))
        self.ids = torch.tensor([row + [row[0]] * (longest - len(row)) for row in rows])
        self.weights = torch.tensor([[1.0] * len(row) + [0.0] * (longest - len(row)) for row in rows])

    def words(self, embedding: Tensor) -> Tensor:
        """One vector per choice of every group: [choices, d]; a word of several tokens is their sum."""
        device = embedding.device
        return (functional.embedding(self.ids.to(device), embedding) * self.weights.unsqueeze(-1).to(device)).sum(1)

    def tokens(self, labels: Tensor, grid: int, embedding: Tensor) -> Tensor:
        """Pooled symbolic tokens [N, grid*grid, d] of labels [N, T, groups]."""
        hot = self.multi_hot(labels).to(embedding.device)  # [N, T, choices]
        return SCALE * pool(hot, grid) @ turned(self.words(embedding))

    def multi_hot(self, labels: Tensor) -> Tensor:
        """[N, T, groups] -> [N, T, choices] float32: 1 where a patch shows a choice."""
        hot = torch.zeros(*labels.shape[:2], len(self.ids) + 1)
        index = torch.where(labels > 0, labels - 1 + self.offsets, len(self.ids))
        return hot.scatter_(-1, index, 1.0)[..., :-1]
