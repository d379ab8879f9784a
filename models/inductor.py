"""The Inductor: a small text model that reads a question and says which of the eight task types it asks for (TAM 3.2).

A pre-trained body (a BERT-style encoder such as all-MiniLM-L6-v2, or the paper's Llama-style SmolLM2-135M) reads the
tokens, its last states are pooled into one vector, and a bias-free matrix makes a logit per task type of it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoConfig, BertConfig, BertModel, LlamaConfig, LlamaModel, PretrainedConfig, PreTrainedModel

from tam_edge.runtime.errors import UsageError
from tam_edge.runtime.routing import TAM_ROUTING

TASKS = tuple(rule.name for rule in TAM_ROUTING.tasks)
"""Task types in index order: label 0 of the head is type 1 of the paper's Table 7."""

Pooling = Literal["mean", "last"]
"""How token states become one vector: their mean, or the last token's, which alone has read the whole question."""

WEIGHTS_FILE, CONFIG_FILE, HEAD_FILE = "model.safetensors", "config.json", "inductor.json"
"""What a saved Inductor consists of: all weights, the body's sizes in Hugging Face layout, and what the head is."""


class QuestionClassifier(nn.Module):
    """input_ids, attention_mask int64 [B, L], padded on the right -> logits [B, tasks] and features [B, 2 * width].

    The features are the pooled last states, which the head reads, and beside them the pooled states of the middle
    layer, which know less about the task types and more about the words: a ninth type is recognised by both.
    """

    def __init__(self, body: PreTrainedModel, tasks: tuple[str, ...] = TASKS, *, max_tokens: int) -> None:
        """Put a head on `body`; `max_tokens` is the longest question, start and end tokens included."""
        super().__init__()
        self.body, self.tasks, self.max_tokens = body, tasks, max_tokens
        self.pooling: Pooling = "mean" if isinstance(body.config, BertConfig) else "last"
        self.head = nn.Linear(int(body.config.hidden_size), len(tasks), bias=False)
        nn.init.normal_(self.head.weight, std=0.02)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Logits [B, tasks] and features [B, 2 * width]."""
        states = self.body(input_ids=input_ids, attention_mask=attention_mask, output_hidden_states=True).hidden_states
        last = self._pooled(states[-1], attention_mask)
        middle = self._pooled(states[len(states) // 2], attention_mask)
        return self.head(last), torch.cat([last, middle], dim=-1)

    def _pooled(self, states: Tensor, mask: Tensor) -> Tensor:  # [B, L, width] -> [B, width]
        if self.pooling == "last":
            return states[torch.arange(states.shape[0], device=states.device), mask.sum(dim=1) - 1]
        weights = mask.unsqueeze(-1).to(states.dtype)
        return (states * weights).sum(dim=1) / weights.sum(dim=1)


def new_body(config: PretrainedConfig) -> PreTrainedModel:
    """A freshly initialised body of these sizes.

    Raises:
        UsageError: neither BERT- nor Llama-style.
    """
    config._attn_implementation = "eager"  # questions are short: nothing to win, and every exporter knows it
    if isinstance(config, BertConfig):
        return BertModel(config, add_pooling_layer=False)
    if isinstance(config, LlamaConfig):
        config.use_cache = False
        return LlamaModel(config)
    raise UsageError(f"a {config.model_type} model cannot be an Inductor's body: take a bert or a llama checkpoint")


def save_inductor(model: QuestionClassifier, folder: Path) -> None:
    """Write weights, sizes and task names into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, folder / WEIGHTS_FILE)
    model.body.config.to_json_file(folder / CONFIG_FILE)
    head = {"tasks": model.tasks, "pooling": model.pooling, "max_tokens": model.max_tokens}
    (folder / HEAD_FILE).write_text(json.dumps(head, indent=1) + "\n", encoding="utf-8")


def load_inductor(folder: str | Path) -> QuestionClassifier:
    """The Inductor saved in `folder`, in evaluation mode, never from the network.

    Raises:
        FileNotFoundError: a file is missing.
    """
    root = Path(folder)
    head = json.loads((root / HEAD_FILE).read_text(encoding="utf-8"))
    body = new_body(AutoConfig.from_pretrained(root, local_files_only=True))
    model = QuestionClassifier(body, tuple(head["tasks"]), max_tokens=int(head["max_tokens"]))
    model.load_state_dict(load_file(root / WEIGHTS_FILE))
    return model.eval()


def top_tasks(logits: np.ndarray) -> NDArray[np.intp]:
    """Index of the likeliest task type per question, [B, tasks] -> [B]; of equal ones the lowest index."""
    return np.asarray(np.argmax(logits, axis=-1))
