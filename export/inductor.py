"""The Inductor as an ONNX graph with 8-bit weights, compared with PyTorch before and after the rounding.

input_ids, attention_mask int64 [B, L] -> logits float32 [B, tasks], features float32 [B, 2 * width], both axes free.
A device reads the logits; the features are what `tam-edge inductor extend` recognises a ninth task type by.
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
import onnx
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer

from tam_edge.export.parity import ParityError
from tam_edge.models.inductor import QuestionClassifier, load_inductor, top_tasks
from tam_edge.models.inductor_base import TOKENIZER_FILE as RUN_TOKENIZER_FILE
from tam_edge.models.inductor_data import none_texts, street_groups
from tam_edge.models.inductor_measure import probabilities
from tam_edge.models.inductor_phrases import generate, load_phrases
from tam_edge.models.inductor_questions import read_labelled, read_wide
from tam_edge.models.inductor_tokenizer import encode, plain
from tam_edge.models.recipe.inductor import METRICS_FILE
from tam_edge.models.street.world import FIRST_UNSEEN_SEED
from tam_edge.quant.onnx_int8 import weights_to_int8
from tam_edge.runtime.engines import Engine
from tam_edge.runtime.engines.onnx import OnnxEngine

OPSET = 18
"""Operator set of the graph; onnxruntime 1.23 runs it."""
ENGINE_FILE, TOKENIZER_FILE = "inductor.onnx", "inductor-tokenizer.json"
PRECISION = "int8"
INPUTS, OUTPUTS = ("input_ids", "attention_mask"), ("logits", "features")
LOGIT_TOLERANCE = 1e-3
"""Largest absolute error of a logit in float32."""
NEAR_TIE = 0.1
"""Where two task types are closer than this in probability, rounding the weights to 8 bits may swap them."""
CHANGED_SHARE = 0.005
"""Largest share of all questions whose task type may change although it led by more."""

Asked = dict[str, NDArray[np.int64]]
"""Inputs of one batch, by name."""
Array = NDArray[np.float32]

_NOISY_LOGGERS = ("transformers", "torch.onnx", "onnxscript", "onnx_ir")


@dataclass(frozen=True, slots=True)
class InductorExport:
    """What a bundle needs to know about an exported Inductor."""

    engine: Path
    """The ONNX graph, weights in 8 bits."""

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
    """Questions compared; of the float32 graph the largest error of a logit and task types that differ (always 0); of
    the 8-bit one, over each question alone and in a batch, the task types that differ and the mean error of a
    probability."""


def export_inductor(run: Path, out: Path) -> InductorExport:
    """Export the Inductor a training run left in `run` into the folder `out` and compare the two.

    Raises:
        FileNotFoundError: a file of the run is missing.
        ParityError: the float32 graph names another task type than PyTorch or its logits are further off than 1e-3, or
            the 8-bit one clearly changes its mind about more than 0.5% of the questions.
    """
    metrics = json.loads((run / METRICS_FILE).read_text(encoding="utf-8"))
    tokenizer = plain(Tokenizer.from_file(str(run / RUN_TOKENIZER_FILE)))
    model = load_inductor(run)
    out.mkdir(parents=True, exist_ok=True)
    temperature = float(metrics["temperature"])
    parity = write_engine(model, tokenizer, out / ENGINE_FILE, temperature, check_questions())
    shutil.copyfile(run / RUN_TOKENIZER_FILE, out / TOKENIZER_FILE)
    return InductorExport(
        engine=out / ENGINE_FILE,
        tokenizer=out / TOKENIZER_FILE,
        tasks=model.tasks,
        max_tokens=model.max_tokens,
        temperature=temperature,
        threshold=float(metrics["threshold"]),
        parity=parity,
    )


def write_engine(
    model: QuestionClassifier, tokenizer: Tokenizer, path: Path, temperature: float, texts: Sequence[str]
) -> dict[str, float | int]:
    """Write the 8-bit graph to `path` and compare it, and the float32 graph it is made from, with the module.

    Raises:
        ParityError: one of them is too far off.
    """
    asked, expected = ask_module(model, tokenizer, texts)
    with tempfile.TemporaryDirectory() as folder:
        exact = Path(folder, path.name)
        exact.write_bytes(inductor_graph(model).SerializeToString())
        with opened(exact) as engine:
            parity = compare_inductor(asked, expected, engine)
        path.write_bytes(weights_to_int8(onnx.load(exact)).SerializeToString())
    with opened(path) as engine:
        return parity | compare_int8(asked, expected, engine, temperature)


def inductor_graph(model: QuestionClassifier) -> onnx.ModelProto:
    """The module as a float32 graph."""
    ids = torch.tensor([[5, 6, 7, 8], [5, 6, 7, 8]]) % model.body.config.vocab_size
    axes = {0: torch.export.Dim("questions"), 1: torch.export.Dim("tokens")}
    with _quiet():
        program = torch.onnx.export(
            model,
            (ids, torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]])),
            dynamo=True,
            opset_version=OPSET,
            dynamic_shapes=dict.fromkeys(INPUTS, axes),
            input_names=list(INPUTS),
            output_names=list(OUTPUTS),
            verbose=False,
        )
    assert program is not None
    graph = program.model_proto
    for node in graph.graph.node:  # where in whose source tree a node came from is nobody's business
        del node.metadata_props[:]
        node.doc_string = ""
    del graph.graph.value_info[:], graph.graph.metadata_props[:], graph.metadata_props[:]
    return graph


def check_questions() -> list[str]:
    """Questions of every kind the graph will meet: written, generated, the street camera's, noise, very long ones."""
    phrases, rng = load_phrases(), np.random.default_rng(0)
    generated = [generate(phrases, task, rng) for task in phrases.templates for _ in range(12)]
    street = [text for _, texts in street_groups(range(FIRST_UNSEEN_SEED, FIRST_UNSEEN_SEED + 10)) for text in texts]
    long = [" ".join(generated[start : start + 50]) for start in (0, 45)]
    written = [one.text for one in (*read_labelled(None), *read_wide()[::10])]
    return [*written, *generated, *street, *none_texts(phrases, "held_out"), *long]


