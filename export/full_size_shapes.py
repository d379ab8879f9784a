"""Sizes of the models people bring, and every tensor of their checkpoints in both public layouts, without a weight."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from tam_edge.export.pretrained.sizes import Layout


@dataclass(frozen=True, slots=True)
class TextShape:
    """Sizes of a Qwen2 decoder."""

    width: int
    layers: int
    heads: int
    kv_heads: int
    ffn: int
    merged: int
    """Tokens made of bytes and merges; control tokens come after them."""
    rows: int
    """Rows of the embedding table, padded."""
    tied: bool
    """Whether the table is the head too."""


@dataclass(frozen=True, slots=True)
class VisionShape:
    """Sizes of a SigLIP encoder."""

    width: int
    layers: int
    heads: int
    ffn: int
    image_px: int
    patch_px: int


TEXT_SHAPES = {
    "tiny": TextShape(32, 2, 4, 2, 64, 300, 320, True),
    "0.5B": TextShape(896, 24, 14, 2, 4864, 151_643, 152_000, True),
    "7B": TextShape(3584, 28, 28, 4, 18944, 151_643, 152_128, False),
}
"""Language models by name; tiny is for tests."""
VISION_SHAPES = {
    "tiny": VisionShape(32, 2, 4, 64, 56, 14),
    "so400m": VisionShape(1152, 26, 16, 4304, 384, 14),
}
"""Encoders by name."""
_LLAVA_NEXT = {
    r"^vision_tower\.": "model.vision_tower.vision_tower.",
    r"^multi_modal_projector\.linear_1\.": "model.mm_projector.0.",
    r"^multi_modal_projector\.linear_2\.": "model.mm_projector.2.",
    r"^image_newline$": "model.image_newline",
    r"^language_model\.model\.": "model.",
    r"^language_model\.lm_head\.": "lm_head.",
}


def shapes(text: TextShape, vision: VisionShape) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Name and shape of every tensor, as transformers 4.57 stores them."""
    yield from _vision_shapes(vision)
    for name, (out, width) in {"linear_1": (text.width, vision.width), "linear_2": (text.width, text.width)}.items():
        yield f"multi_modal_projector.{name}.weight", (out, width)
        yield f"multi_modal_projector.{name}.bias", (out,)
    yield "image_newline", (text.width,)
    yield from _text_shapes(text)


def stored_name(name: str, layout: Layout) -> str:
    """What a tensor that `shapes` names is called in files of `layout`."""
    if layout == "llava-next":
        for pattern, theirs in _LLAVA_NEXT.items():
            name, found = re.subn(pattern, theirs, name)
            if found:
                break
    return name


def _vision_shapes(vision: VisionShape) -> Iterator[tuple[str, tuple[int, ...]]]:
    prefix, width = "vision_tower.vision_model", vision.width
    patches = (vision.image_px // vision.patch_px) ** 2
    yield f"{prefix}.embeddings.patch_embedding.weight", (width, 3, vision.patch_px, vision.patch_px)
    yield f"{prefix}.embeddings.patch_embedding.bias", (width,)
    yield f"{prefix}.embeddings.position_embedding.weight", (patches, width)
    linears = {f"self_attn.{part}_proj": (width, width) for part in ("q", "k", "v", "out")}
    linears |= {"mlp.fc1": (vision.ffn, width), "mlp.fc2": (width, vision.ffn)}
    for layer in range(vision.layers):
        for name, shape in linears.items():
            yield f"{prefix}.encoder.layers.{layer}.{name}.weight", shape
            yield f"{prefix}.encoder.layers.{layer}.{name}.bias", shape[:1]
        for norm in ("layer_norm1", "layer_norm2"):
            yield f"{prefix}.encoder.layers.{layer}.{norm}.weight", (width,)
            yield f"{prefix}.encoder.layers.{layer}.{norm}.bias", (width,)
    yield f"{prefix}.post_layernorm.weight", (width,)
    yield f"{prefix}.post_layernorm.bias", (width,)


def _text_shapes(text: TextShape) -> Iterator[tuple[str, tuple[int, ...]]]:
    width, kv = text.width, text.width // text.heads * text.kv_heads
    yield "language_model.model.embed_tokens.weight", (text.rows, width)
    for layer in range(text.layers):
        prefix = f"language_model.model.layers.{layer}"
        for part, out in (("q", width), ("k", kv), ("v", kv)):
            yield f"{prefix}.self_attn.{part}_proj.weight", (out, width)
            yield f"{prefix}.self_attn.{part}_proj.bias", (out,)
        yield f"{prefix}.self_attn.o_proj.weight", (width, width)
        yield f"{prefix}.mlp.gate_proj.weight", (text.ffn, width)
        yield f"{prefix}.mlp.up_proj.weight", (text.ffn, width)
        yield f"{prefix}.mlp.down_proj.weight", (width, text.ffn)
        yield f"{prefix}.input_layernorm.weight", (width,)
        yield f"{prefix}.post_attention_layernorm.weight", (width,)
    yield "language_model.model.norm.weight", (width,)
    if not text.tied:
        yield "language_model.lm_head.weight", (text.rows, width)
