"""The Inductor as an ONNX graph: optimum traces it, then onnxruntime must name the same task types as PyTorch.

input_ids, attention_mask int64 [B, L] -> logits float32 [B, tasks], both axes free.
"""

from __future__ import annotations

import json
import logging
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from optimum.exporters.onnx import onnx_export_from_model
from tokenizers import Tokenizer
from transformers import LlamaForSequenceClassification

from tam_edge.export.parity import ParityError
from tam_edge.models.inductor import load_inductor, top_tasks
from tam_edge.models.inductor_data import none_texts, read_labelled, street_groups
from tam_edge.models.inductor_phrases import generate, load_phrases
from tam_edge.models.inductor_tokenizer import encode
from tam_edge.models.street.world import FIRST_UNSEEN_SEED
from tam_edge.runtime.engines import Engine
from tam_edge.runtime.engines.onnx import OnnxEngine

OPSET = 18
"""Operator set of the graph; onnxruntime 1.23 runs it."""
ENGINE_FILE, TOKENIZER_FILE = "inductor.onnx", "inductor-tokenizer.json"
LOGIT_TOLERANCE = 1e-4
"""Largest absolute error of a logit in float32."""

_NOISY_LOGGERS = ("optimum", "transformers", "torch.onnx")


@dataclass(frozen=True, slots=True)
class InductorExport:
    """What a bundle needs to know about an exported Inductor."""

    engine: Path
    """The ONNX graph, float32."""

    tokenizer: Path
    """Its tokenizers file."""

    tasks: tuple[str, ...]
    """Task name of each logit, in order."""

    max_tokens: int
    """Longest question in tokens."""

    temperature: float
    """Divides the logits before the softmax."""

    threshold: float
    """Confidence below which a question counts as none of the task types."""

    parity: dict[str, float | int]
    """Questions compared, largest absolute error of a logit, and task types that differ (always 0)."""


def export_inductor(run: Path, out: Path) -> InductorExport:
    """Export the Inductor a training run left in `run` into the folder `out` and compare the two.

    Raises:
        FileNotFoundError: a file of the run is missing.
        ParityError: the graph names another task type than PyTorch, or its logits are further off than 1e-4.
    """
    metrics = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    tokenizer = Tokenizer.from_file(str(run / "tokenizer.json"))
    model = load_inductor(run)
    out.mkdir(parents=True, exist_ok=True)
    _write_graph(model, out / ENGINE_FILE)
    shutil.copyfile(run / "tokenizer.json", out / TOKENIZER_FILE)
    engine = OnnxEngine(out / ENGINE_FILE, threads=1, device="cpu")
    try:
        parity = compare_inductor(model, engine, tokenizer, check_questions())
    finally:
        engine.close()
    return InductorExport(
        engine=out / ENGINE_FILE,
        tokenizer=out / TOKENIZER_FILE,
        tasks=tuple(name for _, name in sorted((model.config.id2label or {}).items())),
        max_tokens=int(model.config.max_position_embeddings),
        temperature=float(metrics["temperature"]),
        threshold=float(metrics["threshold"]),
        parity=parity,
    )


def check_questions() -> list[str]:
    """Questions of every kind the graph will meet: written, generated, the street camera's, noise, very long ones."""
    phrases, rng = load_phrases(), np.random.default_rng(0)
    generated = [generate(phrases, task, rng) for task in phrases.templates for _ in range(25)]
    street = [text for _, texts in street_groups(range(FIRST_UNSEEN_SEED, FIRST_UNSEEN_SEED + 20)) for text in texts]
    long = [" ".join(generated[start : start + 50]) for start in (0, 50, 100)]
    return [*(one.text for one in read_labelled(None)), *generated, *street, *none_texts(phrases, "held_out"), *long]


def compare_inductor(
    model: LlamaForSequenceClassification, engine: Engine, tokenizer: Tokenizer, texts: Sequence[str]
) -> dict[str, float | int]:
    """Compare graph and module on `texts`: those of equal length together, as when a bundle runs, and padded ones.

    Raises:
        ParityError: a task type differs, or a logit by more than LOGIT_TOLERANCE.
    """
    worst, differ = 0.0, 0
    batches = [texts[at : at + 1] for at in range(len(texts))] + [
        texts[at : at + 32] for at in range(0, len(texts), 32)
    ]
    for batch in batches:
        ids, mask = encode(tokenizer, batch, model.config.max_position_embeddings)
        got = engine.run({"input_ids": ids, "attention_mask": mask})[0]
        with torch.inference_mode():
            expected = model(input_ids=torch.from_numpy(ids), attention_mask=torch.from_numpy(mask)).logits.numpy()
        worst = max(worst, float(np.abs(got - expected).max()))
        differ += int((top_tasks(got) != top_tasks(expected)).sum())
    if differ or not worst <= LOGIT_TOLERANCE:
        raise ParityError(f"the Inductor's graph gives {differ} other task types, logits off by {worst:.3g}")
    return {"questions": len(texts), "max_abs_error": worst, "labels_differ": differ}


def _batches(tokenizer: Tokenizer, texts: Sequence[str]) -> Iterator[Sequence[str]]:
    by_length: dict[int, list[str]] = {}
    for text in texts:
        by_length.setdefault(len(tokenizer.encode(text)), []).append(text)
    yield from by_length.values()
    for at in range(0, len(texts), 64):
        yield texts[at : at + 64]


def _write_graph(model: LlamaForSequenceClassification, path: Path) -> None:
    with tempfile.TemporaryDirectory() as folder, _quiet():
        empty, traced = Path(folder, "empty"), Path(folder, "traced")
        empty.mkdir()
        # optimum looks for a tokenizer where the model came from and would write its own idea of it
        model.config._name_or_path = str(empty)
        onnx_export_from_model(model, traced, task="text-classification", opset=OPSET, do_validation=False)
        shutil.copyfile(traced / "model.onnx", path)


@contextmanager
def _quiet() -> Iterator[None]:
    """Tracing warns about every Python branch; the comparison afterwards is what tells."""
    levels = {name: logging.getLogger(name).level for name in _NOISY_LOGGERS}
    for name in levels:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
