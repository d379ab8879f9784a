"""Where an imported bundle's Inductor comes from: another bundle, a training run, or a classifier's checkpoint."""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import BertConfig

from tam_edge.export.inductor import (
    ENGINE_FILE,
    TOKENIZER_FILE,
    InductorExport,
    check_questions,
    export_inductor,
    write_engine,
)
from tam_edge.export.manifest import inductor_spec
from tam_edge.export.pretrained.folder import CheckpointError, opened_weights, read_json
from tam_edge.models.inductor import CONFIG_FILE, HEAD_FILE, TASKS, WEIGHTS_FILE, QuestionClassifier
from tam_edge.models.inductor_base import load_base
from tam_edge.models.inductor_tokenizer import plain
from tam_edge.runtime.bundle import MANIFEST_FILE, default_bundle_path, load_bundle
from tam_edge.runtime.errors import UsageError
from tam_edge.runtime.manifest import InductorSpec
from tam_edge.runtime.routing import TAM_ROUTING, TaskRule

MAX_TOKENS = 128
"""Longest question of a classifier whose folder does not say."""


@dataclass(frozen=True, slots=True)
class TakenInductor:
    """An Inductor whose files lie in the new bundle's folder."""

    spec: InductorSpec
    """Its entry in the manifest."""
    rules: tuple[TaskRule, ...]
    """Rules that came with its task types; empty: TAM's hold."""
    threshold: float
    """Confidence below which a question counts as none of the task types."""
    parity: dict[str, float | int]
    """How far its graph is from the module, where it was made from one."""


def take_inductor(source: Path | None, folder: Path) -> TakenInductor:
    """Put an Inductor into `folder`: that of the bundle `source`, by default the installed one, of a training run, or
    of a BERT- or Llama-style sequence classifier in Hugging Face layout.

    Raises:
        UsageError: `source` is none of these.
        CheckpointError: a classifier's folder is incomplete or has other labels.
        ParityError: the exported graph does not compute what the module computes.
    """
    source = default_bundle_path() if source is None else source
    if (source / MANIFEST_FILE).is_file():
        return _copied(source, folder)
    if (source / HEAD_FILE).is_file():
        return _exported(export_inductor(source, folder))
    if (source / CONFIG_FILE).is_file():
        return _exported(_classifier(source, folder))
    raise UsageError(f"--inductor {source} is no bundle, no training run and no checkpoint folder")


class BertClassifier(QuestionClassifier):
    """BertForSequenceClassification: the first token's state through the pooler, then a matrix with a bias."""

    def __init__(self, body: Any, tasks: tuple[str, ...], *, max_tokens: int) -> None:
        """A classifier whose pooler and head are still to be filled."""
        super().__init__(body, tasks, max_tokens=max_tokens)
        width = int(body.config.hidden_size)
        self.pooler, self.head = nn.Linear(width, width), nn.Linear(width, len(tasks))

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Logits [B, tasks], and the mean last and middle states as features [B, 2 * width]."""
        states = self.body(input_ids=input_ids, attention_mask=attention_mask, output_hidden_states=True).hidden_states
        features = [self._pooled(states[at], attention_mask) for at in (-1, len(states) // 2)]
        return self.head(torch.tanh(self.pooler(states[-1][:, 0]))), torch.cat(features, dim=-1)


def load_classifier(source: Path) -> tuple[QuestionClassifier, Tokenizer]:
    """The module a classifier's folder describes, and its tokenizer.

    Raises:
        UsageError: neither BERT- nor Llama-style, or a file is missing.
        CheckpointError: the head is missing or its labels are not task types.
    """
    base = load_base(source)
    config = read_json(source, CONFIG_FILE) or {}
    tasks = _tasks(source, config)
    most = min(MAX_TOKENS, int(base.body.config.max_position_embeddings))
    bert = isinstance(base.body.config, BertConfig)
    model: QuestionClassifier = (BertClassifier if bert else QuestionClassifier)(base.body, tasks, max_tokens=most)
    names = {"pooler.weight": "bert.pooler.dense.weight", "pooler.bias": "bert.pooler.dense.bias"}
    names |= {"head.weight": "classifier.weight", "head.bias": "classifier.bias"}
    _fill_head(model, source, names if bert else {"head.weight": "score.weight"})
    return model.eval(), base.tokenizer


def _copied(source: Path, folder: Path) -> TakenInductor:
    bundle = load_bundle(source)
    spec, engines = bundle.manifest.inductor, []
    for index, engine in enumerate(spec.engines):
        file = f"inductor{f'-{index}' if index else ''}{Path(engine.file).suffix}"
        shutil.copyfile(bundle.file(engine), folder / file)
        if engine.weights is not None:  # the graph knows them by their name
            file_beside = Path(engine.weights.file).name
            shutil.copyfile(bundle.file(engine.weights), folder / file_beside)
            engine = engine.model_copy(update={"weights": engine.weights.model_copy(update={"file": file_beside})})
        engines.append(engine.model_copy(update={"file": file}))
    shutil.copyfile(bundle.file(spec.tokenizer), folder / TOKENIZER_FILE)
    tokenizer = spec.tokenizer.model_copy(update={"file": TOKENIZER_FILE})
    taken = spec.model_copy(update={"engines": tuple(engines), "tokenizer": tokenizer})
    routing = bundle.manifest.routing
    return TakenInductor(taken, routing.tasks, routing.confidence_threshold, {})


def _exported(exported: InductorExport) -> TakenInductor:
    return TakenInductor(inductor_spec(exported), (), exported.threshold, dict(exported.parity))


def _classifier(source: Path, folder: Path) -> InductorExport:
    model, tokenizer = load_classifier(source)
    parity = write_engine(model, tokenizer, folder / ENGINE_FILE, 1.0, check_questions())
    plain(tokenizer).save(str(folder / TOKENIZER_FILE))
    return InductorExport(
        engine=folder / ENGINE_FILE,
        tokenizer=folder / TOKENIZER_FILE,
        tasks=model.tasks,
        max_tokens=model.max_tokens,
        temperature=1.0,
        threshold=TAM_ROUTING.confidence_threshold,
        parity=parity,
    )


def _tasks(source: Path, config: dict[str, Any]) -> tuple[str, ...]:
    """TAM's task types in the order of the logits: by name, or the eight of them in their own order if unnamed."""
    labels = config.get("id2label") or {}
    if not isinstance(labels, dict) or not all(re.fullmatch(r"\d{1,4}", key) for key in labels):
        raise CheckpointError(source, f"{CONFIG_FILE}: id2label is no object from numbers to names")
    names = [str(labels[key]) for key in sorted(labels, key=int)]
    if len(names) == len(TASKS) and all(name == f"LABEL_{index}" for index, name in enumerate(names)):
        return TASKS
    if sorted(names) != sorted(TASKS):
        raise CheckpointError(source, f"its labels are {', '.join(names) or 'missing'}; needed: {', '.join(TASKS)}")
    return tuple(names)


def _fill_head(model: QuestionClassifier, source: Path, names: dict[str, str]) -> None:
    wanted = dict(model.named_parameters())
    with opened_weights(source, source / WEIGHTS_FILE) as weights, torch.no_grad():
        stored: Sequence[str] = list(weights.keys())
        for target, name in names.items():
            if name not in stored:
                raise CheckpointError(source, f"{name} is missing: this is no sequence classifier")
            values = weights.get_tensor(name)
            if values.shape != wanted[target].shape:
                raise CheckpointError(
                    source, f"{name} has shape {list(values.shape)}, {list(wanted[target].shape)} is needed"
                )
            wanted[target].copy_(values)
