"""A ninth task type for a bundle's Inductor, learned from a few hundred questions (paper, appendix I.3).

The body stays as it is, so the old types keep their logits: one more row is fitted to the graph's features, with
questions of the old types beside the new ones so that it keeps quiet about those. That is a logistic regression whose
offset is what the old types say together; it takes seconds and needs no checkpoint, only the bundle.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from tokenizers import Tokenizer

from tam_edge.export.extension_data import Rehearsal, rehearsal
from tam_edge.export.extension_fit import Row, fit_row
from tam_edge.export.inductor import OUTPUTS, opened
from tam_edge.export.manifest import inductor_engine
from tam_edge.models.inductor import TASKS
from tam_edge.models.inductor_questions import LabelledQuestion
from tam_edge.models.inductor_tokenizer import encode, plain
from tam_edge.quant.place import building, check_outside, check_place
from tam_edge.runtime.bundle import MANIFEST_FILE, Bundle, load_bundle
from tam_edge.runtime.errors import UsageError
from tam_edge.runtime.manifest import Manifest
from tam_edge.runtime.routing import TaskRule

Array = NDArray[np.float64]
Progress = Callable[[str], None]
"""Told what is done next, in a few words."""

_AT_ONCE = 32  # questions


@dataclass(frozen=True, slots=True)
class Extension:
    """What adding a task type did."""

    task: str
    """Name of the new type."""

    trained_questions: int
    """Questions of the new type it was fitted on."""

    test_questions: int
    """Questions of the new type it was measured on."""

    accuracy: float
    """Share of them that are recognised."""

    above_threshold: float
    """Share of them whose confidence reaches the bundle's threshold."""

    old_questions: int
    """Written questions of the old types, none of them fitted on."""

    old_accuracy_before: float
    """Share of them whose type was found without the new one."""

    old_accuracy_after: float
    """The same with it."""

    old_taken: float
    """Share of them that the new type takes, whatever they were before."""

    old_per_task: dict[str, tuple[float, float]]
    """Before and after for every old type that is asked for."""

    seconds: float
    """What it took, the measuring of memory included."""


def extend_bundle(
    bundle: Path,
    out: Path,
    rule: TaskRule,
    train: Sequence[str],
    test: Sequence[str],
    *,
    progress: Progress = lambda _: None,
) -> Extension:
    """Write a copy of `bundle` to `out` whose Inductor knows one more task type; no other file differs.

    Args:
        bundle: folder of a bundle whose Inductor `tam-edge export` wrote.
        out: folder of the new bundle; an older bundle there is replaced.
        rule: name, title and row of the rule set of the new type.
        train: its questions.
        test: other questions of it, to measure on.
        progress: told what is done next.

    Raises:
        UsageError: the type is there already, `out` holds something else, or the Inductor cannot be extended.
        BundleError: `bundle` is none.
    """
    began = time.monotonic()
    loaded = load_bundle(bundle)
    _check(loaded, out, rule)
    progress("reading the questions")
    inductor = loaded.manifest.inductor
    tokenizer = plain(Tokenizer.from_file(str(loaded.file(inductor.tokenizer))))
    old = rehearsal(inductor.tasks)
    said = _Said(loaded, tokenizer)
    progress(f"fitting {len(train)} questions of the new type beside {len(old.train)} others")
    row = fit_row(said(train), said(old.train), inductor.temperature)
    progress("writing and measuring the new graph")
    with building(out, [loaded.path]) as partial:
        shutil.copytree(loaded.path, partial, dirs_exist_ok=True)
        _write(loaded, partial, rule, row)
    written = load_bundle(out, verify=True)
    return _measure(written, tokenizer, said(_texts(old.test))[0], old, rule.name, train, test, began)


class _Said:
    """What a bundle's Inductor says to texts: logits [N, tasks] and features [N, F]."""

    def __init__(self, bundle: Bundle, tokenizer: Tokenizer) -> None:
        self._path = bundle.file(bundle.manifest.inductor.engines[0])
        self._most, self._tokenizer = bundle.manifest.inductor.max_tokens, tokenizer

    def __call__(self, texts: Sequence[str]) -> tuple[Array, Array]:
        logits, features = [], []
        with opened(self._path) as engine:
            for at in range(0, len(texts), _AT_ONCE):
                ids, mask = encode(self._tokenizer, texts[at : at + _AT_ONCE], self._most)
                outputs = engine.run({"input_ids": ids, "attention_mask": mask})
                logits.append(outputs[0].astype(np.float64))
                features.append(outputs[1].astype(np.float64))
        return np.concatenate(logits), np.concatenate(features)


