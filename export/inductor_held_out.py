"""What 8-bit weights and the cut vocabulary cost: every fold's model, exported, asked the questions it did not see."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import nn

from tam_edge.export.inductor import inductor_graph, opened
from tam_edge.models.inductor import QuestionClassifier, load_inductor, top_tasks
from tam_edge.models.inductor_base import MINILM, TOKENIZER_FILE, load_base
from tam_edge.models.inductor_questions import (
    FOLDS,
    LabelledQuestion,
    fold_of,
    read_labelled,
    read_paraphrases,
    sha256_of,
)
from tam_edge.models.inductor_tokenizer import encode, plain
from tam_edge.models.recipe.inductor import SETTINGS_FILE
from tam_edge.models.recipe.inductor_metrics import load_answers
from tam_edge.models.recipe.inductor_tuning import predict
from tam_edge.quant.onnx_int8 import weights_to_int8

Labels = NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class HeldOut:
    """Task types found for all labelled questions, 0-based, each by the model that did not see it."""

    as_trained: Labels
    """In PyTorch."""

    as_exported: Labels
    """By the 8-bit graph, question by question."""

    paraphrases: dict[str, int]
    """By the 8-bit graph, by the SHA-256 of the paraphrase."""

    with_all_pieces: Labels | None
    """In PyTorch with the base's whole vocabulary; None where nothing was cut."""


def measure_as_exported(run: Path, queries: Path | None) -> dict[str, Any]:
    """Accuracy of the 8-bit graphs over all labelled questions, and how many task types differ from PyTorch's.

    Raises:
        FileNotFoundError: the run is not finished.
    """
    labelled = read_labelled(queries)
    said = ask_folds(run, labelled)
    labels = np.array([one.task - 1 for one in labelled])
    written = np.array([one.source == "written" for one in labelled])
    figures: dict[str, Any] = {
        "int8_labels_differ": int((said.as_exported != said.as_trained).sum()),
        **{f"int8_{name}": value for name, value in _accuracy(said.as_exported, labels, written).items()},
        "int8_paraphrases": _paraphrases(labelled, said),
    }
    if said.with_all_pieces is not None:
        figures["trimming_labels_differ"] = int((said.with_all_pieces != said.as_trained).sum())
        whole = _accuracy(said.with_all_pieces, labels, written)
        figures |= {f"untrimmed_{name}": value for name, value in whole.items()}
    return figures


def ask_folds(run: Path, labelled: Sequence[LabelledQuestion]) -> HeldOut:
    """Ask the model of each fold the questions of that fold."""
    tokenizer = plain(Tokenizer.from_file(str(run / TOKENIZER_FILE)))
    base = json.loads((run / SETTINGS_FILE).read_text(encoding="utf-8"))["base"]
    whole = load_base(base) if base == MINILM or Path(base).is_dir() else None
    cut = whole is not None and whole.tokenizer.get_vocab_size() != tokenizer.get_vocab_size()
    folds = np.array([fold_of(one.text) for one in labelled])
    found = {name: np.zeros(len(labelled), np.intp) for name in ("trained", "exported", "whole")}
    paraphrases: dict[str, int] = {}
    for fold in range(FOLDS):
        at = np.flatnonzero(folds == fold)
        asked = [labelled[int(index)] for index in at]
        model, answers = load_inductor(run / f"fold-{fold}"), load_answers(run / f"fold-{fold}.json")
        found["trained"][at] = top_tasks(np.array([answers.questions[sha256_of(one.text)] for one in asked]))
        said = {
            sha256_of(one.text): one.text for one in read_paraphrases() if sha256_of(one.text) in answers.paraphrases
        }
        labels = _as_exported(model, tokenizer, [*(one.text for one in asked), *said.values()])
        found["exported"][at] = labels[: len(asked)]
        paraphrases |= {sha: int(label) for sha, label in zip(said, labels[len(asked) :], strict=True)}
        if cut and whole is not None:
            _give_table(model, whole.body.get_input_embeddings())
            found["whole"][at] = top_tasks(predict(model, whole.tokenizer, [one.text for one in asked]))
    return HeldOut(found["trained"], found["exported"], paraphrases, found["whole"] if cut else None)


def _as_exported(model: QuestionClassifier, tokenizer: Tokenizer, texts: Sequence[str]) -> Labels:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "inductor.onnx")
        path.write_bytes(weights_to_int8(inductor_graph(model)).SerializeToString())
        with opened(path) as engine:
            logits = []
            for text in texts:
                ids, mask = encode(tokenizer, [text], model.max_tokens)
                logits.append(engine.run({"input_ids": ids, "attention_mask": mask})[0])
    return top_tasks(np.concatenate(logits))


def _give_table(model: QuestionClassifier, table: nn.Module) -> None:
    """Training leaves the table of words as it is, so the base's whole one fits."""
    assert isinstance(table, nn.Embedding)
    model.body.set_input_embeddings(nn.Embedding.from_pretrained(table.weight.detach().clone()))


def _accuracy(found: Labels, labels: Labels, written: NDArray[np.bool_]) -> dict[str, float]:
    kinds = (("accuracy", np.ones_like(written)), ("accuracy_written", written), ("accuracy_public", ~written))
    return {name: round(float((found[at] == labels[at]).mean()), 4) for name, at in kinds if at.any()}


def _paraphrases(labelled: Sequence[LabelledQuestion], said: HeldOut) -> dict[str, float | int]:
    index_of = {sha256_of(one.text): index for index, one in enumerate(labelled)}
    asked = [one for one in read_paraphrases() if one.original_sha256 in index_of]
    originals = np.array([index_of[one.original_sha256] for one in asked])
    labels = np.array([labelled[int(index)].task - 1 for index in originals])
    after = np.array([said.paraphrases[sha256_of(one.text)] for one in asked])
    before = float((said.as_exported[originals] == labels).mean())
    accuracy = float((after == labels).mean())
    return {"questions": len(asked), "accuracy": round(accuracy, 4), "drop": round(before - accuracy, 4)}
