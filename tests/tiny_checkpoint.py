"""Tiny random checkpoints: weights made by transformers, saved as it saves them, keys renamed into each public layout.

Weights are scaled so that features and logits have a standard deviation of at least 1 and another activation, layer or
epsilon shows: hidden states of the MLPs are large, what enters the first norms is small.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import save_file
from tiny_bundle import language_tokenizer
from tokenizers import AddedToken, Tokenizer
from torch import Tensor, nn
from transformers import LlavaOnevisionConfig, LlavaOnevisionForConditionalGeneration, Qwen2Config, SiglipVisionConfig

Layout = Literal["A", "B", "C", "D"]
"""seed: LLaVA-NeXT's files, Hugging Face's files, its modules since 4.52, those of 5.x."""

IMAGE_PX, PATCH_PX, SIDE = 100, 14, 7
"""A 7x7 grid with 2 px left over at the edge, as so400m has 6; 7 pools to 4 as 27 does to 14."""
GRIDS = (7, 5, 4, 3)
VISION_LAYERS, TEXT_LAYERS, VOCABULARY = 3, 3, 384
CHAT = (
    "{% for message in messages %}<|im_start|>{{ message['role'] + '\n' }}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>\n' }}{% endfor %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'video') %}{{ '<video>\n' }}{% endfor %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}{{ content['text'] }}{% endfor %}"
    "{{ '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""What the converter of transformers writes."""


def tiny_config(*, tied: bool = False, vision_layers: int = VISION_LAYERS, **changes: Any) -> LlavaOnevisionConfig:
    """Sizes of the tiny model; `changes` replace fields of the outer config."""
    vision = SiglipVisionConfig(
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=vision_layers,
        num_attention_heads=4,
        image_size=IMAGE_PX,
        patch_size=PATCH_PX,
        vision_use_head=False,
    )
    text = Qwen2Config(
        vocab_size=VOCABULARY,  # the tokenizer has fewer: a padded table
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=TEXT_LAYERS,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=4096,
        rope_theta=5000.0,
        tie_word_embeddings=tied,
        bos_token_id=None,
        eos_token_id=checkpoint_tokenizer().token_to_id("<|im_end|>"),
    )
    points = [[IMAGE_PX * i, IMAGE_PX * j] for i in range(1, 4) for j in range(1, 4)]
    fields = {"image_grid_pinpoints": points, "vision_aspect_ratio": "anyres_max_4"} | changes
    ids = [checkpoint_tokenizer().token_to_id(token) for token in ("<image>", "<video>")]
    return LlavaOnevisionConfig(
        vision, text, image_token_index=ids[0], video_token_index=ids[1], tie_word_embeddings=tied, **fields
    )


def checkpoint_tokenizer() -> Tokenizer:
    """Qwen2's kind of tokenizer with the two tokens that the converter adds."""
    tokenizer = language_tokenizer()
    tokenizer.add_special_tokens([AddedToken("<video>", special=True)])
    return tokenizer


def tiny_model(config: LlavaOnevisionConfig | None = None, seed: int = 3) -> LlavaOnevisionForConditionalGeneration:
    """The reference: random, rough, float32."""
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    model = LlavaOnevisionForConditionalGeneration(config or tiny_config()).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            _draw(name, parameter)
    model.tie_weights()
    return model


def _draw(name: str, parameter: nn.Parameter) -> None:
    if "norm" in name:
        parameter.normal_(std=0.3)
        if name.endswith("weight"):
            parameter.add_(1.0)
    elif "image_newline" in name:
        parameter.normal_(std=1.0)
    elif "lm_head" in name:
        parameter.normal_(std=0.5)
    elif "embed" in name:  # small: what the first norms divide by
        parameter.normal_(std=0.02)
    elif parameter.ndim < 2:
        parameter.normal_(std=0.5)
    else:
        big = 3.0 if name.endswith(("fc2.weight", "linear_2.weight", "down_proj.weight")) else 1.5
        big = 0.2 if "linear_1" in name else big  # the two GELUs differ where what enters them is about 1
        parameter.normal_(std=big * parameter[0].numel() ** -0.5)


