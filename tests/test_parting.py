"""Copies of one MLP start anew in part, each in another, and learn to show again what the dense eye shows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tam_edge.models.config import NANO
from tam_edge.models.moe import MoEMLP
from tam_edge.models.recipe.eye import DenseHeads, frames_of_step
from tam_edge.models.recipe.parting import PARTING, load_parted, part_experts, renew_experts
from tam_edge.models.vision import VisionTransformer, upcycle_vision

EXPERTS = replace(NANO.vision, layers=2)
DENSE = replace(EXPERTS, experts=1)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    modules = {"vision": VisionTransformer(DENSE), "heads": DenseHeads(DENSE.width)}
    torch.save({"modules": {name: module.state_dict() for name, module in modules.items()}}, tmp_path / "eye.pt")
    return tmp_path


def test_every_expert_keeps_another_half() -> None:
    torch.manual_seed(0)
    dense = VisionTransformer(DENSE)
    vision = upcycle_vision(dense, EXPERTS)
    before = dense.blocks[0].mlp.fc1.weight
    spread = float(before.detach().std())
    renew_experts(vision, 0.5)
    layer = vision.blocks[0].mlp
    assert isinstance(layer, MoEMLP)
    kept = torch.stack([(expert.fc1.weight == before).all(-1) for expert in layer.experts])
    assert kept.sum(-1).tolist() == [DENSE.mlp_width // 2] * 4
    assert kept.all(0).float().mean() < 0.15  # a sixteenth by chance
    for expert, same in zip(layer.experts, kept, strict=True):
        assert (expert.fc2.weight == dense.blocks[0].mlp.fc2.weight).all(0).equal(same)
        assert expert.fc1.weight[~same].std().detach() == pytest.approx(spread, rel=0.1)


def test_parted_experts_come_nearer_to_the_dense_eye(run: Path) -> None:
    pixels, _ = frames_of_step(9, 0, 8)
    state = torch.load(run / "eye.pt", weights_only=True)["modules"]
    dense = VisionTransformer(DENSE)
    dense.load_state_dict(state["vision"])

    def unlikeness(vision: VisionTransformer) -> float:
        with torch.no_grad():
            shown = dense(pixels).features
            return float((vision(pixels).features - shown).square().mean() / shown.var())

    part_experts(run, EXPERTS, stage=replace(PARTING, steps=1, warmup_steps=1))
    first = unlikeness(load_parted(run, EXPERTS)[0])
    part_experts(run, EXPERTS, stage=replace(PARTING, steps=25, warmup_steps=1))
    assert unlikeness(load_parted(run, EXPERTS)[0]) < 0.8 * first


def test_with_one_expert_the_dense_eye_goes_on(run: Path) -> None:
    part_experts(run, DENSE, stage=replace(PARTING, steps=1, warmup_steps=1))
    before = torch.load(run / "eye.pt", weights_only=True)["modules"]["vision"]
    after = load_parted(run, DENSE)[0].state_dict()
    assert after.keys() == before.keys()
    assert any(not torch.equal(after[name], before[name]) for name in after)
