"""What an Inductor's cross-validation says: the paper's measures over questions no model was trained on.

Every labelled question is answered by the model that did not see its fold; the shipped model, trained on all of them,
is never asked about them here.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from tam_edge.models.inductor import TASKS, QuestionClassifier, top_tasks
from tam_edge.models.inductor_data import none_texts, street_groups
from tam_edge.models.inductor_measure import (
    PAPER_BUCKETS,
    Bucket,
    calibration_error,
    choose_threshold,
    confidence_buckets,
    confusion,
    fit_temperature,
    lenient_accuracy,
    paper_calibration_error,
    probabilities,
)
from tam_edge.models.inductor_phrases import Phrases
from tam_edge.models.inductor_questions import (
    FOLDS,
    LabelledQuestion,
    fold_of,
    read_fresh,
    read_paraphrases,
    said_otherwise,
    sha256_of,
)
from tam_edge.models.recipe.inductor_tuning import predict
from tam_edge.models.street.world import FIRST_UNSEEN_SEED

UNSEEN_STREET_SCENES = 200
SURE_QUESTIONS = {
    "how many people?": 1,
    "what happens after the car leaves?": 4,
    "summarize the video": 6,
    "what does the sign say?": 8,
}
"""Questions with their task type that are reported one by one."""


@dataclass(frozen=True, slots=True)
class FoldAnswers:
    """What the model that did not see a fold says to its questions."""

    questions: dict[str, list[float]]
    """Logits by the SHA-256 of a labelled question: a public one is not repeated."""

    paraphrases: dict[str, list[float]]
    """Logits by the SHA-256 of a paraphrase of one of them."""

    otherwise: dict[str, list[float]]
    """Logits by the SHA-256 of one of these questions in the words that other folds train on."""

    none: list[list[float]]
    """Logits of texts that ask nothing about a video and were kept from training."""


def ask_fold(
    model: QuestionClassifier, tokenizer: Tokenizer, held_out: Sequence[LabelledQuestion], phrases: Phrases
) -> FoldAnswers:
    """Ask the model of one fold what it was not trained on."""
    asked = {sha256_of(one.text): one.text for one in held_out}
    said = {sha256_of(one.text): one.text for one in read_paraphrases() if one.original_sha256 in asked}
    otherwise = {sha256_of(one.text): one.text for one in said_otherwise(held_out)}

    def logits(texts: dict[str, str]) -> dict[str, list[float]]:
        return dict(zip(texts, predict(model, tokenizer, list(texts.values())).tolist(), strict=True))

    return FoldAnswers(
        logits(asked),
        logits(said),
        logits(otherwise),
        predict(model, tokenizer, none_texts(phrases, "held_out")).tolist(),
    )


def save_answers(answers: FoldAnswers, path: Path) -> None:
    """Write the answers of one fold."""
    path.write_text(json.dumps(asdict(answers)) + "\n", encoding="utf-8")


def load_answers(path: Path) -> FoldAnswers:
    """Read the answers of one fold."""
    return FoldAnswers(**json.loads(path.read_text(encoding="utf-8")))


def cross_validated(labelled: Sequence[LabelledQuestion], answers: Sequence[FoldAnswers]) -> dict[str, Any]:
    """The paper's measures over all labelled questions, with the temperature and the threshold to ship.

    A fold's confidence is scaled with the temperature fitted on the other folds.
    """
    labels = np.array([one.task - 1 for one in labelled])
    folds = np.array([fold_of(one.text) for one in labelled])
    logits = np.array([answers[fold].questions[sha256_of(one.text)] for fold, one in zip(folds, labelled, strict=True)])
    temperatures = np.array([fit_temperature(logits[folds != fold], labels[folds != fold]) for fold in range(FOLDS)])
    calibrated = probabilities(logits, temperatures[folds][:, None])
    predicted = top_tasks(logits)
    right = predicted == labels
    none = np.concatenate(
        [probabilities(np.array(one.none), temperature) for one, temperature in zip(answers, temperatures, strict=True)]
    )
    kept, turned = calibrated.max(axis=-1)[right], none.max(axis=-1)
    threshold = choose_threshold(kept, turned)
    return {
        **_accuracy(labelled, labels, predicted),
        "confusion": confusion(labels, predicted, len(TASKS)),
        "calibration_error": round(calibration_error(calibrated, labels), 4),
        "calibration_error_paper": round(paper_calibration_error(calibrated, labels), 4),
        "buckets": [_rounded(one) for one in confidence_buckets(calibrated, labels)],
        "buckets_paper": [_rounded(one) for one in confidence_buckets(calibrated, labels, PAPER_BUCKETS)],
        "paraphrases": _paraphrases(
            labelled, answers, {sha256_of(one.text): hit for one, hit in zip(labelled, right, strict=True)}
        ),
        "said_otherwise": _said_otherwise(labelled, answers),
        "temperature": round(fit_temperature(logits, labels), 4),
        "threshold": threshold,
        "right_above_threshold": round(float((kept >= threshold).mean()), 4),
        "none_below_threshold": round(float((turned < threshold).mean()), 4),
    }


def shipped(model: QuestionClassifier, tokenizer: Tokenizer, temperature: float, threshold: float) -> dict[str, Any]:
    """What the shipped model says to the street camera's unseen questions and to a few chosen ones."""
    groups = street_groups(range(FIRST_UNSEEN_SEED, FIRST_UNSEEN_SEED + UNSEEN_STREET_SCENES))
    asked = [(text, task - 1) for task, texts in groups for text in texts]
    calibrated = probabilities(predict(model, tokenizer, [text for text, _ in asked]), temperature)
    right = top_tasks(calibrated) == np.array([task for _, task in asked])
    sure = probabilities(predict(model, tokenizer, list(SURE_QUESTIONS)), temperature)
    fresh = read_fresh()
    return {
        "fresh": _share_right(model, tokenizer, [(text, task) for text, task, _ in fresh]),
        "fresh_paraphrases": _share_right(model, tokenizer, [(said, task) for _, task, said in fresh if said]),
        "street_questions": len(asked),
        "street_accuracy": round(float(right.mean()), 4),
        "street_above_threshold": round(float((calibrated.max(axis=-1) >= threshold).mean()), 4),
        "street_wrong": [text for (text, _), hit in zip(asked, right, strict=True) if not hit][:20],
        "sure": {
            text: [int(row.argmax()) + 1, round(float(row.max()), 4)]
            for text, row in zip(SURE_QUESTIONS, sure, strict=True)
        },
    }


