"""The decoder of a GGUF file as a module again, so that it can learn on: the way back from `language.py`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from gguf import GGUFReader

from tam_edge.export.language import ARCHITECTURE, gguf_name
from tam_edge.models.config import LanguageConfig
from tam_edge.models.language import LanguageModel
from tam_edge.runtime.errors import UsageError

READABLE = ("F16", "F32")
"""Number formats that are read; what is smaller has lost too much to learn on."""


def read_language(path: Path) -> LanguageModel:
    """The module whose weights a GGUF file holds.

    Raises:
        UsageError: it is no such file of Qwen2's layout, or its weights are quantised.
    """
    try:
        reader = GGUFReader(path)
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} cannot be read as GGUF ({error}): make the bundle again") from None
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    small = sorted({tensor.tensor_type.name for tensor in tensors.values()} - set(READABLE))
    if small:
        raise UsageError(f"{path.name} holds {', '.join(small)}: only f16 and f32 can learn on, so tune, then quantise")
    try:
        language = LanguageModel(_sizes(reader, tensors))
        values = {key: torch.from_numpy(tensors[gguf_name(key)].data.copy()) for key in language.state_dict()}
        language.load_state_dict(values)
    except (KeyError, RuntimeError, ValueError) as error:
        raise UsageError(f"{path.name} is no decoder of Qwen2's layout ({_first_line(error)})") from None
    return language.eval()


def _sizes(reader: GGUFReader, tensors: dict[str, Any]) -> LanguageConfig:
    def fact(name: str) -> Any:
        field = reader.get_field(f"{ARCHITECTURE}.{name}")
        if field is None:
            raise KeyError(f"{ARCHITECTURE}.{name}")
        return field.contents()

    return LanguageConfig(
        vocab_size=tensors["token_embd.weight"].data.shape[0],
        width=fact("embedding_length"),
        layers=fact("block_count"),
        heads=fact("attention.head_count"),
        kv_heads=fact("attention.head_count_kv"),
        ffn_width=fact("feed_forward_length"),
        rope_theta=fact("rope.freq_base"),
        tied="output.weight" not in tensors,
        context=fact("context_length"),
        rms_norm_eps=fact("attention.layer_norm_rms_epsilon"),
    )


def _first_line(error: Exception) -> str:
    return str(error).strip("'\"").splitlines()[0]
