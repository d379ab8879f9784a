"""A checkpoint with random weights in the shapes people bring, for measuring speed and memory where none can be had.

    python -m tam_edge.export.full_size --out DIR --language 0.5B --vision so400m

The folder is what `save_pretrained` of LLaVA-OneVision leaves (transformers 4.57): bf16 safetensors in shards with
their index, config.json, preprocessor_config.json, tokenizer files. Written tensor by tensor, so that memory is that of
the largest one (7B: 1.1 GB). Random weights say nothing about accuracy.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from tam_edge.runtime.errors import UsageError

SHARD_BYTES = 1_000_000_000
"""A shard is closed when it has this many bytes."""
CONTROL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<image>", "<video>")
"""Ids from the end of the merged vocabulary on, as in the public checkpoints."""
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% for part in message['content'] | selectattr('type', 'equalto', 'image') %}<image>\n{% endfor %}"
    "{% for part in message['content'] | selectattr('type', 'equalto', 'video') %}<video>\n{% endfor %}"
    "{% for part in message['content'] | selectattr('type', 'equalto', 'text') %}{{ part['text'] }}{% endfor %}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


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


def write_checkpoint(
    out: Path, text: TextShape, vision: VisionShape, *, seed: int = 0, progress: Callable[[str], None] = lambda _: None
) -> None:
    """Write the folder; it appears whole or not at all.

    Raises:
        UsageError: `out` is there already.
    """
    if out.exists():
        raise UsageError(f"{out} is there already: name another folder")
    partial = out.resolve().with_name(f".{out.resolve().name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        _write_json(partial / "config.json", config(text, vision))
        _write_json(partial / "preprocessor_config.json", _preprocessor(vision))
        _write_json(partial / "tokenizer_config.json", _tokenizer_config())
        tokenizer(text.merged).save(str(partial / "tokenizer.json"))
        _write_weights(partial, shapes(text, vision), seed, progress)
        partial.replace(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def shapes(text: TextShape, vision: VisionShape) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Name and shape of every tensor, as transformers 4.57 stores them."""
    yield from _vision_shapes(vision)
    for name, (out, width) in {"linear_1": (text.width, vision.width), "linear_2": (text.width, text.width)}.items():
        yield f"multi_modal_projector.{name}.weight", (out, width)
        yield f"multi_modal_projector.{name}.bias", (out,)
    yield "image_newline", (text.width,)
    yield from _text_shapes(text)


def config(text: TextShape, vision: VisionShape) -> dict[str, Any]:
    """config.json."""
    image, video = (text.merged + CONTROL_TOKENS.index(name) for name in ("<image>", "<video>"))
    return {
        "architectures": ["LlavaOnevisionForConditionalGeneration"],
        "model_type": "llava_onevision",
        "image_token_index": image,
        "video_token_index": video,
        "image_grid_pinpoints": [[vision.image_px * a, vision.image_px * b] for a in range(1, 7) for b in range(1, 7)],
        "projector_hidden_act": "gelu",
        "tie_word_embeddings": text.tied,
        "torch_dtype": "bfloat16",
        "vision_aspect_ratio": "anyres_max_9",
        "vision_feature_layer": -1,
        "vision_feature_select_strategy": "full",
        "text_config": {
            "architectures": ["Qwen2ForCausalLM"],
            "model_type": "qwen2",
            "hidden_act": "silu",
            "hidden_size": text.width,
            "intermediate_size": text.ffn,
            "max_position_embeddings": 32768,
            "num_attention_heads": text.heads,
            "num_hidden_layers": text.layers,
            "num_key_value_heads": text.kv_heads,
            "rms_norm_eps": 1e-6,
            "rope_theta": 1_000_000.0,
            "tie_word_embeddings": text.tied,
            "vocab_size": text.rows,
        },
        "vision_config": {
            "model_type": "siglip_vision_model",
            "hidden_act": "gelu_pytorch_tanh",
            "hidden_size": vision.width,
            "image_size": vision.image_px,
            "intermediate_size": vision.ffn,
            "layer_norm_eps": 1e-6,
            "num_attention_heads": vision.heads,
            "num_hidden_layers": vision.layers,
            "patch_size": vision.patch_px,
            "vision_use_head": False,
        },
    }


