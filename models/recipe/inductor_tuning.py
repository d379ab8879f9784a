"""Tuning a pre-trained Inductor on drawn questions: one piece of stage 1, resumable like every stage.

The body's tables of words and positions stay as they are: words that no training question holds keep their place among
those that do. The layers learn the slower the deeper they lie, the head fastest.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional

from tam_edge.models.inductor import QuestionClassifier
from tam_edge.models.inductor_data import Mixture, QuestionSets, draw
from tam_edge.models.inductor_tokenizer import encode
from tam_edge.models.recipe.accelerator import mixed_precision, training_device
from tam_edge.models.recipe.loop import Stage, run_stage

QUESTIONS_PER_STEP = 64
AVERAGE_DECAY = 0.99
"""Per step, of the averaged weights, which are the ones kept."""
MEASURED_AT_ONCE = 64
"""Questions."""

_HEAD_FACTOR, _LAYER_FACTOR = 10.0, 0.9
_LENGTHS_PER_STEP = 2  # short and long questions go through apart: less padding
_LAYER = re.compile(r"layers?\.(\d+)\.")


@dataclass(frozen=True, slots=True)
class Tuning:
    """How long and fast one piece is tuned, and on what."""

    stage: Stage
    """Name, steps and learning rate; `muon_lr` is not used."""

    mixture: Mixture
    """Shares of the sources."""


def tune(
    start: QuestionClassifier, tokenizer: Tokenizer, sets: QuestionSets, tuning: Tuning, run: Path, seed: int
) -> QuestionClassifier:
    """Tune a copy of `start`; returns the averaged weights, on the CPU, in evaluation mode.

    What a step draws and drops depends on seed, stage name and step alone, so a stopped run goes on to the same end.
    """
    device = training_device()
    model, average = copy.deepcopy(start).to(device), copy.deepcopy(start).to(device)
    model.train().requires_grad_(requires_grad=True)
    average.requires_grad_(requires_grad=False)
    salt = sum(map(ord, tuning.stage.name))

    def loss_of_step(step: int) -> Tensor:
        _move_average(average, model)
        texts, targets = draw(sets, tuning.mixture, np.random.default_rng([seed, salt, step]), QUESTIONS_PER_STEP)
        torch.manual_seed(seed * 1_000_003 + salt * 10_007 + step)  # of the dropout
        return _backward(model, tokenizer, texts, torch.from_numpy(targets).to(device))

    optimizer = torch.optim.AdamW(_groups(model, tuning.stage.adam_lr), betas=(0.9, 0.98), weight_decay=0.01)
    run_stage(tuning.stage, {"inductor": model, "average": average}, loss_of_step, run, optimizers=[optimizer])
    return average.cpu().eval()


@torch.no_grad()
def predict(model: QuestionClassifier, tokenizer: Tokenizer, texts: Sequence[str]) -> np.ndarray:
    """Logits float32 [len(texts), tasks]."""
    logits = np.empty((len(texts), len(model.tasks)), np.float32)
    order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
    for at in range(0, len(order), MEASURED_AT_ONCE):
        indices = order[at : at + MEASURED_AT_ONCE]
        logits[indices] = _logits(model, tokenizer, [texts[index] for index in indices]).float().cpu().numpy()
    return logits


def _backward(model: QuestionClassifier, tokenizer: Tokenizer, texts: Sequence[str], targets: Tensor) -> Tensor:
    """Add the gradients of the mean cross-entropy, questions of like length together; returns the loss, detached."""
    total = torch.zeros((), device=targets.device)
    order = np.argsort([len(text) for text in texts], kind="stable")
    for part in np.array_split(order, _LENGTHS_PER_STEP):
        with mixed_precision(targets.device):
            logits = _logits(model, tokenizer, [texts[index] for index in part])
        loss = functional.cross_entropy(logits.float(), targets[torch.from_numpy(part)], reduction="sum") / len(texts)
        loss.backward()
        total += loss.detach()
    return total


def _logits(model: QuestionClassifier, tokenizer: Tokenizer, texts: Sequence[str]) -> Tensor:
    device = model.head.weight.device
    ids, mask = (torch.from_numpy(array).to(device) for array in encode(tokenizer, texts, model.max_tokens))
    logits: Tensor = model(ids, mask)[0]
    return logits


def _groups(model: QuestionClassifier, rate: float) -> list[dict[str, object]]:
    layers = int(model.body.config.num_hidden_layers)
    groups: list[dict[str, object]] = [{"params": list(model.head.parameters()), "lr": rate * _HEAD_FACTOR}]
    by_depth: dict[int, list[nn.Parameter]] = {}
    for name, parameter in model.body.named_parameters():
        if "embed" in name:
            parameter.requires_grad = False
            continue
        found = _LAYER.search(name)
        by_depth.setdefault(layers - 1 - int(found[1]) if found else 0, []).append(parameter)
    return groups + [{"params": found, "lr": rate * _LAYER_FACTOR**depth} for depth, found in sorted(by_depth.items())]


@torch.no_grad()
def _move_average(average: nn.Module, model: nn.Module) -> None:
    for slow, fast in zip(average.parameters(), model.parameters(), strict=True):
        if fast.requires_grad:
            slow.lerp_(fast, 1.0 - AVERAGE_DECAY)