def compare_inductor(asked: Sequence[Asked], expected: Array, engine: Engine) -> dict[str, float | int]:
    """Compare the float32 graph with what the module said.

    Raises:
        ParityError: a task type differs, or a logit by more than LOGIT_TOLERANCE.
    """
    got = _answers(asked, engine)
    error, differ = float(np.abs(got - expected).max()), int((top_tasks(got) != top_tasks(expected)).sum())
    if differ or not error <= LOGIT_TOLERANCE:
        raise ParityError(f"the Inductor's graph gives {differ} other task types, logits off by {error:.3g}")
    return {"questions": len(got), "max_abs_error": error, "labels_differ": differ}


def compare_int8(asked: Sequence[Asked], expected: Array, engine: Engine, temperature: float) -> dict[str, float | int]:
    """Compare the 8-bit graph with what the module said.

    Raises:
        ParityError: more than CHANGED_SHARE of the task types differ that are no near ties.
    """
    rounded, exact = probabilities(_answers(asked, engine), temperature), probabilities(expected, temperature)
    ranked = np.sort(exact, axis=-1)
    changed = top_tasks(rounded) != top_tasks(exact)
    clearly = int((changed & (ranked[:, -1] - ranked[:, -2] > NEAR_TIE)).sum())
    if clearly > CHANGED_SHARE * len(exact):
        raise ParityError(f"8-bit weights clearly change the Inductor's mind about {clearly} of {len(exact)} questions")
    return {
        "int8_labels_differ": int(changed.sum()),
        "int8_labels_clearly_differ": clearly,
        "int8_mean_error": float(np.abs(rounded - exact).max(axis=-1).mean()),
    }


def ask_module(model: QuestionClassifier, tokenizer: Tokenizer, texts: Sequence[str]) -> tuple[list[Asked], Array]:
    """The inputs of every text alone, as when a bundle runs, then of the same texts padded; and the module's logits."""
    batches = [texts[at : at + 1] for at in range(len(texts))] + [
        texts[at : at + 32] for at in range(0, len(texts), 32)
    ]
    asked = [dict(zip(INPUTS, encode(tokenizer, batch, model.max_tokens), strict=True)) for batch in batches]
    with torch.inference_mode():
        said = [model(*(torch.from_numpy(one[name]) for name in INPUTS))[0].numpy() for one in asked]
    return asked, np.concatenate(said)


def _answers(asked: Sequence[Asked], engine: Engine) -> Array:
    return np.concatenate([engine.run(inputs)[0] for inputs in asked])


@contextmanager
def opened(path: Path) -> Iterator[OnnxEngine]:
    """The graph at `path` on one CPU thread, closed at the end."""
    engine = OnnxEngine(path, threads=1, device="cpu")
    try:
        yield engine
    finally:
        engine.close()


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
