"""Stage 1: trains the nano Inductor from nothing and measures it.

    python -m tam_edge.models.recipe.inductor --out RUN [--queries DIR] [--seed N]

RUN gets model.safetensors, config.json, tokenizer.json and metrics.json; a run that was stopped goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional
from transformers import LlamaForSequenceClassification

from tam_edge.models.inductor import NANO, TASKS, InductorConfig, build_inductor, top_tasks
from tam_edge.models.inductor_data import (
    LabelledQuestion,
    Mixture,
    QuestionSets,
    collect,
    draw,
    none_texts,
    street_groups,
    tokenizer_texts,
)
from tam_edge.models.inductor_measure import (
    calibration_error,
    choose_threshold,
    confusion,
    fit_temperature,
    lenient_accuracy,
    probabilities,
)
from tam_edge.models.inductor_tokenizer import encode, train_tokenizer
from tam_edge.models.recipe.loop import Stage, run_stage
from tam_edge.models.street.world import FIRST_UNSEEN_SEED

QUERIES = Path(__file__).parents[2] / "../shared/queries"
"""Where labelled and public questions are looked for when no folder is named; the recipe works without them."""

STAGE = Stage("inductor", steps=3000, muon_lr=2e-3, adam_lr=2e-3, warmup_steps=100, decay_from=0.3)
QUESTIONS_PER_STEP = 64
AVERAGE_DECAY = 0.998  # per step, of the averaged weights, which are the ones kept
STREET_SCENES = 2000  # trained on
UNSEEN_STREET_SCENES = 200  # measured on
MEASURED_AT_ONCE = 256  # questions
SURE_QUESTIONS = {
    "how many people?": 1,
    "what happens after the car leaves?": 4,
    "summarize the video": 6,
    "what does the sign say?": 8,
}
"""Questions with their task type that are reported one by one."""


@dataclass(frozen=True, slots=True)
class InductorReport:
    """What a finished run measured; metrics.json holds the same."""

    accuracy: float
    """Share of held-out labelled questions whose first label was found."""

    temperature: float
    """Divides the logits before the softmax; fitted on the held-out questions."""

    threshold: float
    """Confidence below which a question counts as none of the task types."""

    metrics: dict[str, object]
    """Everything measured, as written to metrics.json."""


def train_inductor(
    run: Path,
    *,
    queries: Path | None = None,
    seed: int = 0,
    held_out_fold: int = 0,
    stage: Stage = STAGE,
    config: InductorConfig = NANO,
) -> InductorReport:
    """Train, or go on training, an Inductor in the folder `run`, then measure it.

    Args:
        run: folder that gets the checkpoint, and in the end weights, sizes, tokenizer and figures.
        queries: folder with `labelled.jsonl` and the public sets; without it only the project's own questions are used.
        seed: seeds the weights and what every step draws.
        held_out_fold: fold of the labelled questions kept for measuring.
        stage: number of steps and learning rates.
        config: sizes of the model.
    """
    began = time.monotonic()
    run.mkdir(parents=True, exist_ok=True)
    sets = collect(queries, street_groups(range(STREET_SCENES)), held_out_fold=held_out_fold)
    tokenizer = _tokenizer(run / "tokenizer.json", sets, seed, config)
    average, from_step = _train(run, sets, tokenizer, stage, config, seed)
    average.save_pretrained(run)
    report = measure(average, tokenizer, sets)
    # The minutes are those of this call: where an earlier one was stopped they cover from_step to steps only.
    facts = {"seed": seed, "held_out_fold": held_out_fold, "from_step": from_step, "steps": stage.steps}
    report.metrics.update(facts, minutes=round((time.monotonic() - began) / 60, 2))
    (run / "metrics.json").write_text(json.dumps(report.metrics, indent=1) + "\n", encoding="utf-8")
    return report


def measure(model: LlamaForSequenceClassification, tokenizer: Tokenizer, sets: QuestionSets) -> InductorReport:
    """Accuracy, confusion, temperature and threshold on what the run never trained on."""
    held_out = sets.held_out
    labels = np.array([one.task - 1 for one in held_out])
    logits = predict(model, tokenizer, [one.text for one in held_out])
    temperature = fit_temperature(logits, labels)

    def confidence(texts: Sequence[str]) -> np.ndarray:
        return np.asarray(probabilities(predict(model, tokenizer, texts), temperature).max(axis=-1))

    calibrated, right = probabilities(logits, temperature), top_tasks(logits) == labels
    kept, none = calibrated.max(axis=-1)[right], confidence(none_texts(sets.phrases, "held_out"))
    threshold = choose_threshold(kept, none)
    metrics: dict[str, object] = {
        **_accuracy(held_out, labels, top_tasks(logits)),
        "temperature": round(temperature, 4),
        "calibration_error": round(calibration_error(calibrated, labels), 4),
        "threshold": threshold,
        "right_above_threshold": round(float((kept >= threshold).mean()), 4),
        "none_below_threshold": round(float((none < threshold).mean()), 4),
        **_street_accuracy(model, tokenizer, temperature, threshold),
        "sure": _sure(model, tokenizer, temperature),
    }
    return InductorReport(float(right.mean()), temperature, threshold, metrics)


@torch.no_grad()
def predict(model: LlamaForSequenceClassification, tokenizer: Tokenizer, texts: Sequence[str]) -> np.ndarray:
    """Logits float32 [len(texts), tasks]."""
    chunks = [texts[at : at + MEASURED_AT_ONCE] for at in range(0, len(texts), MEASURED_AT_ONCE)]
    return np.concatenate([_logits(model, tokenizer, chunk).float().cpu().numpy() for chunk in chunks])


def main() -> None:
    """The command line of this stage."""
    parser = argparse.ArgumentParser(prog="python -m tam_edge.models.recipe.inductor", description="train the Inductor")
    parser.add_argument("--out", type=Path, required=True, help="run folder")
    parser.add_argument("--queries", type=Path, help="folder with labelled.jsonl and the public sets' own files")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--fold", type=int, default=0, help="fold of the labelled questions to hold out, 0 to 4")
    options = parser.parse_args()
    if options.queries is not None and not options.queries.is_dir():
        parser.error(f"--queries {options.queries}: there is no such folder")
    torch.set_num_threads(1)
    queries = options.queries or (QUERIES if QUERIES.is_dir() else None)
    report = train_inductor(options.out, queries=queries, seed=options.seed, held_out_fold=options.fold)
    print(json.dumps(report.metrics))


def _train(
    run: Path, sets: QuestionSets, tokenizer: Tokenizer, stage: Stage, config: InductorConfig, seed: int
) -> tuple[LlamaForSequenceClassification, int]:
    """The averaged weights after all steps, on the CPU, in evaluation mode; and the first step this call took."""
    torch.manual_seed(seed)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    with torch.device(device):
        model, average = build_inductor(config), build_inductor(config)
    average.load_state_dict(model.state_dict())
    average.requires_grad_(requires_grad=False)

    taken: list[int] = []

    def loss_of_step(step: int) -> Tensor:
        taken.append(step)
        _move_average(average, model)
        texts, targets = draw(sets, Mixture(), np.random.default_rng([seed, 0, step]), QUESTIONS_PER_STEP)
        return functional.cross_entropy(_logits(model, tokenizer, texts), torch.from_numpy(targets).to(device))

    run_stage(stage, {"inductor": model, "average": average}, loss_of_step, run)
    trained = build_inductor(config)
    trained.load_state_dict(average.state_dict())
    trained.eval()
    return trained, min(taken, default=stage.steps)


def _logits(model: LlamaForSequenceClassification, tokenizer: Tokenizer, texts: Sequence[str]) -> Tensor:
    arrays = encode(tokenizer, texts, model.config.max_position_embeddings)
    ids, mask = (torch.from_numpy(array).to(model.device) for array in arrays)
    logits: Tensor = model(input_ids=ids, attention_mask=mask).logits
    return logits


@torch.no_grad()
def _move_average(average: nn.Module, model: nn.Module) -> None:
    for slow, fast in zip(average.parameters(), model.parameters(), strict=True):
        slow.lerp_(fast, 1.0 - AVERAGE_DECAY)


def _tokenizer(path: Path, sets: QuestionSets, seed: int, config: InductorConfig) -> Tokenizer:
    if not path.is_file():
        train_tokenizer(tokenizer_texts(sets, seed), vocab_size=config.vocab_size).save(str(path))
    return Tokenizer.from_file(str(path))


def _accuracy(held_out: Sequence[LabelledQuestion], labels: np.ndarray, predicted: np.ndarray) -> dict[str, object]:
    right = predicted == labels
    seconds = [None if one.second is None else one.second - 1 for one in held_out]
    by_source = {
        f"accuracy_{source}": round(
            float(np.mean([hit for one, hit in zip(held_out, right, strict=True) if one.source == source])), 4
        )
        for source in sorted({one.source for one in held_out})
    }
    return {
        "held_out_questions": len(held_out),
        "accuracy": round(float(right.mean()), 4),
        "accuracy_with_second_label": round(lenient_accuracy(predicted, labels, seconds), 4),
        **by_source,
        "confusion": confusion(labels, predicted, len(TASKS)),
    }


def _street_accuracy(
    model: LlamaForSequenceClassification, tokenizer: Tokenizer, temperature: float, threshold: float
) -> dict[str, object]:
    groups = street_groups(range(FIRST_UNSEEN_SEED, FIRST_UNSEEN_SEED + UNSEEN_STREET_SCENES))
    asked = [(text, task - 1) for task, texts in groups for text in texts]
    calibrated = probabilities(predict(model, tokenizer, [text for text, _ in asked]), temperature)
    right = top_tasks(calibrated) == np.array([task for _, task in asked])
    return {
        "street_questions": len(asked),
        "street_accuracy": round(float(right.mean()), 4),
        "street_above_threshold": round(float((calibrated.max(axis=-1) >= threshold).mean()), 4),
        "street_wrong": [text for (text, _), hit in zip(asked, right, strict=True) if not hit][:20],
    }


def _sure(model: LlamaForSequenceClassification, tokenizer: Tokenizer, temperature: float) -> dict[str, list[float]]:
    rows = probabilities(predict(model, tokenizer, list(SURE_QUESTIONS)), temperature)
    return {
        text: [int(row.argmax()) + 1, round(float(row.max()), 4)]
        for text, row in zip(SURE_QUESTIONS, rows, strict=True)
    }


if __name__ == "__main__":
    main()
