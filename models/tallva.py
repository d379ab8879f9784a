"""TallVA as one module: frames and a prompt to next-token logits (TAM, fig. 1b without the Inductor)."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn

from tam_edge.models.config import TallVAConfig
from tam_edge.models.language import LanguageModel
from tam_edge.models.moe import MoEMLP
from tam_edge.models.projector import Projectors, frames_before
from tam_edge.models.vision import VisionTransformer


class ParameterCounts(NamedTuple):
    """Parameters of a model, the language model's embedding table and untied head left out."""

    total: int
    """All of them."""
    active: int
    """Those that compute one visual token: the top-k experts of each block, one projector expert."""


class TallVA(nn.Module):
    """Image encoder, projector experts and decoder."""

    def __init__(self, config: TallVAConfig) -> None:
        super().__init__()
        self.config = config
        self.vision = VisionTransformer(config.vision)
        self.projectors = Projectors(config.projector)
        self.language = LanguageModel(config.language)

    def visual_tokens(self, pixels: Tensor, grid: int, time_fraction: Tensor | None = None) -> Tensor:
        """Visual tokens [N*grid*grid, d] of N frames in time order; `pixels` [N, 3, px, px], times t/T [N]."""
        features = self.vision(pixels).features
        tokens: Tensor = self.projectors(features, grid, time_fraction, frames_before(features))
        return tokens.flatten(0, 1)

    def forward(
        self, pixels: Tensor, grid: int, before: Tensor, after: Tensor, time_fraction: Tensor | None = None
    ) -> Tensor:
        """Next-token logits [1, L, vocab] of the prompt before + visual tokens + after."""
        visual = self.visual_tokens(pixels, grid, time_fraction)
        logits: Tensor = self.language(self.language.prompt_embeddings(before, visual, after))
        return logits


def parameter_counts(model: TallVA) -> ParameterCounts:
    """Count parameters as TAM does: total, and active for one visual token, without the word embeddings."""
    words = _size(model.language.embed_tokens)
    if model.language.lm_head is not None:
        words += _size(model.language.lm_head)
    total = _size(model) - words
    idle = sum(_size(expert) for expert in list(model.projectors.experts)[1:])
    for block in model.vision.blocks:
        if isinstance(block.mlp, MoEMLP):
            idle += sum(_size(expert) for expert in list(block.mlp.experts)[block.mlp.experts_per_token :])
    return ParameterCounts(total, total - idle)


def _size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