def tokenizer(merged: int) -> Tokenizer:
    """Byte-level BPE with Qwen2's split and NFC step: every byte, then pairs and triples of bytes, `merged` in all."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges: list[tuple[str, str]] = []
    pairs = [(a, b) for a in alphabet for b in alphabet]
    triples = ((a + b, c) for a, b in pairs for c in alphabet)
    for source in (iter(pairs), triples):
        while len(alphabet) + len(merges) < merged and (pair := next(source, None)) is not None:
            merges.append(pair)
    vocabulary = {token: index for index, token in enumerate([*alphabet, *(a + b for a, b in merges)])}
    made = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    made.normalizer = normalizers.NFC()
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens([AddedToken(text, special=True) for text in CONTROL_TOKENS])
    return made


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


def _write_weights(
    folder: Path, named: Iterator[tuple[str, tuple[int, ...]]], seed: int, progress: Callable[[str], None]
) -> None:
    """Shards of whole tensors; how many there are is known at the end, so they get their names then."""
    drafts: list[list[str]] = []
    held: dict[str, torch.Tensor] = {}
    total = 0
    for name, shape in named:
        held[name] = _draw(name, shape, seed)
        total += held[name].nbytes
        if sum(tensor.nbytes for tensor in held.values()) >= SHARD_BYTES:
            drafts.append(_write_shard(folder, len(drafts), held, progress))
    if held:
        drafts.append(_write_shard(folder, len(drafts), held, progress))
    weight_map: dict[str, str] = {}
    for index, names in enumerate(drafts):
        file = f"model-{index + 1:05}-of-{len(drafts):05}.safetensors"
        (folder / f"{index}.draft").replace(folder / file)
        weight_map |= dict.fromkeys(names, file)
    index_json = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
    _write_json(folder / "model.safetensors.index.json", index_json)


def _write_shard(
    folder: Path, number: int, held: dict[str, torch.Tensor], progress: Callable[[str], None]
) -> list[str]:
    progress(f"shard {number + 1}: {sum(tensor.nbytes for tensor in held.values()) / 1e9:.2f} GB")
    save_file(held, folder / f"{number}.draft", metadata={"format": "pt"})
    names = list(held)
    held.clear()
    return names


def _draw(name: str, shape: tuple[int, ...], seed: int) -> torch.Tensor:
    """Values that keep activations near a standard deviation of 1; the same for a name whatever comes before it."""
    if len(shape) == 1 and "norm" in name and name.endswith("weight"):
        return torch.ones(shape, dtype=torch.bfloat16)
    key = int.from_bytes(hashlib.sha256(f"{seed} {name}".encode()).digest()[:7], "big")
    values = torch.empty(shape, dtype=torch.bfloat16)
    values.normal_(generator=torch.Generator().manual_seed(key))
    inputs = values[0].numel() if values.ndim > 1 else 2500  # biases: a fiftieth
    return values.mul_(inputs**-0.5)


def _preprocessor(vision: VisionShape) -> dict[str, Any]:
    return {
        "do_convert_rgb": True,
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "image_grid_pinpoints": [[vision.image_px * a, vision.image_px * b] for a in range(1, 7) for b in range(1, 7)],
        "image_mean": [0.5, 0.5, 0.5],
        "image_processor_type": "LlavaOnevisionImageProcessor",
        "image_std": [0.5, 0.5, 0.5],
        "resample": 3,
        "rescale_factor": 1 / 255,
        "size": {"height": vision.image_px, "width": vision.image_px},
    }


def _tokenizer_config() -> dict[str, Any]:
    return {
        "tokenizer_class": "Qwen2TokenizerFast",
        "chat_template": CHAT_TEMPLATE,
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "bos_token": None,
        "model_max_length": 32768,
        "clean_up_tokenization_spaces": False,
    }


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _main() -> None:
    parser = argparse.ArgumentParser(description="Write a checkpoint with random weights, for measuring.")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--language", choices=TEXT_SHAPES, default="0.5B")
    parser.add_argument("--vision", choices=VISION_SHAPES, default="so400m")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    try:
        write_checkpoint(
            asked.out, TEXT_SHAPES[asked.language], VISION_SHAPES[asked.vision], seed=asked.seed,
            progress=lambda what: print(what, file=sys.stderr, flush=True),
        )  # fmt: skip
    except UsageError as error:
        parser.error(str(error))


if __name__ == "__main__":
    _main()
