"""Small random TallVA modules on which another GELU, pooling, layer or epsilon shows."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import torch
from tiny_base import make_bert, make_run
from tiny_bundle import language_tokenizer
from torch import nn

from tam_edge.models.checkpoint import save_checkpoint
from tam_edge.models.config import LanguageConfig, PositionConfig, ProjectorConfig, TallVAConfig, VisionConfig
from tam_edge.models.tallva import TallVA

VISION = VisionConfig(image_px=58, patch_px=14, width=32, layers=3, heads=4, mlp_width=48, post_norm=True)
"""A 4x4 grid with 2 px left over at the edge, as so400m has 6."""
PROJECTOR = ProjectorConfig((4, 3, 2), 32, 64, "pool-then-project", PositionConfig(bands=3, hidden=24), change=True)
LANGUAGE = LanguageConfig(
    vocab_size=360, width=64, layers=3, heads=4, kv_heads=2, ffn_width=96, rope_theta=5000.0, tied=True, context=256
)
TINY = TallVAConfig(VISION, PROJECTOR, LANGUAGE)


def save_rough_run(run: Path, config: TallVAConfig) -> None:
    """A finished run of random weights that can be exported: what it says is babble, but never a matter of rounding."""
    torch.set_num_threads(1)
    model = TallVA(replace(config, language=replace(config.language, context=1024, tied=False)))
    roughen(model.vision)
    roughen(model.projectors)
    roughen(model.language, gain=0.6)
    nn.init.normal_(model.language.embed_tokens.weight, std=0.2)
    assert model.language.lm_head is not None
    _speak_clearly(model.language.lm_head)
    save_checkpoint(run, model)
    language_tokenizer().save(str(run / "tokenizer.json"))
    folder = run / "inductor"
    (run / "base").mkdir()
    make_run(folder, make_bert(run / "base"))
    (run / "training.json").write_text(json.dumps({"seed": 3, "minutes": {"eye": 1.5, "joint": 2.0}}))


def _speak_clearly(head: nn.Linear) -> None:
    """Only eight letters are ever likely, so that the best is far ahead of the second: rounding must not choose."""
    letters = [language_tokenizer().token_to_id(letter) for letter in "abcdefgh"]
    likely = torch.zeros(head.out_features, 1)
    likely[letters] = 2.0
    with torch.no_grad():
        head.weight.mul_(likely)


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
