"""TallVA's modules against literal formulas and against transformers, on tiny random weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rough_models import roughen
from torch import nn

from tam_edge.models.checkpoint import load_checkpoint, save_checkpoint
from tam_edge.models.config import (
    FULL,
    NANO,
    LanguageConfig,
    PositionConfig,
    ProjectorConfig,
    TallVAConfig,
    VisionConfig,
)
from tam_edge.models.language import LanguageModel
from tam_edge.models.moe import MLP, MoEMLP, auxiliary_losses, routing_weights, upcycle
from tam_edge.models.projector import Projectors, fourier_features, frames_before, pool, token_coordinates
from tam_edge.models.tallva import TallVA, parameter_counts
from tam_edge.models.vision import VisionTransformer, upcycle_vision

TINY_VISION = VisionConfig(image_px=58, patch_px=14, width=32, layers=3, heads=4, mlp_width=48)  # 2 px left over
TINY_LANGUAGE = LanguageConfig(
    vocab_size=97, width=48, layers=3, heads=6, kv_heads=2, ffn_width=80, rope_theta=5000.0, tied=True, context=64
)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(7)


def test_full_size_has_tams_parameter_counts() -> None:
    with torch.device("meta"):
        model = TallVA(FULL)
        dense = VisionTransformer(replace(FULL.vision, experts=1))
    mlp = 1152 * 4304 + 4304 + 4304 * 1152 + 1152
    block = 2 * 2 * 1152 + 4 * (1152 * 1152 + 1152) + mlp
    vit = 3 * 14 * 14 * 1152 + 1152 + 729 * 1152 + 26 * block
    projector = 1152 * 3584 + 3584 + 3584 * 3584 + 3584
    attention = 2 * 3584 * 3584 + 2 * 3584 * 512 + 3584 + 2 * 512
    decoder = 28 * (attention + 3 * 3584 * 18944 + 2 * 3584) + 3584
    gates = 26 * 4 * 1152

    assert sum(p.numel() for p in dense.parameters()) == vit == 397_745_440
    assert sum(p.numel() for p in model.language.parameters()) == decoder + 2 * 152064 * 3584 == 7_615_616_512
    counts = parameter_counts(model)
    # 7.8 B: decoder 6.53, encoder 0.40 + 3 more experts 0.77, four projectors 0.07.
    assert counts.total == decoder + vit + 3 * 26 * mlp + gates + 4 * projector == 7_765_316_992
    # 7.2 B for one token: one extra expert instead of three, one projector instead of four.
    assert counts.active == decoder + vit + 26 * mlp + gates + projector == 7_198_436_672


def test_nano_size() -> None:
    with torch.device("meta"):
        model = TallVA(NANO)
    counts = parameter_counts(model)
    assert (counts.total, counts.active) == (5_964_160, 4_614_016)
    assert NANO.vision.grid_side == 12
    assert sum(p.numel() for p in model.projectors.position.parameters()) == 79_104


@pytest.mark.parametrize("config", [NANO, FULL])
def test_config_survives_json(config: TallVAConfig) -> None:
    assert TallVAConfig.from_json(config.to_json()) == config


@pytest.mark.parametrize(
    ("section", "field", "value"),
    [
        ("vision", "heads", 5),
        ("vision", "experts_per_token", 5),
        ("vision", "experts_per_token", 0),
        ("language", "kv_heads", 3),
        ("projector", "grids", (13, 5)),
        ("projector", "input_width", 64),
        ("projector", "output_width", 64),
    ],
)
def test_sizes_that_do_not_fit_are_refused(section: str, field: str, value: object) -> None:
    with pytest.raises(ValueError, match=r"must|larger"):
        replace(NANO, **{section: replace(getattr(NANO, section), **{field: value})})


def test_ties_go_to_the_lower_expert() -> None:
    logits = torch.tensor([[1.0, 1.0, 1.0, 1.0], [0.0, 2.0, 0.0, 0.0], [0.0, 1.0, 5.0, 1.0]])
    expected = np.array([[0.5, 0.5, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]])
    expected[1, :2] = np.exp([0, 2]) / np.exp([0, 2]).sum()
    expected[2, 1:3] = np.exp([1, 5]) / np.exp([1, 5]).sum()
    np.testing.assert_allclose(routing_weights(logits, 2), expected, atol=1e-6)


@given(st.integers(0, 2**31), st.integers(1, 4))
@settings(max_examples=30, deadline=None)
def test_routing_is_softmax_over_the_top_logits(seed: int, top_k: int) -> None:
    # One decimal makes ties common.
    logits = torch.from_numpy(np.random.default_rng(seed).normal(size=(5, 4)).round(1))
    weights = routing_weights(logits, top_k).numpy()
    for row, got in zip(logits.numpy(), weights, strict=True):
        kept = sorted(range(4), key=lambda e: (-row[e], e))[:top_k]
        expected = np.zeros(4)
        expected[kept] = np.exp(row[kept]) / np.exp(row[kept]).sum()
        np.testing.assert_allclose(got, expected, atol=1e-12)


@given(st.integers(0, 2**31), st.integers(1, 4), st.integers(1, 3))
@settings(max_examples=20, deadline=None)
def test_upcycled_layer_equals_its_dense_layer(seed: int, experts: int, images: int) -> None:
    torch.manual_seed(seed)
    dense = MLP(16, 24)
    roughen(dense)
    moe = upcycle(dense, experts, min(2, experts))
    nn.init.normal_(moe.gate.weight)
    x = torch.randn(images, 9, 16)
    torch.testing.assert_close(moe(x)[0], dense(x), atol=2e-5, rtol=1e-5)


def test_mixture_is_the_weighted_sum_of_two_experts() -> None:
    moe = MoEMLP(16, 24, 4, 2)
    roughen(moe)
    x = torch.randn(2, 9, 16)
    weights = routing_weights(x @ moe.gate.weight.T, 2)
    expected = sum(weights[..., e, None] * moe.experts[e](x) for e in range(4))
    torch.testing.assert_close(moe(x)[0], expected, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(moe.experts[0](x), moe.experts[1](x), atol=1e-2)


def test_auxiliary_losses_are_the_formulas() -> None:
    logits = torch.randn(3, 10, 4) * 2
    rows = logits.numpy().astype(np.float64)
    p = np.exp(rows) / np.exp(rows).sum(-1, keepdims=True)
    balance = []
    for image in range(3):
        f = np.bincount(rows[image].argmax(-1), minlength=4) / 10
        balance.append((p[image].mean(0) * f).mean() * 4**2)
    z = (np.log(np.exp(rows).sum(-1)) ** 2).mean()
    losses = auxiliary_losses(logits)
    np.testing.assert_allclose(losses.balance, np.mean(balance), rtol=1e-5)
    np.testing.assert_allclose(losses.router_z, z, rtol=1e-5)
    np.testing.assert_allclose(losses.weighted(), 1e-3 * np.mean(balance) + 5e-4 * z, rtol=1e-5)


def test_balance_is_one_for_a_uniform_load_and_four_for_one_expert() -> None:
    uniform = torch.eye(4).mul(40.0).unsqueeze(0)  # four tokens, each sure of another expert
    assert auxiliary_losses(uniform).balance == pytest.approx(1.0)
    assert auxiliary_losses(uniform[:, :1].expand(1, 4, 4)).balance == pytest.approx(4.0)


def test_router_and_every_expert_learn() -> None:
    encoder = VisionTransformer(TINY_VISION)
    out = encoder(torch.randn(4, 3, 58, 58))
    (out.features.square().mean() + out.losses.weighted()).backward()
    for name, parameter in encoder.named_parameters():
        # The bias of the keys shifts all scores of a row alike, which softmax cancels.
        assert parameter.grad is not None, name
        assert "k_proj.bias" in name or parameter.grad.abs().max() > 0, name


def test_losses_average_over_layers() -> None:
    encoder = VisionTransformer(TINY_VISION)
    pixels = torch.randn(2, 3, 58, 58)
    seen: list[torch.Tensor] = []
    for block in encoder.blocks:
        block.mlp.register_forward_hook(lambda module, args, out: seen.append(out[1].router_z))
    losses = encoder(pixels).losses
    assert len(seen) == 3
    torch.testing.assert_close(losses.router_z, sum(seen) / 3)


def test_upcycled_encoder_equals_its_dense_encoder() -> None:
    dense = VisionTransformer(replace(TINY_VISION, experts=1, post_norm=True))
    roughen(dense)
    sparse = upcycle_vision(dense, replace(TINY_VISION, post_norm=True))
    pixels = torch.randn(2, 3, 58, 58)
    assert dense(pixels).losses.balance == 0
    assert sparse(pixels).losses.balance > 0
    torch.testing.assert_close(sparse(pixels).features, dense(pixels).features, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("post_norm", [False, True])
def test_encoder_equals_transformers_siglip(post_norm: bool) -> None:
    from transformers import SiglipVisionConfig, SiglipVisionModel

    theirs = SiglipVisionModel(
        SiglipVisionConfig(
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=3,
            num_attention_heads=4,
            image_size=58,
            patch_size=14,
            vision_use_head=False,
        )
    ).eval()
    roughen(theirs)
    ours = VisionTransformer(replace(TINY_VISION, experts=1, post_norm=post_norm))
    renamed = {}
    for key, value in theirs.state_dict().items():
        short = key.removeprefix("vision_model.").removeprefix("embeddings.").removeprefix("encoder.")
        renamed[short] = value
    if not post_norm:
        renamed = {key: value for key, value in renamed.items() if "post_layernorm" not in key}
    ours.load_state_dict(renamed)
    pixels = torch.randn(2, 3, 58, 58)
    with torch.no_grad():
        expected = theirs(pixels, output_hidden_states=True)
        features = ours(pixels).features
    reference = expected.last_hidden_state if post_norm else expected.hidden_states[-1]
    assert features.shape == (2, 16, 32)
    torch.testing.assert_close(features, reference, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("tied", [True, False])
def test_decoder_equals_transformers_qwen2(tied: bool) -> None:
    from transformers import Qwen2Config, Qwen2ForCausalLM

    config = replace(TINY_LANGUAGE, tied=tied)
    theirs = Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=config.vocab_size,
            hidden_size=config.width,
            intermediate_size=config.ffn_width,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            num_key_value_heads=config.kv_heads,
            rope_theta=config.rope_theta,
            rms_norm_eps=config.rms_norm_eps,
            tie_word_embeddings=tied,
        )
    ).eval()
    roughen(theirs)
    ours = LanguageModel(config)
    weights = {key.removeprefix("model."): value for key, value in theirs.state_dict().items()}
    ours.load_state_dict({key: value for key, value in weights.items() if not (tied and key.startswith("lm_head"))})
    ids = torch.randint(0, 97, (2, 21))
    with torch.no_grad():
        expected = theirs(input_ids=ids).logits
        logits = ours(ours.embed_tokens(ids))
    scale = expected.abs().max()
    torch.testing.assert_close(logits / scale, expected / scale, atol=1e-5, rtol=0)


def test_questions_share_one_visual_prefix() -> None:
    model = LanguageModel(TINY_LANGUAGE)
    roughen(model)
    prefix, first, second = torch.randn(1, 8, 48), torch.randn(1, 4, 48), torch.randn(1, 6, 48)
    mask = torch.ones(18, 18, dtype=torch.bool).tril()
    mask[12:, 8:12] = False  # the second question does not see the first
    positions = torch.cat((torch.arange(12), torch.arange(8, 14))).unsqueeze(0)
    with torch.no_grad():
        packed = model(torch.cat((prefix, first, second), 1), mask[None, None], positions)
        alone = model(torch.cat((prefix, second), 1))
    torch.testing.assert_close(packed[:, 12:], alone[:, 8:], atol=1e-4, rtol=1e-4)


def test_wanted_rows_are_those_of_the_whole_sequence() -> None:
    model = LanguageModel(TINY_LANGUAGE)
    roughen(model)
    embeds, mask = torch.randn(1, 9, TINY_LANGUAGE.width), torch.ones(1, 1, 9, 9, dtype=torch.bool).tril()
    rows = torch.tensor([2, 7, 8])
    whole, wanted = model.hidden_states(embeds, mask), model.hidden_states(embeds, mask, rows=rows)
    assert torch.allclose(wanted, whole[:, rows], atol=1e-6)


def test_greedy_stops_at_the_stop_token_and_at_the_limit() -> None:
    model = LanguageModel(TINY_LANGUAGE)
    roughen(model)
    prompt = torch.randn(1, 5, 48)
    torch.nn.init.normal_(model.embed_tokens.weight)
    free = model.greedy_generate(prompt, 6, stop=-1)
    assert len(free) == 6
    ids = torch.tensor([free[:3]])
    with torch.no_grad():
        following = model(torch.cat((prompt, model.embed_tokens(ids)), 1))[0, -1].argmax()
    assert int(following) == free[3]
    first_seen = free.index(free[3])
    assert model.greedy_generate(prompt, 6, stop=free[3]) == free[:first_seen]


def test_pooling_is_half_pixel_bilinear() -> None:
    side, grid = 5, 3
    values = np.random.default_rng(0).normal(size=(2, side * side, 4))
    square = values.reshape(2, side, side, 4)
    expected = np.zeros((2, grid, grid, 4))
    for row in range(grid):
        for column in range(grid):
            y, x = ((i + 0.5) * side / grid - 0.5 for i in (row, column))
            y0, x0 = int(np.floor(y)), int(np.floor(x))
            y1, x1 = min(y0 + 1, side - 1), min(x0 + 1, side - 1)
            top = square[:, y0, x0] * (1 - (x - x0)) + square[:, y0, x1] * (x - x0)
            bottom = square[:, y1, x0] * (1 - (x - x0)) + square[:, y1, x1] * (x - x0)
            expected[:, row, column] = top * (1 - (y - y0)) + bottom * (y - y0)
    np.testing.assert_allclose(pool(torch.from_numpy(values), grid), expected.reshape(2, 9, 4), atol=1e-12)


def test_pooling_to_the_full_grid_changes_nothing() -> None:
    features = torch.randn(1, 16, 8)
    torch.testing.assert_close(pool(features, 4), features)


def test_order_of_pooling_and_projecting_matters() -> None:
    base = ProjectorConfig(grids=(4, 3), input_width=8, output_width=12, order="pool-then-project")
    first, second = Projectors(base), Projectors(replace(base, order="project-then-pool"))
    roughen(first)
    second.load_state_dict(first.state_dict())
    features = torch.randn(2, 16, 8)
    torch.testing.assert_close(first(features, 4), second(features, 4))
    assert (first(features, 3) - second(features, 3)).abs().max() > 1e-2


def test_each_grid_has_its_own_expert_and_shares_the_position_embedding() -> None:
    config = ProjectorConfig((4, 3, 2), 8, 12, "pool-then-project", PositionConfig(bands=2, hidden=6))
    projectors = Projectors(config)
    tokens = projectors(torch.randn(2, 16, 8), 3, torch.tensor([0.25, 1.0]))
    assert tokens.shape == (2, 9, 12)
    tokens.sum().backward()
    assert [expert.linear_1.weight.grad is not None for expert in projectors.experts] == [False, True, False]
    assert projectors.position.linear_1.weight.grad is not None


def test_projector_refuses_an_unknown_grid_and_missing_marks() -> None:
    projectors = Projectors(replace(NANO.projector, grids=(4, 3)))
    with pytest.raises(ValueError, match="ladder"):
        projectors(torch.randn(1, 16, 128), 2, torch.zeros(1))
    frame = torch.randn(1, 16, 128)
    with pytest.raises(ValueError, match="time_fraction"):
        projectors(frame, 3, previous=frame)
    with pytest.raises(ValueError, match="previous"):
        projectors(frame, 3, torch.zeros(1))


def test_tokens_tell_what_has_changed_and_the_first_frame_nothing() -> None:
    projectors = Projectors(ProjectorConfig((4, 2), 8, 12, "pool-then-project", change=True))
    roughen(projectors)
    frames = torch.randn(3, 16, 8)
    frames[2] = frames[1]
    previous = frames_before(frames)
    torch.testing.assert_close(previous, frames[[0, 0, 1]])
    told = projectors(frames, 2, previous=previous)
    difference = projectors(frames[1:2], 2, previous=frames[1:2]) - projectors(frames[:1], 2, previous=frames[:1])
    projectors.change, change = None, projectors.change
    plain = projectors(frames, 2)
    torch.testing.assert_close(told[[0, 2]], plain[[0, 2]])
    torch.testing.assert_close(told[1:2], plain[1:2] + change.linear(difference))


def test_tokens_know_their_column_row_and_time() -> None:
    coordinates = token_coordinates(2, torch.tensor([0.0, 0.5]))
    assert coordinates.shape == (2, 4, 3)
    assert coordinates[0].tolist() == [[0.25, 0.25, 0.0], [0.75, 0.25, 0.0], [0.25, 0.75, 0.0], [0.75, 0.75, 0.0]]
    assert coordinates[1, :, 2].tolist() == [0.5] * 4


def test_fourier_features_are_octaves_of_pi() -> None:
    point = torch.tensor([0.1, 0.7, 0.3], dtype=torch.float64)
    got = fourier_features(point, 2).numpy()
    angles = np.array([c * f * np.pi for c in point.numpy() for f in (1, 2)])
    np.testing.assert_allclose(got, np.concatenate((point.numpy(), np.sin(angles), np.cos(angles))), atol=1e-12)


def _tiny_tallva() -> TallVA:
    projector = ProjectorConfig((4, 3), 32, 48, "pool-then-project", PositionConfig(bands=2, hidden=8))
    return TallVA(TallVAConfig(TINY_VISION, projector, TINY_LANGUAGE))


def test_whole_model_reads_before_visual_after() -> None:
    model = _tiny_tallva().eval()
    pixels, times = torch.randn(2, 3, 58, 58), torch.tensor([0.0, 1.0])
    before, after = torch.tensor([5]), torch.tensor([6, 7, 8])
    with torch.no_grad():
        logits = model(pixels, 3, before, after, times)
        features = model.vision(pixels).features
        visual = model.projectors(features, 3, times).reshape(1, 18, 48)
        words = model.language.embed_tokens(torch.cat((before, after)).unsqueeze(0))
        expected = model.language(torch.cat((words[:, :1], visual, words[:, 1:]), 1))
    assert logits.shape == (1, 22, 97)
    torch.testing.assert_close(logits, expected)


def test_checkpoint_gives_the_same_model_back(tmp_path: Path) -> None:
    model = _tiny_tallva().eval()
    save_checkpoint(tmp_path / "run", model)
    loaded = load_checkpoint(tmp_path / "run")
    assert loaded.config == model.config
    assert not loaded.training
    for key, value in model.state_dict().items():
        torch.testing.assert_close(loaded.state_dict()[key], value, atol=0, rtol=0)
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == [
        "config.json",
        "language.safetensors",
        "projectors.safetensors",
        "vision.safetensors",
    ]
