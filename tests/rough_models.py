"""Small random TallVA modules on which another GELU, pooling, layer or epsilon shows."""

from __future__ import annotations

import torch
from torch import nn

from tam_edge.models.config import LanguageConfig, PositionConfig, ProjectorConfig, TallVAConfig, VisionConfig

VISION = VisionConfig(image_px=58, patch_px=14, width=32, layers=3, heads=4, mlp_width=48, post_norm=True)
"""A 4x4 grid with 2 px left over at the edge, as so400m has 6."""
PROJECTOR = ProjectorConfig((4, 3, 2), 32, 64, "pool-then-project", PositionConfig(bands=3, hidden=24))
LANGUAGE = LanguageConfig(
    vocab_size=360, width=64, layers=3, heads=4, kv_heads=2, ffn_width=96, rope_theta=5000.0, tied=True, context=256
)
TINY = TallVAConfig(VISION, PROJECTOR, LANGUAGE)


def roughen(module: nn.Module, seed: int = 7, gain: float = 1.5) -> None:
    """Scale weights so that a missing bias, another GELU (large hidden states) or epsilon (small inputs) shows."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            scale = min(gain, 1.0) if parameter.ndim < 2 else gain * parameter.flatten(1).shape[1] ** -0.5
            scale *= 5.0 if name.endswith(("fc2.weight", "linear_2.weight")) else 1.0  # the two GELUs are close
            parameter.normal_(std=0.005 if "embed" in name else scale)
            if "norm" in name and name.endswith("weight"):
                parameter.add_(1.0)
