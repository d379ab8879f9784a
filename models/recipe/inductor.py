"""Stage 1: fine-tunes the Inductor and measures it by five-fold cross-validation.

The wide piece is tuned once, on everything but the labelled questions of all folds, so that what five fold models and
the shipped one share has seen none of them. Each fold model then sees the other folds' labelled questions, the shipped
one all of them. RUN gets model.safetensors, config.json, inductor.json, tokenizer.json and metrics.json; a run that was
stopped goes on where it was.
"""

from __future__ import annotations

import json
import multiprocessing
import time
from collections.abc import Collection
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer

from tam_edge.models.inductor import HEAD_FILE, QuestionClassifier, load_inductor, save_inductor
from tam_edge.models.inductor_base import MINILM, TOKENIZER_FILE, load_base, trimmed
from tam_edge.models.inductor_data import (
    Groups,
    Mixture,
    QuestionSets,
    collect,
    street_groups,
    vocabulary_texts,
)
from tam_edge.models.inductor_questions import FOLDS, read_labelled
from tam_edge.models.recipe.inductor_metrics import ask_fold, cross_validated, load_answers, save_answers, shipped
from tam_edge.models.recipe.inductor_tuning import Tuning, tune
from tam_edge.models.recipe.loop import Stage
from tam_edge.runtime.errors import UsageError

QUERIES = Path(__file__).parents[2] / "../shared/queries"
"""Where labelled and public questions are looked for when no folder is named; the recipe works without them."""

METRICS_FILE, SETTINGS_FILE, WIDE_FOLDER = "metrics.json", "settings.json", "wide"
STREET_SCENES = 2000
"""Scenes whose questions are trained on."""


def _stage(name: str, steps: int, rate: float) -> Stage:
    return Stage(name, steps=steps, muon_lr=0.0, adam_lr=rate, warmup_steps=min(50, steps), decay_from=0.2)


@dataclass(frozen=True, slots=True)
class Recipe:
    """Sizes and lengths of the whole stage."""

    pieces: int = 11_500
    """Word pieces that are kept of a BERT-style base: with int8 weights the file then fits the bundle."""

    max_tokens: int = 128
    """Longest question in tokens."""

    wide: Tuning = field(
        default_factory=lambda: Tuning(
            _stage("wide", 1200, 1.5e-4),
            Mixture(labelled=0.0, wide=0.5, public=0.15, street=0.07, none=0.1, rephrased=0.06, reworded=0.15),
        )
    )
    """Tuned once, on everything but labelled questions."""

    fold: Tuning = field(
        default_factory=lambda: Tuning(
            _stage("fold", 600, 1e-4),
            Mixture(labelled=0.46, wide=0.26, public=0.05, street=0.04, none=0.08, rephrased=0.06, reworded=0.15),
        )
    )
    """Tuned for each fold and for the shipped model, from the wide one."""


@dataclass(frozen=True, slots=True)
class InductorReport:
    """What a finished run measured; metrics.json holds the same."""

    accuracy: float
    """Share of labelled questions whose first label was found by the model that did not see them."""

    temperature: float
    """Divides the logits before the softmax; fitted on the held-out answers."""

    threshold: float
    """Confidence below which a question counts as none of the task types."""

    metrics: dict[str, Any]
    """Everything measured, as written to metrics.json."""