def _check(bundle: Bundle, out: Path, rule: TaskRule) -> None:
    if rule.name in bundle.manifest.inductor.tasks:
        raise UsageError(f"{bundle.path.name} knows the task type {rule.name!r} already: choose another name")
    check_outside(out, bundle.path)
    check_place(out, [bundle.path])
    for spec in bundle.manifest.inductor.engines:
        names = [output.name for output in onnx.load(bundle.file(spec)).graph.output] if spec.backend == "onnx" else []
        if names != list(OUTPUTS):
            raise UsageError(f"{spec.file} gives no features to recognise a new type by: export the bundle again")


def _write(bundle: Bundle, folder: Path, rule: TaskRule, row: Row) -> None:
    manifest = bundle.manifest
    engines = []
    for spec in manifest.inductor.engines:
        graph = onnx.load(bundle.file(spec))
        _add_row(graph, row, len(manifest.inductor.tasks) + 1)
        (folder / spec.file).write_bytes(graph.SerializeToString())
        engine = inductor_engine(folder / spec.file, manifest.inductor.max_tokens)
        engines.append(engine.model_copy(update={"file": spec.file, "precision": spec.precision}))
    inductor = manifest.inductor.model_copy(
        update={"engines": tuple(engines), "tasks": (*manifest.inductor.tasks, rule.name)}
    )
    routing = manifest.routing.model_copy(update={"tasks": (*manifest.routing.tasks, rule)})
    changed: Manifest = manifest.model_copy(update={"inductor": inductor, "routing": routing})
    (folder / MANIFEST_FILE).write_text(changed.model_dump_json(indent=2) + "\n", encoding="utf-8")


def _add_row(model: onnx.ModelProto, row: Row, tasks: int) -> None:
    """Logits of the old types, then the new one's: features @ weight + bias."""
    logits, features = OUTPUTS
    old, new = f"{logits}.first-{tasks - 1}", f"{logits}.row-{tasks}"  # names of their own for each extension
    for node in model.graph.node:
        for names in (node.input, node.output):
            for index, name in enumerate(names):
                names[index] = old if name == logits else name
    weight, bias = row.weight.astype(np.float32)[:, None], np.array([row.bias], np.float32)
    model.graph.initializer.extend(
        [numpy_helper.from_array(weight, f"{new}.weight"), numpy_helper.from_array(bias, f"{new}.bias")]
    )
    model.graph.node.extend(
        [
            helper.make_node("Gemm", [features, f"{new}.weight", f"{new}.bias"], [new], name=new),
            helper.make_node("Concat", [old, new], [logits], name=f"{new}.all", axis=1),
        ]
    )
    output = next(one for one in model.graph.output if one.name == logits)
    output.type.tensor_type.shape.dim[1].dim_value = tasks
    onnx.checker.check_model(model)


def _measure(
    bundle: Bundle,
    tokenizer: Tokenizer,
    before: Array,
    old: Rehearsal,
    task: str,
    train: Sequence[str],
    test: Sequence[str],
    began: float,
) -> Extension:
    """Ask the bundle that was written, as a device would."""
    said, tasks = _Said(bundle, tokenizer), bundle.manifest.inductor.tasks
    logits = said(test)[0] / bundle.manifest.inductor.temperature
    found = logits.argmax(axis=1) == len(tasks) - 1
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    confidence = weights.max(axis=1) / weights.sum(axis=1)
    after = said(_texts(old.test))[0]
    labels = np.array([tasks.index(TASKS[one.task - 1]) for one in old.test])
    hits = (before.argmax(axis=1) == labels, after.argmax(axis=1) == labels)
    shares = {
        tasks[label]: (round(float(hits[0][at].mean()), 4), round(float(hits[1][at].mean()), 4))
        for label in sorted(set(labels.tolist()))
        if (at := labels == label).any()
    }
    return Extension(
        task=task,
        trained_questions=len(train),
        test_questions=len(test),
        accuracy=round(float(found.mean()), 4),
        above_threshold=round(float((confidence >= bundle.manifest.routing.confidence_threshold).mean()), 4),
        old_questions=len(labels),
        old_accuracy_before=round(float(hits[0].mean()), 4),
        old_accuracy_after=round(float(hits[1].mean()), 4),
        old_taken=round(float((after.argmax(axis=1) == len(tasks) - 1).mean()), 4),
        old_per_task=shares,
        seconds=round(time.monotonic() - began, 1),
    )


def _texts(questions: Sequence[LabelledQuestion]) -> list[str]:
    return [one.text for one in questions]
