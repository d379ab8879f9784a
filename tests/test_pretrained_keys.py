"""Whatever layout a checkpoint is in, a tensor has one name, which is that of the module it belongs to."""

from __future__ import annotations

import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from rough_models import TINY
from tiny_checkpoint import Layout, renamed

from tam_edge.export.pretrained.keys import canonical_key
from tam_edge.models.tallva import TallVA

LAYOUTS: tuple[Layout, ...] = ("A", "B", "C", "D")
VISION = "model.vision_tower.vision_model."
BLOCK = [
    f"{part}.{kind}" for part in ("layer_norm1", "layer_norm2", "mlp.fc1", "mlp.fc2") for kind in ("weight", "bias")
]
BLOCK += [f"self_attn.{part}_proj.{kind}" for part in ("q", "k", "v", "out") for kind in ("weight", "bias")]
DECODER = [f"self_attn.{part}_proj.{kind}" for part in "qkv" for kind in ("weight", "bias")]
DECODER += ["self_attn.o_proj.weight", "input_layernorm.weight", "post_attention_layernorm.weight"]
DECODER += [f"mlp.{part}_proj.weight" for part in ("gate", "up", "down")]
OUTER = {
    f"{VISION}embeddings.patch_embedding.weight": "vision.patch_embedding.weight",
    f"{VISION}embeddings.patch_embedding.bias": "vision.patch_embedding.bias",
    f"{VISION}embeddings.position_embedding.weight": "vision.position_embedding.weight",
    "model.multi_modal_projector.linear_1.weight": "projector.linear_1.weight",
    "model.multi_modal_projector.linear_2.bias": "projector.linear_2.bias",
    "model.image_newline": "newline",
    "model.language_model.embed_tokens.weight": "language.embed_tokens.weight",
    "model.language_model.norm.weight": "language.norm.weight",
    "lm_head.weight": "language.lm_head.weight",
}
layouts = st.sampled_from(LAYOUTS)
layers = st.integers(0, 99)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("key", OUTER)
def test_outer_tensors_have_one_name(key: str, layout: Layout) -> None:
    assert canonical_key(renamed(key, layout)) == OUTER[key]


@given(layouts, layers, st.sampled_from(BLOCK))
def test_vision_blocks_have_one_name(layout: Layout, layer: int, part: str) -> None:
    key = renamed(f"{VISION}encoder.layers.{layer}.{part}", layout)
    assert canonical_key(key) == f"vision.layers.{layer}.{part}"


@given(layouts, layers, st.sampled_from(DECODER))
def test_decoder_blocks_have_one_name(layout: Layout, layer: int, part: str) -> None:
    key = renamed(f"model.language_model.layers.{layer}.{part}", layout)
    assert canonical_key(key) == f"language.layers.{layer}.{part}"


@given(layouts, layers, st.integers(0, 7), st.booleans())
def test_experts_have_one_name(layout: Layout, layer: int, expert: int, inside: bool) -> None:
    block = f"{VISION}encoder.layers.{layer}.{'mlp.' if inside else ''}"
    key = renamed(f"{block}experts.{expert}.fc1.weight", layout)
    assert canonical_key(key) == f"vision.layers.{layer}.mlp.experts.{expert}.fc1.weight"
    assert canonical_key(renamed(f"{block}gate.weight", layout)) == f"vision.layers.{layer}.mlp.gate.weight"


@given(layouts, layers)
def test_what_is_never_used_is_left_out(layout: Layout, layer: int) -> None:
    for key in (
        f"{VISION}post_layernorm.weight",
        f"{VISION}head.attention.in_proj_weight",
        f"{VISION}embeddings.position_ids",
        f"model.language_model.layers.{layer}.self_attn.rotary_emb.inv_freq",
        "model.vision_resampler.proj.weight",
        "model.faster_token",
    ):
        assert canonical_key(renamed(key, layout)) is None


@given(st.text(alphabet="abz.", min_size=1).filter(lambda key: not re.search(r"^(model\.)?(layers|norm|lm_head)", key)))
def test_anything_else_is_unknown_and_keeps_its_name(key: str) -> None:
    assert canonical_key(key) == f"unknown.{key}"


@given(layouts, st.data())
def test_two_tensors_never_share_a_name(layout: Layout, data: st.DataObject) -> None:
    keys = st.one_of(
        st.sampled_from(list(OUTER)),
        st.builds(lambda i, part: f"{VISION}encoder.layers.{i}.{part}", layers, st.sampled_from(BLOCK)),
        st.builds(lambda i, part: f"model.language_model.layers.{i}.{part}", layers, st.sampled_from(DECODER)),
    )
    one, other = data.draw(keys), data.draw(keys)
    same = canonical_key(renamed(one, layout)) == canonical_key(renamed(other, layout))
    assert same == (one == other)


def test_names_are_those_of_the_modules() -> None:
    with torch.device("meta"):
        model = TallVA(TINY)
    assert set(model.vision.blocks[0].state_dict()) >= {"layer_norm1.weight", "mlp.gate.weight"}
    ours = {f"language.{key}" for key in model.language.state_dict()}
    assert {f"language.layers.0.{part}" for part in DECODER} < ours
