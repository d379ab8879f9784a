"""The decoder as a GGUF file that llama.cpp runs, with the tokenizer it was trained with.

Qwen2's layout: llama.cpp takes the rotary halves as they are, so no row is permuted.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter, LlamaFileType, TokenType
from gguf.quants import quantize
from numpy.typing import NDArray

from tam_edge.models.config import LanguageConfig
from tam_edge.models.language import LanguageModel

ARCHITECTURE = "qwen2"
"""Name by which llama.cpp knows the layout."""
PRE_TOKENIZER = "qwen2"
"""Name of the splitting rule, a digit a token."""
BLOCK_VALUES = 32
"""Values that share one scale in Q8_0; a row is a multiple of it or stays f16."""

Precision = Literal["f16", "Q8_0"]
"""Number format of the weight matrices; norms and biases are always float32."""

_FILE_TYPES = {"f16": LlamaFileType.MOSTLY_F16, "Q8_0": LlamaFileType.MOSTLY_Q8_0}
_LAYER_NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}
_OUTER_NAMES = {"embed_tokens": "token_embd", "norm": "output_norm", "lm_head": "output"}


def write_gguf(
    language: LanguageModel, tokenizer_file: Path, path: Path, *, precision: Precision, name: str, stop: str
) -> None:
    """Write weights, sizes and vocabulary to `path`.

    Args:
        language: the decoder.
        tokenizer_file: `tokenizers` file of its byte-level BPE.
        path: file to write.
        precision: number format of the weight matrices.
        name: name of the model, stored in the file.
        stop: token that ends an answer; it must be in the vocabulary.

    Raises:
        ValueError: the tokenizer is no byte-level BPE, lacks `stop`, or has more tokens than the embedding table.
    """
    writer = GGUFWriter(path, ARCHITECTURE)
    writer.add_name(name)
    writer.add_file_type(_FILE_TYPES[precision])
    _add_sizes(writer, language.config)
    _add_vocabulary(writer, json.loads(tokenizer_file.read_text(encoding="utf-8")), language.config.vocab_size, stop)
    for key, values in language.state_dict().items():
        _add_tensor(writer, gguf_name(key), values.detach().cpu().float().numpy(), precision)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def gguf_name(key: str) -> str:
    """llama.cpp's name of one of LanguageModel's tensors.

    Raises:
        KeyError: LanguageModel has no such tensor.
    """
    module, kind = key.rsplit(".", 1)
    if not module.startswith("layers."):
        return f"{_OUTER_NAMES[module]}.{kind}"
    _, index, inner = module.split(".", 2)
    return f"blk.{index}.{_LAYER_NAMES[inner]}.{kind}"


def _add_sizes(writer: GGUFWriter, config: LanguageConfig) -> None:
    writer.add_context_length(config.context)
    writer.add_embedding_length(config.width)
    writer.add_block_count(config.layers)
    writer.add_feed_forward_length(config.ffn_width)
    writer.add_head_count(config.heads)
    writer.add_head_count_kv(config.kv_heads)
    writer.add_rope_freq_base(config.rope_theta)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)


def _add_vocabulary(writer: GGUFWriter, tokenizer: dict[str, Any], size: int, stop: str) -> None:
    if tokenizer["model"]["type"] != "BPE":
        raise ValueError(f"the tokenizer is {tokenizer['model']['type']}, not byte-level BPE")
    names = {index: token for token, index in tokenizer["model"]["vocab"].items()}
    kinds = dict.fromkeys(names, TokenType.NORMAL)
    for added in tokenizer["added_tokens"]:
        names[added["id"]] = added["content"]
        kinds[added["id"]] = TokenType.CONTROL if added["special"] else TokenType.USER_DEFINED
    if max(names) >= size:
        raise ValueError(f"the tokenizer has ids up to {max(names)}, the embedding table {size} rows")
    ends = [index for index, token in names.items() if token == stop]
    if not ends:
        raise ValueError(f"the tokenizer lacks the stop token {stop!r}")
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(PRE_TOKENIZER)
    # Checkpoints pad the embedding table; llama.cpp wants a name for every row.
    writer.add_token_list([names.get(index, f"[PAD{index}]") for index in range(size)])
    writer.add_token_types([kinds.get(index, TokenType.UNUSED) for index in range(size)])
    writer.add_token_merges(list(_merges(tokenizer["model"]["merges"])))
    writer.add_eos_token_id(ends[0])
    writer.add_add_bos_token(False)


def _merges(merges: list[str] | list[list[str]]) -> Iterator[str]:
    for merge in merges:
        yield merge if isinstance(merge, str) else " ".join(merge)


def _add_tensor(writer: GGUFWriter, name: str, values: NDArray[np.float32], precision: Precision) -> None:
    if values.ndim == 1:
        writer.add_tensor(name, values)
    elif precision == "Q8_0" and values.shape[1] % BLOCK_VALUES == 0:
        quantised = quantize(values, GGMLQuantizationType.Q8_0)
        writer.add_tensor(name, quantised, raw_dtype=GGMLQuantizationType.Q8_0)
    else:
        writer.add_tensor(name, values.astype(np.float16))