def train_inductor(
    run: Path,
    *,
    base: str | Path = MINILM,
    queries: Path | None = None,
    seed: int = 0,
    recipe: Recipe | None = None,
    processes: int = 1,
) -> InductorReport:
    """Train, or go on training, an Inductor in the folder `run`, then measure it.

    Args:
        run: folder that gets the checkpoints, and in the end weights, sizes, tokenizer and figures.
        base: `minilm`, or a BERT- or Llama-style checkpoint folder in Hugging Face layout.
        queries: folder with `labelled.jsonl` and the public sets; without it only the project's own questions are used.
        seed: seeds the head and what every step draws.
        recipe: sizes and lengths; left out, those of the model that ships.
        processes: how many fold models are tuned at the same time, each with one thread where it is more than one.

    Raises:
        UsageError: the base cannot be used, or `run` was begun with another base, seed or set of questions.
        MissingExtraError: the base is `minilm` and its package is not installed.
    """
    began = time.monotonic()
    run.mkdir(parents=True, exist_ok=True)
    _check_settings(run, {"base": str(base), "seed": seed, "queries": queries is not None})
    work = _Work(run, queries, street_groups(range(STREET_SCENES)), seed, recipe or Recipe())
    _wide(work, base)
    pieces = (*range(FOLDS), None)
    if processes == 1:
        for fold in pieces:
            _piece(work, fold)
    else:
        spawned = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(processes, spawned, torch.set_num_threads, (1,)) as pool:
            list(pool.map(partial(_piece, work), pieces))
    model, tokenizer = load_inductor(run), _tokenizer(work)
    metrics = cross_validated(
        read_labelled(queries), [load_answers(run / f"fold-{fold}.json") for fold in range(FOLDS)]
    )
    metrics |= shipped(model, tokenizer, metrics["temperature"], metrics["threshold"])
    # The minutes are those of this call: where an earlier one was stopped they do not cover what it did.
    metrics |= {
        "base": str(base),
        "seed": seed,
        "public_sets": queries is not None,
        "pieces": tokenizer.get_vocab_size(),
    }
    metrics["minutes"] = round((time.monotonic() - began) / 60, 2)
    (run / METRICS_FILE).write_text(json.dumps(metrics, indent=1) + "\n", encoding="utf-8")
    return InductorReport(metrics["accuracy"], metrics["temperature"], metrics["threshold"], metrics)


def default_queries() -> Path | None:
    """The folder of labelled and public questions beside the repository, where there is one."""
    return QUERIES if QUERIES.is_dir() else None


@dataclass(frozen=True, slots=True)
class _Work:
    """What every piece of one run shares."""

    run: Path
    queries: Path | None
    street: Groups
    seed: int
    recipe: Recipe


def _tokenizer(work: _Work) -> Tokenizer:
    return Tokenizer.from_file(str(work.run / TOKENIZER_FILE))


def _wide(work: _Work, base: str | Path) -> None:
    """Train the model every other one starts from, and leave the tokenizer they share."""
    folder, tokenizer_file, tuning = work.run / WIDE_FOLDER, work.run / TOKENIZER_FILE, work.recipe.wide
    if (folder / TOKENIZER_FILE).is_file():
        return
    sets = collect(work.queries, work.street, held_out_folds=range(FOLDS))
    start = trimmed(load_base(base), vocabulary_texts(sets, work.seed), work.recipe.pieces, work.recipe.max_tokens)
    start.tokenizer.save(str(tokenizer_file))
    torch.manual_seed(work.seed)
    model = QuestionClassifier(start.body, max_tokens=int(start.body.config.max_position_embeddings))
    wide = tune(model, start.tokenizer, sets, tuning, work.run, work.seed)
    save_inductor(wide, folder)
    start.tokenizer.save(str(folder / TOKENIZER_FILE))  # last: it says that the folder is complete
    (work.run / f"{tuning.stage.name}.pt").unlink(missing_ok=True)


def _piece(work: _Work, fold: int | None) -> None:
    """Train the model that does not see a fold, and keep what it says to its questions; without one, what ships."""
    if fold is None:
        _tuned(work, "shipped", work.run, held_out_folds=())
        return
    name = f"fold-{fold}"
    if (work.run / f"{name}.json").is_file():
        return
    model, sets = _tuned(work, name, work.run / name, held_out_folds=(fold,))
    save_answers(ask_fold(model, _tokenizer(work), sets.held_out, sets.phrases), work.run / f"{name}.json")


def _tuned(
    work: _Work, name: str, folder: Path, *, held_out_folds: Collection[int]
) -> tuple[QuestionClassifier, QuestionSets]:
    """Tune from the wide model on all but the held-out folds and save it in `folder`."""
    sets = collect(work.queries, work.street, held_out_folds=held_out_folds)
    if (folder / HEAD_FILE).is_file():
        return load_inductor(folder), sets
    tuning = replace(work.recipe.fold, stage=replace(work.recipe.fold.stage, name=name))
    model = tune(load_inductor(work.run / WIDE_FOLDER), _tokenizer(work), sets, tuning, work.run, work.seed)
    save_inductor(model, folder)
    (work.run / f"{name}.pt").unlink(missing_ok=True)
    return model, sets


def _check_settings(run: Path, settings: dict[str, Any]) -> None:
    path = run / SETTINGS_FILE
    if path.is_file() and (before := json.loads(path.read_text(encoding="utf-8"))) != settings:
        raise UsageError(f"{run} was begun with {before}, not {settings}: name another run folder")
    path.write_text(json.dumps(settings) + "\n", encoding="utf-8")
