"""Stage 3a: four copies of one MLP become four experts that differ.

Copies get nearly the same gradients and stay copies: after a short tuning each was 1% away from their mean, and no
other choice of experts cost an answer. So half of every expert's hidden units start anew, another half for each
(drop-upcycling, Nakamura et al., 2025), and the eye learns to show again what the dense one shows.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from tam_edge.models.config import VisionConfig
from tam_edge.models.moe import MLP, MoEMLP
from tam_edge.models.recipe.accelerator import mixed_precision, training_device
from tam_edge.models.recipe.eye import (
    FRAMES_PER_STEP,
    PIECES,
    DenseHeads,
    accuracy_of_eye,
    dense_loss,
    frames_of_step,
    load_eye,
)
from tam_edge.models.recipe.loop import Stage, run_stage
from tam_edge.models.recipe.parallel import my_share
from tam_edge.models.vision import VisionTransformer, upcycle_vision

PARTING = Stage("parting", steps=1200, muon_lr=2e-3, adam_lr=1e-3, warmup_steps=50, decay_from=0.3)
FRESH = 0.5  # part of an expert's hidden units that start anew
LIKENESS_WEIGHT = 4.0  # of the features' error, as a part of their variance, beside the dense labels' loss


def part_experts(run: Path, config: VisionConfig, *, seed: int = 0, stage: Stage = PARTING) -> None:
    """Train, or go on training, the mixture of `config` from the dense eye; leaves RUN/parting.pt.

    With one expert in `config` the dense eye is trained on: a study's dense arms shall have seen as many frames.
    """
    torch.manual_seed(seed)
    device = training_device()
    dense, _ = load_eye(run, config)
    vision, heads = load_eye(run, config)
    if config.experts > 1:
        vision = upcycle_vision(dense, config)
        renew_experts(vision, FRESH)
    for module in (dense, heads, vision):
        module.to(device)
    vision.train()

    def loss_of_step(step: int) -> Tensor:
        total = torch.zeros((), device=device)
        for piece in my_share(PIECES):
            pixels, labels = frames_of_step(seed + 1, PIECES * step + piece, FRAMES_PER_STEP // PIECES)
            pixels = pixels.to(device)
            with mixed_precision(device):
                with torch.no_grad():
                    shown = dense(pixels).features.float()
                output = vision(pixels)
                unlike = functional.mse_loss(output.features.float(), shown) / shown.var()
                named = dense_loss(heads(output.features), labels.to(device))
                loss = (LIKENESS_WEIGHT * unlike + named + output.losses.weighted()) / PIECES
            loss.backward()
            total += loss.detach()
        return total

    def evaluate() -> str:
        return accuracy_of_eye(vision, heads, seed)

    modules = {"vision": vision, "heads": heads}
    run_stage(stage, modules, loss_of_step, run, evaluate=evaluate, evaluate_every=400)


def load_parted(run: Path, config: VisionConfig) -> tuple[VisionTransformer, DenseHeads]:
    """The mixture whose experts were parted, and its heads."""
    state = torch.load(run / "parting.pt", weights_only=True)["modules"]
    vision, heads = VisionTransformer(config), DenseHeads(config.width)
    vision.load_state_dict(state["vision"])
    heads.load_state_dict(state["heads"])
    return vision, heads


@torch.no_grad()
def renew_experts(vision: VisionTransformer, part: float) -> None:
    """Draw `part` of every expert's hidden units anew, as its own weights are spread; other units for each expert."""
    for block in vision.blocks:
        mlp = block.mlp
        assert isinstance(mlp, MoEMLP)
        for expert in mlp.experts:
            assert isinstance(expert, MLP)
            units = torch.randperm(len(expert.fc1.weight))[: round(part * len(expert.fc1.weight))]
            drawn = torch.randn(len(units), expert.fc1.in_features)
            expert.fc1.weight[units] = drawn * expert.fc1.weight.std() + expert.fc1.weight.mean()
            expert.fc1.bias[units] = expert.fc1.bias.mean()
            drawn = torch.randn(expert.fc2.out_features, len(units))
            expert.fc2.weight[:, units] = drawn * expert.fc2.weight.std() + expert.fc2.weight.mean()
