"""The eye of a bundle is read back as it was written; one whose experts went different ways is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from tiny_bundle import engine, make_tiny_bundle
from typer.testing import CliRunner

from tam_edge.export.vision import vision_graph
from tam_edge.models.cli import train
from tam_edge.models.config import NANO, VisionConfig
from tam_edge.models.moe import MoEMLP
from tam_edge.models.recipe.eye import AGAIN, load_eye, train_eye
from tam_edge.models.recipe.recall import recall_encoder
from tam_edge.models.vision import VisionTransformer, upcycle_vision
from tam_edge.runtime.errors import BundleError

EXPERTS = replace(NANO.vision, layers=2)
DENSE = replace(EXPERTS, experts=1)


def bundle_with(folder: Path, graph: onnx.ModelProto) -> Path:
    def use_graph(manifest: dict[str, Any]) -> None:
        onnx.save(graph, folder / "eye.onnx")
        manifest["encoders"]["eye"]["engines"] = [engine(folder, "eye.onnx")]

    return make_tiny_bundle(folder, change=use_graph)


def new_encoder(config: VisionConfig = DENSE) -> VisionTransformer:
    torch.manual_seed(0)
    return VisionTransformer(config)


def experts_of(vision: VisionTransformer) -> list[torch.nn.Module]:
    mlp = vision.blocks[1].mlp
    assert isinstance(mlp, MoEMLP)
    return list(mlp.experts)


def test_a_dense_encoder_comes_back_to_the_bit(tmp_path: Path) -> None:
    dense = new_encoder()
    recalled = recall_encoder(bundle_with(tmp_path, vision_graph(dense)), EXPERTS).state_dict()
    for name, weights in dense.state_dict().items():
        assert torch.equal(weights, recalled[name]), name


def test_near_copies_come_back_as_their_mean(tmp_path: Path) -> None:
    vision = upcycle_vision(new_encoder(), EXPERTS)
    with torch.no_grad():
        for sign, expert in zip((1, -1, 1, -1), experts_of(vision), strict=True):
            for parameter in expert.parameters():
                parameter.mul_(1 + 0.02 * sign)
    recalled = recall_encoder(bundle_with(tmp_path, vision_graph(vision)), EXPERTS)
    pixels = torch.rand(2, 3, EXPERTS.image_px, EXPERTS.image_px)
    torch.testing.assert_close(recalled(pixels).features, new_encoder()(pixels).features, rtol=1e-4, atol=1e-5)


def test_experts_that_went_different_ways_are_refused(tmp_path: Path) -> None:
    vision = upcycle_vision(new_encoder(), EXPERTS)
    with torch.no_grad():
        next(experts_of(vision)[0].parameters()).normal_()
    with pytest.raises(BundleError, match=r"encoders\.eye: experts differ by \d+% \(layers\.1\.mlp\.fc1\.weight\)"):
        recall_encoder(bundle_with(tmp_path, vision_graph(vision)), EXPERTS)


@pytest.mark.parametrize(
    ("config", "line"),
    [
        (replace(DENSE, layers=1), "holds no layers.1."),
        (replace(DENSE, width=64), "is of another size: size mismatch for"),
    ],
)
def test_an_encoder_of_another_size_is_refused(tmp_path: Path, config: VisionConfig, line: str) -> None:
    with pytest.raises(BundleError) as refusal:
        recall_encoder(bundle_with(tmp_path, vision_graph(new_encoder(config))), EXPERTS)
    assert line in " ".join(str(refusal.value).split())
    assert "\n" not in str(refusal.value)


def test_an_encoder_of_somebody_else_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="holds no patch_embedding"):
        recall_encoder(make_tiny_bundle(tmp_path), EXPERTS)


# torch's compiler warns about torch.
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")
def test_a_run_begins_with_the_eye_it_was_given(tmp_path: Path) -> None:
    dense = new_encoder()
    pixels = torch.rand(1, 3, EXPERTS.image_px, EXPERTS.image_px)
    before = dense(pixels).features.detach()
    stage = replace(AGAIN, steps=1, muon_lr=1e-9, adam_lr=1e-9, warmup_steps=1)
    with torch.compiler.set_stance("force_eager"):  # a compiler takes longer than the step
        train_eye(tmp_path, EXPERTS, stage=stage, start=dense)
    after = load_eye(tmp_path, EXPERTS)[0](pixels).features.detach()
    torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-4)


def test_the_command_names_what_is_wrong_with_the_bundle(tmp_path: Path) -> None:
    result = CliRunner().invoke(train, ["nano", "--run", str(tmp_path / "run"), "--eye-of", str(tmp_path / "none")])
    assert result.exit_code == 1
    assert isinstance(result.exception, BundleError)
    assert not (tmp_path / "run").exists()
