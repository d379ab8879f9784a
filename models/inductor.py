"""The Inductor: a small text model that reads a question and says which of the eight task types it asks for (TAM 3.2).

It is a Llama-style decoder with a sequence-classification head, the layout of SmolLM2-135M-Instruct fine-tuned as in
the paper, so that a checkpoint of that size and the nano one are the same class with another config.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from transformers import LlamaConfig, LlamaForSequenceClassification

from tam_edge.runtime.routing import TAM_ROUTING

TASKS = tuple(rule.name for rule in TAM_ROUTING.tasks)
"""Task types in index order: label 0 of the head is type 1 of the paper's Table 7."""


@dataclass(frozen=True, slots=True)
class InductorConfig:
    """Sizes of one Inductor."""

    vocab_size: int
    """Rows of the token table."""

    width: int
    """Width of the residual stream."""

    layers: int
    """Decoder blocks."""

    heads: int
    """Query heads per block."""

    kv_heads: int
    """Key and value heads per block; divides `heads`."""

    ffn_width: int
    """Hidden width of the gated MLP."""

    max_tokens: int
    """Longest question in tokens, end token included."""

    pad_id: int
    """Token that fills a batch up; the head reads the last token that is not this one."""

    rope_theta: float = 10_000.0
    """Base of the rotary position code."""

    def __post_init__(self) -> None:
        if self.width % self.heads or self.heads % self.kv_heads:
            raise ValueError(f"width {self.width}, heads {self.heads} and kv_heads {self.kv_heads} do not divide")
        if not 0 <= self.pad_id < self.vocab_size:
            raise ValueError(f"pad_id {self.pad_id} is outside the vocabulary of {self.vocab_size}")


SMOLLM2_135M = InductorConfig(49_152, 576, 30, 9, 3, 1536, max_tokens=8192, pad_id=2, rope_theta=100_000.0)
"""The paper's Inductor: 134.5M parameters, 106M of them outside the token table."""

NANO = InductorConfig(3072, 128, 2, 4, 2, 384, max_tokens=128, pad_id=0)
"""The Inductor of the bundle that ships: trained from nothing on a CPU in minutes."""


def build_inductor(config: InductorConfig, tasks: tuple[str, ...] = TASKS) -> LlamaForSequenceClassification:
    """A freshly initialised Inductor: input_ids, attention_mask int64 [B, L] -> logits [B, len(tasks)]."""
    llama = LlamaConfig(
        vocab_size=config.vocab_size,
        hidden_size=config.width,
        num_hidden_layers=config.layers,
        num_attention_heads=config.heads,
        num_key_value_heads=config.kv_heads,
        intermediate_size=config.ffn_width,
        max_position_embeddings=config.max_tokens,
        rope_theta=config.rope_theta,
        rms_norm_eps=1e-5,
        tie_word_embeddings=False,
        use_cache=False,
        pad_token_id=config.pad_id,
        bos_token_id=None,
        eos_token_id=None,
        id2label=dict(enumerate(tasks)),
        label2id={name: index for index, name in enumerate(tasks)},
    )
    return LlamaForSequenceClassification(llama)


def load_inductor(folder: str | Path) -> LlamaForSequenceClassification:
    """The Inductor in `folder` (config.json and model.safetensors), in evaluation mode, never from the network."""
    model: LlamaForSequenceClassification = LlamaForSequenceClassification.from_pretrained(
        Path(folder), local_files_only=True, use_safetensors=True
    )
    model.eval()
    return model


def top_tasks(logits: np.ndarray) -> NDArray[np.intp]:
    """Index of the likeliest task type per question, [B, tasks] -> [B]; of equal ones the lowest index."""
    return np.asarray(np.argmax(logits, axis=-1))
