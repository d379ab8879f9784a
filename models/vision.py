"""SigLIP-style image encoder: pictures to patch features, dense or with a mixture of experts in every block."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from tam_edge.models.config import VisionConfig
from tam_edge.models.moe import MLP, AuxiliaryLosses, MoEMLP, upcycle


class VisionOutput(NamedTuple):
    """What one pass of the encoder returns."""

    features: Tensor
    """Patch features [N, S*S, D], row by row."""
    losses: AuxiliaryLosses
    """Router losses averaged over the layers; zeros for a dense encoder."""


class Attention(nn.Module):
    """Full self-attention over the patches of one image."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_proj = nn.Linear(width, width)
        self.k_proj = nn.Linear(width, width)
        self.v_proj = nn.Linear(width, width)
        self.out_proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Attend within each image; [N, T, D] -> [N, T, D]."""
        q, k, v = (
            p(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for p in (self.q_proj, self.k_proj, self.v_proj)
        )  # [N, heads, T, D / heads]
        attended = functional.scaled_dot_product_attention(q, k, v)
        out: Tensor = self.out_proj(attended.transpose(1, 2).flatten(2))
        return out


class VisionBlock(nn.Module):
    """Pre-norm block: attention, then a dense MLP (`mlp`) or a mixture (`moe`)."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.layer_norm1 = nn.LayerNorm(config.width, eps=config.layer_norm_eps)
        self.self_attn = Attention(config.width, config.heads)
        self.layer_norm2 = nn.LayerNorm(config.width, eps=config.layer_norm_eps)
        self.mlp: MLP | MoEMLP
        if config.experts > 1:
            self.mlp = MoEMLP(config.width, config.mlp_width, config.experts, config.experts_per_token)
        else:
            self.mlp = MLP(config.width, config.mlp_width)

    def forward(self, x: Tensor) -> tuple[Tensor, AuxiliaryLosses | None]:
        """One block; [N, T, D] -> [N, T, D] and this layer's router losses, None where dense."""
        x = x + self.self_attn(self.layer_norm1(x))
        normed = self.layer_norm2(x)
        if isinstance(self.mlp, MoEMLP):
            mixed, losses = self.mlp(normed)
            return x + mixed, losses
        return x + self.mlp(normed), None


class VisionTransformer(nn.Module):
    """Patch convolution, learned positions, pre-norm blocks (SigLIP; TAM puts experts into every block)."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.config = config
        self.patch_embedding = nn.Conv2d(3, config.width, config.patch_px, stride=config.patch_px)
        self.position_embedding = nn.Embedding(config.grid_side**2, config.width)
        self.layers = nn.ModuleList(VisionBlock(config) for _ in range(config.layers))
        self.post_layernorm = nn.LayerNorm(config.width, eps=config.layer_norm_eps) if config.post_norm else None
        self.apply(_initialise)

    @property
    def blocks(self) -> list[VisionBlock]:
        """The blocks in order."""
        return [layer for layer in self.layers if isinstance(layer, VisionBlock)]

    def forward(self, pixels: Tensor) -> VisionOutput:
        """Encode frames.

        Args:
            pixels: normalised RGB [N, 3, image_px, image_px].
        """
        patches = self.patch_embedding(pixels).flatten(2).transpose(1, 2)  # [N, S*S, D]
        x = patches + self.position_embedding.weight
        per_layer = []
        for layer in self.layers:
            x, losses = layer(x)
            if losses is not None:
                per_layer.append(losses)
        if self.post_layernorm is not None:
            x = self.post_layernorm(x)
        return VisionOutput(x, _mean_losses(per_layer, x))


def upcycle_vision(dense: VisionTransformer, config: VisionConfig) -> VisionTransformer:
    """The mixture-of-experts encoder of `config` that computes exactly what the dense one does.

    Raises:
        RuntimeError: the sizes of `dense` are not those of `config`.
    """
    sparse = VisionTransformer(config)
    sparse.load_state_dict(
        dense.state_dict() | {key: value for key, value in sparse.state_dict().items() if ".mlp." in key}, strict=False
    )
    for target, source in zip(sparse.blocks, dense.blocks, strict=True):
        if isinstance(source.mlp, MLP):
            target.mlp = upcycle(source.mlp, config.experts, config.experts_per_token)
    return sparse


def _mean_losses(per_layer: list[AuxiliaryLosses], like: Tensor) -> AuxiliaryLosses:
    if not per_layer:
        zero = torch.zeros((), device=like.device)
        return AuxiliaryLosses(zero, zero)
    return AuxiliaryLosses(*(torch.stack(losses).mean() for losses in zip(*per_layer, strict=True)))


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Embedding):
        nn.init.normal_(module.weight, std=module.embedding_dim**-0.5)
