"""The whole recipe in order. Each stage leaves its checkpoint in the run's folder; a finished one is not done again."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from tokenizers import Tokenizer

from tam_edge.models.config import NANO
from tam_edge.models.recipe import experts, eye, features, joint, language
from tam_edge.models.recipe.inductor import train_inductor
from tam_edge.models.recipe.loop import Stage
from tam_edge.models.recipe.tokenizer import train_tokenizer


def train_nano(
    run: Path, *, seed: int = 0, queries: Path | None = None, scale: float = 1.0, threads: int = 0
) -> dict[str, float]:
    """Run every stage that is not finished; returns minutes per stage, which RUN/training.json keeps too."""
    if threads:
        torch.set_num_threads(threads)
    run.mkdir(parents=True, exist_ok=True)
    tokenizer = _tokenizer(run)

    def scaled(stage: Stage) -> Stage:
        return replace(stage, steps=max(1, round(stage.steps * scale)))

    shards = range(max(1, round(features.SHARDS * scale)))
    stages: dict[str, Callable[[], object]] = {
        "inductor": lambda: train_inductor(run / "inductor", queries=queries, seed=seed),
        "eye": lambda: eye.train_eye(run, NANO.vision, seed=seed, stage=scaled(eye.EYE)),
        "symbols": lambda: language.train_on_symbols(run, NANO, tokenizer, seed=seed, stage=scaled(language.SYMBOLS)),
        "features": lambda: features.film(run, NANO.vision, shards=shards),
        "joint": lambda: joint.train_jointly(run, NANO, tokenizer, seed=seed, stage=scaled(joint.JOINT)),
        "experts": lambda: experts.tune_experts(run, NANO, tokenizer, seed=seed, stage=scaled(experts.EXPERTS)),
    }
    minutes = {name: _timed(work) for name, work in stages.items()}
    _note(run, minutes, seed, scale)
    return minutes


def _tokenizer(run: Path) -> Tokenizer:
    path = run / "tokenizer.json"
    if not path.exists():
        train_tokenizer().save(str(path))
    return Tokenizer.from_file(str(path))


def _timed(work: Callable[[], object]) -> float:
    began = time.monotonic()
    work()
    return (time.monotonic() - began) / 60


def _note(run: Path, minutes: dict[str, float], seed: int, scale: float) -> None:
    """Add this call's minutes to what earlier calls of the same run took."""
    path = run / "training.json"
    before = json.loads(path.read_text())["minutes"] if path.exists() else {}
    total = {name: round(before.get(name, 0.0) + value, 1) for name, value in minutes.items()}
    path.write_text(json.dumps({"seed": seed, "scale": scale, "minutes": total}, indent=2) + "\n")
