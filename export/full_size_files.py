"""The files around the weights of a checkpoint of full size: config.json, the processor's, the tokenizer."""

from __future__ import annotations

from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from tam_edge.export.full_size_shapes import TextShape, VisionShape
from tam_edge.export.pretrained.sizes import Layout

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


def config(text: TextShape, vision: VisionShape, layout: Layout) -> dict[str, Any]:
    """config.json: LlavaOnevisionConfig, or LLaVA-Video's with line breaks after every row."""
    if layout == "llava-next":
        return {
            "architectures": ["LlavaQwenForCausalLM"],
            **_text(text),
            "model_type": "llava",
            "image_aspect_ratio": "anyres_max_9",
            "image_grid_pinpoints": "(1x1),...,(6x6)",
            "mm_hidden_size": vision.width,
            "mm_newline_position": "grid",
            "mm_patch_merge_type": "spatial_unpad",
            "mm_projector_type": "mlp2x_gelu",
            "mm_vision_tower": "siglip",
            "vision_config": _vision(vision, vision.layers + 1),  # LLaVA drops the last block
        }
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
        "text_config": {"architectures": ["Qwen2ForCausalLM"], **_text(text)},
        "vision_config": _vision(vision, vision.layers),
    }


def preprocessor(vision: VisionShape) -> dict[str, Any]:
    """preprocessor_config.json."""
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


def tokenizer_config(layout: Layout) -> dict[str, Any]:
    """tokenizer_config.json; LLaVA-NeXT's conversation is in its code."""
    return {
        "tokenizer_class": "Qwen2TokenizerFast",
        **({} if layout == "llava-next" else {"chat_template": CHAT_TEMPLATE}),
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "bos_token": None,
        "model_max_length": 32768,
        "clean_up_tokenization_spaces": False,
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


def _text(text: TextShape) -> dict[str, Any]:
    return {
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
    }


def _vision(vision: VisionShape, layers: int) -> dict[str, Any]:
    return {
        "model_type": "siglip_vision_model",
        "hidden_act": "gelu_pytorch_tanh",
        "hidden_size": vision.width,
        "image_size": vision.image_px,
        "intermediate_size": vision.ffn,
        "layer_norm_eps": 1e-6,
        "num_attention_heads": vision.heads,
        "num_hidden_layers": layers,
        "patch_size": vision.patch_px,
        "vision_use_head": False,
    }
