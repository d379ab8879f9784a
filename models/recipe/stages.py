"""The whole recipe in order. Each stage leaves its checkpoint in the run's folder; a finished one is not done again."""

from __future__ import annotations

import time
from dataclasses import replace
from functools import partial
from pathlib import Path

from tokenizers import Tokenizer

from tam_edge.models.config import NANO
from tam_edge.models.recipe import experts, eye, features, joint, language, noticing, parting
from tam_edge.models.recipe.inductor import default_queries, train_inductor
from tam_edge.models.recipe.loop import Stage
from tam_edge.models.recipe.minutes import note_minutes
from tam_edge.models.recipe.parallel import run_in_processes
from tam_edge.models.recipe.tokenizer import train_tokenizer

TOKENIZER = "tokenizer.json"


def train_nano(
    run: Path,
    *,
    seed: int = 0,
    queries: Path | None = None,
    scale: float = 1.0,
    processes: int = 1,
) -> dict[str, float]:
    """Run every stage that is not finished; returns minutes per stage, all calls of this run together.

    RUN/training.json keeps them. `scale` multiplies the length of every stage; `processes` share the work of a step,
    which changes no result but the order of sums.
    """
    run.mkdir(parents=True, exist_ok=True)
    if not (run / TOKENIZER).exists():
        train_tokenizer().save(str(run / TOKENIZER))
    train_inductor_once = partial(_inductor, run, seed, queries, processes)
    for name, work, count in (
        ("inductor", train_inductor_once, 1),  # which shares its work by pieces, not by steps
        ("eye", partial(_eye, run, seed, scale), processes),
        ("noticing", partial(_noticing, run, seed, scale), processes),
        ("symbols", partial(_symbols, run, seed, scale), processes),
        ("features", partial(_features, run, scale), processes),
        ("joint", partial(_joint, run, seed, scale), processes),
        ("parting", partial(_parting, run, seed, scale), processes),
        ("experts", partial(_experts, run, seed, scale), processes),
    ):
        began = time.monotonic()
        run_in_processes(work, count)
        minutes = note_minutes(run, name, (time.monotonic() - began) / 60, {"seed": seed, "scale": scale})
    return minutes


def _scaled(stage: Stage, scale: float) -> Stage:
    return replace(stage, steps=max(1, round(stage.steps * scale)))


def _tokenizer(run: Path) -> Tokenizer:
    return Tokenizer.from_file(str(run / TOKENIZER))


def _inductor(run: Path, seed: int, queries: Path | None, processes: int) -> None:
    if not (run / "inductor" / "metrics.json").exists():
        sets = queries or default_queries()
        train_inductor(run / "inductor", queries=sets, seed=seed, processes=processes)


def _eye(run: Path, seed: int, scale: float) -> None:
    eye.train_eye(run, NANO.vision, seed=seed, stage=_scaled(eye.EYE, scale))


def _noticing(run: Path, seed: int, scale: float) -> None:
    noticing.learn_to_notice(run, NANO, _tokenizer(run), seed=seed, stage=_scaled(noticing.NOTICING, scale))


def _symbols(run: Path, seed: int, scale: float) -> None:
    language.train_on_symbols(run, NANO, _tokenizer(run), seed=seed, stage=_scaled(language.SYMBOLS, scale))


def _features(run: Path, scale: float) -> None:
    features.film(run, NANO.vision, shards=max(1, round(features.SHARDS * scale)))


def _joint(run: Path, seed: int, scale: float) -> None:
    joint.train_jointly(run, NANO, _tokenizer(run), seed=seed, stage=_scaled(joint.JOINT, scale))


def _parting(run: Path, seed: int, scale: float) -> None:
    parting.part_experts(run, NANO.vision, seed=seed, stage=_scaled(parting.PARTING, scale))


def _experts(run: Path, seed: int, scale: float) -> None:
    experts.tune_experts(run, NANO, _tokenizer(run), seed=seed, stage=_scaled(experts.EXPERTS, scale))
