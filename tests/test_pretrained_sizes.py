"""config.json as it is published, to the sizes and facts a bundle is made with; no weight is needed for that."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tam_edge.export.pretrained.folder import CheckpointFolder, StoredTensor
from tam_edge.export.pretrained.rules import output_tokens, routing_of, rules_for
from tam_edge.export.pretrained.sizes import CheckpointSizes, ladder_of, newline_tokens, read_sizes, upcycled
from tam_edge.models.config import FULL
from tam_edge.runtime.routing import TAM_ROUTING

LLAVA_VIDEO_7B: dict[str, Any] = {
    "architectures": ["LlavaQwenForCausalLM"],
    "hidden_act": "silu",
    "hidden_size": 3584,
    "image_aspect_ratio": "anyres_max_9",
    "image_grid_pinpoints": "(1x1),...,(6x6)",
    "intermediate_size": 18944,
    "max_position_embeddings": 32768,
    "mm_hidden_size": 1152,
    "mm_newline_position": "grid",
    "mm_patch_merge_type": "spatial_unpad",
    "mm_projector_type": "mlp2x_gelu",
    "mm_spatial_pool_mode": "average",
    "mm_vision_select_layer": -2,
    "mm_vision_tower": "google/siglip-so400m-patch14-384",
    "model_type": "llava",
    "num_attention_heads": 28,
    "num_hidden_layers": 28,
    "num_key_value_heads": 4,
    "rms_norm_eps": 1e-06,
    "rope_scaling": None,
    "rope_theta": 1000000.0,
    "tie_word_embeddings": False,
    "tokenizer_model_max_length": 32768,
    "use_sliding_window": False,
    "vocab_size": 152064,
}
"""The fields of a LLaVA-Video-7B config that matter here, from the seed's facts."""
ONEVISION_05B: dict[str, Any] = {
    "architectures": ["LlavaOnevisionForConditionalGeneration"],
    "image_token_index": 151646,
    "model_type": "llava_onevision",
    "projector_hidden_act": "gelu",
    "text_config": {
        "hidden_size": 896,
        "intermediate_size": 4864,
        "max_position_embeddings": 32768,
        "model_type": "qwen2",
        "num_attention_heads": 14,
        "num_hidden_layers": 24,
        "num_key_value_heads": 2,
        "rms_norm_eps": 1e-06,
        "rope_theta": 1000000.0,
        "tie_word_embeddings": True,
        "vocab_size": 152000,
    },
    "vision_aspect_ratio": "anyres_max_9",
    "vision_config": {
        "hidden_size": 1152,
        "image_size": 384,
        "intermediate_size": 4304,
        "model_type": "siglip_vision_model",
        "num_attention_heads": 14,
        "num_hidden_layers": 26,
        "patch_size": 14,
        "vision_use_head": False,
    },
    "vision_feature_layer": -1,
    "vision_feature_select_strategy": "full",
}
"""A LLaVA-OneVision-0.5B config as written before transformers 4.54: 14 heads that do not divide 1152."""


def sizes_of(config: dict[str, Any], **options: Any) -> CheckpointSizes:
    place = Path("model.safetensors")
    tensors = {
        "newline": StoredTensor(place, "image_newline", (3584,)),
        "vision.layers.0.mlp.fc1.weight": StoredTensor(place, "fc1", (4304, 1152)),
    }
    return read_sizes(CheckpointFolder(Path("checkpoint"), config, tensors), **options)


def test_llava_video_7b_has_the_papers_sizes() -> None:
    sizes = sizes_of(LLAVA_VIDEO_7B)
    config = sizes.config
    assert config.vision.layers == 26
    assert (config.vision.heads, config.vision.width, config.vision.mlp_width, config.vision.experts) == (
        16,
        1152,
        4304,
        1,
    )
    assert config.projector == FULL.projector
    assert (config.language.width, config.language.vocab_size, config.language.context) == (3584, 152064, 21000)
    assert not config.language.tied
    assert (sizes.newline, sizes.layout, sizes.says_time) == ("grid", "llava-next", True)
    assert len(sizes.resolutions) == 36
    assert sizes.max_tiles == 9
    assert sizes.notes == ("Frames are pooled bilinearly, at any grid; config.json says average.",)


def test_its_routing_is_the_papers() -> None:
    sizes = sizes_of(LLAVA_VIDEO_7B)
    routing = routing_of(sizes, TAM_ROUTING.tasks, TAM_ROUTING.confidence_threshold)
    assert routing == TAM_ROUTING
    context = sizes.config.language.context
    assert context - output_tokens(context) - routing.context_reserve_tokens == 17452


def test_onevision_half_a_billion() -> None:
    sizes = sizes_of(ONEVISION_05B)
    assert sizes.config.vision.heads == 16
    assert sizes.notes == ("The image encoder has 16 heads; config.json says 14, which do not divide 1152.",)
    assert (sizes.config.language.tied, sizes.config.language.vocab_size) == (True, 152000)
    assert (sizes.newline, sizes.says_time, sizes.config.projector.grids) == ("one", False, (27, 18, 14, 11))
    assert upcycled(sizes).config.vision.experts == 4
    assert [newline_tokens("one", grid) for grid in (27, 14)] == [729, 196]


@pytest.mark.parametrize(
    ("said", "merge", "newline"),
    [
        ("one_token", "spatial_unpad", "one"),
        ("one_token", "flat", "none"),
        ("no_token", "spatial_unpad", "none"),
        ("frame", "spatial_unpad", "frame"),
    ],
)
def test_line_breaks_are_the_configs(said: str, merge: str, newline: str) -> None:
    config = {**LLAVA_VIDEO_7B, "mm_newline_position": said, "mm_patch_merge_type": merge}
    assert sizes_of(config).newline == newline
    assert sizes_of(config, newline="grid").newline == "grid"


def test_an_image_is_cut_only_where_the_config_says_so() -> None:
    assert sizes_of({**LLAVA_VIDEO_7B, "image_aspect_ratio": "pad"}).resolutions == ()
    assert sizes_of({**LLAVA_VIDEO_7B, "image_aspect_ratio": "anyres_max_0"}).resolutions == ()
    older = sizes_of({**LLAVA_VIDEO_7B, "image_aspect_ratio": "anyres"})
    assert older.resolutions == ()
    assert "A single image is seen whole, without tiles; config.json says anyres." in older.notes


def test_tiles_between_two_ends_are_all_there() -> None:
    """As LLaVA-NeXT reads them: every height of the range with every width."""
    found = sizes_of({**LLAVA_VIDEO_7B, "image_grid_pinpoints": "(1x2),...,(2x3)"}).resolutions
    assert found == ((384, 768), (384, 1152), (768, 768), (768, 1152))


@given(st.integers(1, 60))
def test_a_ladder_falls_and_starts_at_the_side(side: int) -> None:
    grids = ladder_of(side)
    assert grids[0] == side
    assert math.ceil(side / 2) in grids
    assert all(small < large for large, small in pairwise(grids))


def test_a_ninth_task_type_brings_its_own_rule() -> None:
    ninth = TAM_ROUTING.tasks[0].model_copy(update={"name": "very-long-video"})
    rules = rules_for([*(rule.name for rule in TAM_ROUTING.tasks), "very-long-video"], [ninth])
    assert rules == (*TAM_ROUTING.tasks, ninth)
