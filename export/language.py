"""The decoder as a GGUF file that llama.cpp runs, with the tokenizer it was trained with.

Qwen2's layout: llama.cpp takes the rotary halves as they are, so no row is permuted.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter, LlamaFileType, TokenType
from gguf.quants import quantize
from numpy.typing import NDArray
from torch import Tensor

from tam_edge.models.config import LanguageConfig
from tam_edge.models.language import LanguageModel

ARCHITECTURE = "qwen2"
"""Name by which llama.cpp knows the layout."""
PRE_TOKENIZER = "qwen2"
"""Name of the splitting rule, a digit a token."""
BLOCK_VALUES = 32
"""Values that share one scale in Q8_0; a row is a multiple of it or stays f16."""
BLOCK_BYTES = 32 * 1024**2
"""A matrix is converted so many bytes of float32 at a time."""
PROGRESS_PERCENT = 5
"""Progress is told in steps of so much."""
F16_MAX = 65504.0
"""Largest number that f16 can hold."""

Precision = Literal["f32", "f16", "bf16", "Q8_0"]
"""Number format of the weight matrices; norms and biases are always float32."""

_FILE_TYPES = {
    "f32": LlamaFileType.ALL_F32,
    "f16": LlamaFileType.MOSTLY_F16,
    "bf16": LlamaFileType.MOSTLY_BF16,
    "Q8_0": LlamaFileType.MOSTLY_Q8_0,
}
_QUANTISED = {"bf16": GGMLQuantizationType.BF16, "Q8_0": GGMLQuantizationType.Q8_0}
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


@dataclass(frozen=True, slots=True)
class TensorSource:
    """A tensor that is read when it is written."""

    shape: tuple[int, ...]
    """Its shape."""
    blocks: Callable[[int], Iterable[Tensor]]
    """Its values in float32, so many rows of the first axis at a time."""


def write_gguf(
    language: LanguageModel, tokenizer_file: Path, path: Path, *, precision: Precision, name: str, stop: str
) -> None:
    """Write a module's weights, sizes and vocabulary to `path`; arguments and errors as for `stream_gguf`."""
    tensors = {key: _held(value.detach().cpu().float()) for key, value in language.state_dict().items()}
    stream_gguf(tensors, language.config, tokenizer_file, path, precision=precision, name=name, stop=stop)


def stream_gguf(
    tensors: Mapping[str, TensorSource],
    config: LanguageConfig,
    tokenizer_file: Path,
    path: Path,
    *,
    precision: Precision,
    name: str,
    stop: str,
    progress: Callable[[str], None] = lambda _: None,
) -> None:
    """Write weights, sizes and vocabulary to `path`, holding one tensor at a time.

    Args:
        tensors: LanguageModel's tensors by name.
        config: sizes of the decoder.
        tokenizer_file: `tokenizers` file of its byte-level BPE.
        path: file to write.
        precision: number format of the weight matrices.
        name: name of the model, stored in the file.
        stop: token that ends an answer; it must be in the vocabulary.
        progress: told how much is written, every few per cent.

    Raises:
        ValueError: the tokenizer is no byte-level BPE, lacks `stop`, or has more tokens than the embedding table; a
            weight is too large for f16.
    """
    writer = GGUFWriter(path, ARCHITECTURE)
    writer.add_name(name)
    writer.add_file_type(_FILE_TYPES[precision])
    _add_sizes(writer, config)
    _add_vocabulary(writer, json.loads(tokenizer_file.read_text(encoding="utf-8")), config.vocab_size, stop)
    formats = {key: _stored_as(source.shape, precision) for key, source in tensors.items()}
    for key, source in tensors.items():
        empty = _empty(source.shape, formats[key])
        kind = _QUANTISED.get(formats[key])
        shape = source.shape if kind is None else empty.shape
        writer.add_tensor_info(gguf_name(key), shape, empty.dtype, empty.nbytes, raw_dtype=kind)
        del empty
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        whole, done, told = sum(_values(source) for source in tensors.values()), 0, -1
        for key, source in tensors.items():
            if (percent := 100 * done // whole) >= told + PROGRESS_PERCENT or told < 0:
                progress(f"{percent}%")
                told = percent
            writer.write_tensor_data(_encoded(key, source, formats[key]))
            done += _values(source)
    finally:
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


def _values(source: TensorSource) -> int:
    return math.prod(source.shape)


def _held(values: Tensor) -> TensorSource:
    return TensorSource(tuple(values.shape), lambda rows: values.split(rows))


def _stored_as(shape: tuple[int, ...], precision: Precision) -> Precision:
    if len(shape) == 1:
        return "f32"
    return "f16" if precision == "Q8_0" and shape[1] % BLOCK_VALUES else precision


def _empty(shape: tuple[int, ...], kind: Precision) -> NDArray[np.generic]:
    """Room for a tensor as it is stored; nothing is written to it, so it costs no memory yet."""
    if kind == "bf16":
        return np.empty((shape[0], 2 * shape[1]), np.uint8)
    if kind == "Q8_0":  # a float16 scale and 32 bytes
        return np.empty((shape[0], shape[1] // BLOCK_VALUES * (BLOCK_VALUES + 2)), np.uint8)
    return np.empty(shape, np.float16 if kind == "f16" else np.float32)


def _encoded(key: str, source: TensorSource, kind: Precision) -> NDArray[np.generic]:
    """The tensor as it is stored, converted block by block."""
    stored, done = _empty(source.shape, kind), 0
    row_values = math.prod(source.shape[1:])
    for block in source.blocks(max(1, BLOCK_BYTES // (4 * row_values))):
        values = block.numpy()
        if kind == "f16" and np.abs(values).max() > F16_MAX:
            raise ValueError(f"{key} holds weights above {F16_MAX:.0f}, the largest number of f16: take bf16 or f32")
        stored[done : done + len(values)] = quantize(values, _QUANTISED[kind]) if kind in _QUANTISED else values
        done += len(values)
    return stored