def save_checkpoint(
    folder: Path,
    model: LlavaOnevisionForConditionalGeneration,
    layout: Layout = "B",
    *,
    dtype: torch.dtype = torch.float32,
    shards: int = 1,
    newline: str = "one_token",
    change: Mapping[str, Tensor | None] | None = None,
) -> Path:
    """Write the model as a checkpoint folder.

    Args:
        folder: place to write.
        model: the reference.
        layout: key names, and whose config.json.
        dtype: number format of the weights.
        shards: safetensors files.
        newline: LLaVA-NeXT's mm_newline_position, in layout A.
        change: stored tensors by their stored name to replace, or (None) to leave out.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {renamed(key, layout): value.to(dtype).contiguous().clone() for key, value in stored(model).items()}
    for key, value in (change or {}).items():
        if value is None:
            del tensors[key]
        else:
            tensors[key] = value
    _save_weights(folder, tensors, shards)
    config = next_config(model.config, newline) if layout == "A" else model.config.to_dict()
    (folder / "config.json").write_text(json.dumps(config))
    tokenizer = checkpoint_tokenizer()
    tokenizer.save(str(folder / "tokenizer.json"))
    chat = {} if layout == "A" else {"chat_template": CHAT}
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<|im_end|>", **chat}))
    if layout != "A":
        size = {"height": IMAGE_PX, "width": IMAGE_PX}
        pixels = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "rescale_factor": 1 / 255, "resample": 3}
        (folder / "preprocessor_config.json").write_text(json.dumps({"size": size, **pixels}))
    return folder


def stored(model: LlavaOnevisionForConditionalGeneration) -> dict[str, Tensor]:
    """The tensors as modules since 4.52 call them; a tied head is not stored."""
    tensors = dict(model.state_dict())
    if model.config.text_config.tie_word_embeddings:
        del tensors["lm_head.weight"]
    return tensors


def renamed(key: str, layout: Layout) -> str:
    """A key of layout C in another layout, literally from the table of the seed."""
    rules: dict[Layout, list[tuple[str, str]]] = {
        "A": [
            (r"^model\.vision_tower\.vision_model\.", "model.vision_tower.vision_tower.vision_model."),
            (r"^model\.multi_modal_projector\.linear_1\.", "model.mm_projector.0."),
            (r"^model\.multi_modal_projector\.linear_2\.", "model.mm_projector.2."),
            (r"^model\.language_model\.", "model."),
        ],
        "B": [
            (r"^model\.language_model\.", "language_model.model."),
            (r"^lm_head\.", "language_model.lm_head."),
            (r"^model\.", ""),
        ],
        "C": [],
        "D": [(r"^model\.vision_tower\.vision_model\.", "model.vision_tower.")],
    }
    for pattern, replacement in rules[layout]:
        key, changed = re.subn(pattern, replacement, key)
        if changed and layout == "B":
            break
    return key


def next_config(config: LlavaOnevisionConfig, newline: str) -> dict[str, Any]:
    """LLaVA-NeXT's config.json for the same model; the encoder, unlike the published ones, is described and not named.

    Its count of blocks is that before LLaVA drops the last one.
    """
    vision = config.vision_config.to_dict()
    vision["num_hidden_layers"] += 1
    return {
        **config.text_config.to_dict(),
        "model_type": "llava",
        "architectures": ["LlavaQwenForCausalLM"],
        "mm_vision_tower": "tiny/siglip",
        "mm_projector_type": "mlp2x_gelu",
        "mm_patch_merge_type": "spatial_unpad",
        "mm_spatial_pool_mode": "bilinear",
        "mm_newline_position": newline,
        "mm_hidden_size": vision["hidden_size"],
        "mm_vision_select_layer": -2,
        "image_aspect_ratio": config.vision_aspect_ratio,
        "image_grid_pinpoints": config.image_grid_pinpoints,
        "add_time_instruction": False,
        "vision_config": vision,
    }


def _save_weights(folder: Path, tensors: dict[str, Tensor], shards: int) -> None:
    if shards == 1:
        save_file(tensors, folder / "model.safetensors")
        return
    names = {f"model-{i + 1:05}-of-{shards:05}.safetensors": list(tensors)[i::shards] for i in range(shards)}
    for name, keys in names.items():
        save_file({key: tensors[key] for key in keys}, folder / name)
    places = {key: name for name, keys in names.items() for key in keys}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
