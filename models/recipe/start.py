"""How the decoder starts: some heads already look from a word to the patches that show it, and bring their words back.

Random heads have to find by chance that a word and a patch go together; for hundreds of thousands of questions nothing
shows for it. Heads whose query and key (and whose value and output) are each other's transpose look by content from
the first step: mimetic initialisation (Trockman and Kolter, 2023). What to ask and what to answer is still learned.
"""

from __future__ import annotations

import torch

from tam_edge.models.language import LanguageModel
from tam_edge.models.recipe.symbols import turned

LOOKING_BLOCKS = (1, 2)
LOGIT_SCALE = 0.07
"""Standard deviation of query and key weights: a word and its patch then score about 4, others about 1."""
VALUE_SCALE = 0.35
"""Size of value and output weights: what is brought back is about as large as what ordinary heads bring."""


@torch.no_grad()
def start_looking(language: LanguageModel) -> None:
    """Give one head of every key head in LOOKING_BLOCKS weights that look by content; draws from torch's generator."""
    config = language.config
    side, group = config.head_width, config.heads // config.kv_heads
    for block in LOOKING_BLOCKS:
        attention = language.attention(block)
        for key_head in range(config.kv_heads):
            query, key = key_head * group * side, key_head * side
            match = torch.randn(side, config.width) * LOGIT_SCALE
            attention.q_proj.weight[query : query + side] = match
            attention.k_proj.weight[key : key + side] = turned(match)
            kept = torch.linalg.qr(torch.randn(config.width, side))[0].T * VALUE_SCALE  # orthonormal rows
            attention.v_proj.weight[key : key + side] = turned(kept)
            attention.o_proj.weight[:, query : query + side] = kept.T
