"""The image encoder's ONNX graph against its PyTorch module, and the mutants the comparison must notice."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from rough_models import VISION, roughen

from tam_edge.export.parity import FEATURE_TOLERANCE, ParityError, compare_vision
from tam_edge.export.vision import vision_graph
from tam_edge.models.moe import MoEMLP
from tam_edge.models.vision import VisionTransformer
from tam_edge.runtime.engines.onnx import OnnxEngine


def _encoder(**changes: object) -> VisionTransformer:
    torch.set_num_threads(1)
    encoder = VisionTransformer(replace(VISION, **changes)).eval()
    roughen(encoder)
    return encoder


def _pixels(frames: int) -> np.ndarray:
    return np.random.default_rng(3).normal(size=(frames, 3, 58, 58)).astype(np.float32)


def _engine(model: onnx.ModelProto, folder: Path) -> OnnxEngine:
    onnx.save(model, folder / "vision.onnx")
    return OnnxEngine(folder / "vision.onnx", threads=1)


@pytest.mark.parametrize("experts", [1, 3, 4])
@pytest.mark.parametrize("post_norm", [False, True])
def test_graph_computes_the_module(tmp_path: Path, experts: int, post_norm: bool) -> None:
    encoder = _encoder(experts=experts, post_norm=post_norm)
    figures = compare_vision(encoder, _engine(vision_graph(encoder), tmp_path), _pixels(6))
    assert 0 < figures.max_abs_error < FEATURE_TOLERANCE / 2
    assert figures.frames_apart == 0


def test_all_experts_per_token_have_no_tie(tmp_path: Path) -> None:
    encoder = _encoder(experts=2)
    figures = compare_vision(encoder, _engine(vision_graph(encoder), tmp_path), _pixels(2))
    assert figures.near_tie_share == 0


def test_each_block_has_one_fused_node_and_the_batch_is_free(tmp_path: Path) -> None:
    model = vision_graph(_encoder())
    fused = [node for node in model.graph.node if node.op_type == "MoE"]
    assert [(node.domain, node.name) for node in fused] == [("com.microsoft", f"layers.{i}.mlp") for i in range(3)]
    assert not any(node.op_type in {"Loop", "If", "NonZero", "ScatterND"} for node in model.graph.node)
    attributes = {a.name: onnx.helper.get_attribute_value(a) for a in fused[0].attribute}
    assert attributes == {"k": 2, "normalize_routing_weights": 1, "activation_type": b"gelu"}
    engine = _engine(model, tmp_path)
    pixels = _pixels(5)
    together = engine.run({"pixels": pixels})[0]
    one_by_one = np.concatenate([engine.run({"pixels": pixels[i : i + 1]})[0] for i in range(5)])
    assert together.shape == (5, 16, 32)
    np.testing.assert_allclose(together, one_by_one, atol=1e-4)


def test_same_weights_give_the_same_bytes() -> None:
    first, second = (vision_graph(_encoder()).SerializeToString(deterministic=True) for _ in range(2))
    assert first == second


def test_equal_logits_go_to_the_lower_expert_in_the_graph_too(tmp_path: Path) -> None:
    encoder = _encoder()
    with torch.no_grad():
        for block in encoder.blocks:
            block.mlp.gate.weight.zero_()
    engine = _engine(vision_graph(encoder), tmp_path)
    pixels = _pixels(2)
    with torch.no_grad():
        expected = encoder(torch.from_numpy(pixels)).features.numpy()
    np.testing.assert_allclose(engine.run({"pixels": pixels})[0], expected, atol=FEATURE_TOLERANCE)


def test_an_untrained_gate_that_ties_everywhere_is_refused(tmp_path: Path) -> None:
    encoder = _encoder()
    torch.nn.init.zeros_(encoder.blocks[1].mlp.gate.weight)
    with pytest.raises(ParityError, match="nearly tie"):
        compare_vision(encoder, _engine(vision_graph(encoder), tmp_path), _pixels(2))


def test_a_near_tie_that_went_elsewhere_is_counted_not_compared(tmp_path: Path) -> None:
    encoder = _encoder()
    pixels = _pixels(100)
    graph_of = VisionTransformer(encoder.config)
    graph_of.load_state_dict(encoder.state_dict())
    with torch.no_grad():
        for module in (encoder, graph_of):
            gate = module.blocks[0].mlp.gate.weight
            tokens = _first_gate_input(module, torch.from_numpy(pixels[:1]))
        # One token of the first frame is brought to a tie between its second and third expert, on either side of it.
        order = (tokens[0] @ gate.T).sort(descending=True).indices
        gap = (tokens[0] @ gate.T)[order[1]] - (tokens[0] @ gate.T)[order[2]]
        direction = tokens[0] / tokens[0].square().sum()
        encoder.blocks[0].mlp.gate.weight[order[2]] += direction * (gap - 2e-5)
        graph_of.blocks[0].mlp.gate.weight[order[2]] += direction * (gap + 2e-5)
    figures = compare_vision(encoder, _engine(vision_graph(graph_of), tmp_path), pixels)
    assert figures.frames_apart == 1
    assert figures.near_tie_share == pytest.approx(1 / (3 * 100 * 16))
    assert figures.tokens_apart_share == pytest.approx(1 / 100)


def _first_gate_input(encoder: VisionTransformer, pixels: torch.Tensor) -> torch.Tensor:
    seen: list[torch.Tensor] = []
    hook = encoder.blocks[0].mlp.register_forward_pre_hook(lambda module, args: seen.append(args[0][0]))
    encoder(pixels)
    hook.remove()
    return seen[0]


def _replace_attribute(model: onnx.ModelProto, op_type: str, name: str, value: object) -> None:
    for node in model.graph.node:
        if node.op_type == op_type:
            kept = [a for a in node.attribute if a.name != name]
            del node.attribute[:]
            node.attribute.extend([*kept, onnx.helper.make_attribute(name, value)])


def _swap_constant(model: onnx.ModelProto, name: str, change: Callable[[np.ndarray], np.ndarray]) -> None:
    for constant in model.graph.initializer:
        if constant.name == name:
            constant.CopyFrom(onnx.numpy_helper.from_array(change(onnx.numpy_helper.to_array(constant)), name))


def _one_layer_less(model: onnx.ModelProto) -> None:
    for node in model.graph.node:
        if node.name == "post_layernorm":
            node.input[0] = "layers.1.residual2"


MUTANTS: dict[str, Callable[[onnx.ModelProto], None]] = {
    "other epsilon": lambda m: _replace_attribute(m, "LayerNormalization", "epsilon", 1e-5),
    "other activation": lambda m: _replace_attribute(m, "MoE", "activation_type", "silu"),
    "one expert only": lambda m: _replace_attribute(m, "MoE", "k", 1),
    "weights not normalised": lambda m: _replace_attribute(m, "MoE", "normalize_routing_weights", 0),
    "one layer less": _one_layer_less,
    "experts in another order": lambda m: _swap_constant(m, "layers.2.mlp.fc2.bias", lambda a: a[::-1].copy()),
    "no position": lambda m: _swap_constant(m, "position_embedding.weight", np.zeros_like),
    "unscaled attention": lambda m: _swap_constant(m, "layers.0.self_attn.scale", np.ones_like),
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_comparison_notices(tmp_path: Path, mutant: str) -> None:
    encoder = _encoder()
    model = vision_graph(encoder)
    before = model.SerializeToString(deterministic=True)
    MUTANTS[mutant](model)
    assert model.SerializeToString(deterministic=True) != before
    with pytest.raises(ParityError, match="patch features differ"):
        compare_vision(encoder, _engine(model, tmp_path), _pixels(6))


def test_comparison_notices_the_other_gelu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = _encoder(post_norm=False)
    engine = _engine(vision_graph(encoder), tmp_path)
    exact = torch.nn.functional.gelu
    monkeypatch.setattr(torch.nn.functional, "gelu", lambda x, approximate="none": exact(x))
    assert isinstance(encoder.blocks[0].mlp, MoEMLP)
    with pytest.raises(ParityError, match="patch features differ"):
        compare_vision(encoder, engine, _pixels(6))


def test_numbers_that_are_none_are_an_error(tmp_path: Path) -> None:
    encoder = _encoder()
    model = vision_graph(encoder)
    _swap_constant(model, "post_layernorm.bias", lambda a: np.full_like(a, np.nan))
    with pytest.raises(ParityError, match="differ"):
        compare_vision(encoder, _engine(model, tmp_path), _pixels(2))