def _share_right(
    model: QuestionClassifier, tokenizer: Tokenizer, asked: Sequence[tuple[str, int]]
) -> dict[str, float | int]:
    found = top_tasks(predict(model, tokenizer, [text for text, _ in asked]))
    right = found == np.array([task - 1 for _, task in asked])
    return {"questions": len(asked), "accuracy": round(float(right.mean()), 4)}


def _said_otherwise(labelled: Sequence[LabelledQuestion], answers: Sequence[FoldAnswers]) -> dict[str, float | int]:
    right = [
        int(np.argmax(answers[fold_of(one.text)].otherwise[sha256_of(said.text)])) == one.task - 1
        for one in labelled
        for said in said_otherwise([one])
    ]
    return {"questions": len(right), "accuracy": round(float(np.mean(right)), 4)}


def _accuracy(labelled: Sequence[LabelledQuestion], labels: np.ndarray, predicted: np.ndarray) -> dict[str, Any]:
    seconds = [None if one.second is None else one.second - 1 for one in labelled]
    written = np.array([one.source == "written" for one in labelled])
    figures: dict[str, Any] = {"questions": len(labelled)}
    for name, chosen in (("", np.ones_like(written)), ("_written", written), ("_public", ~written)):
        if chosen.any():
            at = np.flatnonzero(chosen)
            strict = float((predicted[at] == labels[at]).mean())
            lenient = lenient_accuracy(predicted[at], labels[at], [seconds[index] for index in at])
            figures[f"accuracy{name}"] = round(strict, 4)
            figures[f"accuracy{name}_with_second_label"] = round(lenient, 4)
    return figures


def _paraphrases(
    labelled: Sequence[LabelledQuestion], answers: Sequence[FoldAnswers], original_right: dict[str, bool]
) -> dict[str, Any]:
    by_sha = {sha256_of(one.text): one for one in labelled}
    before: list[bool] = []
    after: list[bool] = []
    for one in read_paraphrases():
        if (original := by_sha.get(one.original_sha256)) is None:
            continue  # a public question that is not here
        logits = answers[fold_of(original.text)].paraphrases[sha256_of(one.text)]
        before.append(bool(original_right[one.original_sha256]))
        after.append(int(np.argmax(logits)) == original.task - 1)
    accuracy, of_originals = float(np.mean(after)), float(np.mean(before))
    return {
        "questions": len(after),
        "accuracy": round(accuracy, 4),
        "accuracy_of_originals": round(of_originals, 4),
        "drop": round(of_originals - accuracy, 4),
    }


def _rounded(bucket: Bucket) -> dict[str, float | int]:
    return {name: value if isinstance(value, int) else round(value, 4) for name, value in asdict(bucket).items()}
