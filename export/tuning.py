"""The language model of a bundle learns on, from what the bundle's own eye shows it of the street camera's scenes.

Only its weights change, a little: what the street is asked about grows and is worded anew without the days that a
training from nothing takes. The schedule is that of the recipe's last stage, where all has been learned once.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import Tensor

from tam_edge.export.bundle_eye import BundleEye
from tam_edge.export.language_reader import read_language
from tam_edge.models.language import LanguageModel
from tam_edge.models.recipe.features import Store, film_views, view_pixels
from tam_edge.models.recipe.joint import HELD_OUT_VIEWS, ROW_WEIGHTS, VIEWS_PER_STEP, WORDINGS
from tam_edge.models.recipe.language import accuracy_by_family, answer_loss, choose_questions
from tam_edge.models.recipe.loop import Stage, run_stage
from tam_edge.models.recipe.pack import pack
from tam_edge.models.recipe.parallel import my_share
from tam_edge.models.recipe.views import View
from tam_edge.runtime.bundle import Bundle

TUNING = Stage("tuning", steps=600, muon_lr=4e-4, adam_lr=2e-4, warmup_steps=30, decay_from=0.3)
SHARDS = 10
"""Filmed shards: 2,000 views, some minutes of drawing and looking."""
MOST_QUESTIONS = 16
"""Questions about a view in a step."""


def learn_on(bundle: Bundle, run: Path, *, seed: int, stage: Stage, shards: int = SHARDS) -> None:
    """Film what is missing, and train until `stage` is over; leaves RUN/tuning.pt, with the module "language".

    Processes share both.

    Raises: EngineError; UsageError where the language model cannot be read.
    """
    torch.manual_seed(seed)
    eye = BundleEye(bundle, torch.get_num_threads())
    film_views(run, partial(_seen, eye), shards)
    language = read_language(bundle.file(bundle.manifest.language.engines[0])).train()
    tokenizer = Tokenizer.from_file(str(bundle.file(bundle.manifest.language.tokenizer)))
    store = Store(run)
    taught, held_out = dict[str, list[tuple[int, str]]](), dict[str, list[tuple[int, str]]]()
    for row in ROW_WEIGHTS:
        keys = store.by_row(row)
        last = max(1, min(HELD_OUT_VIEWS, len(keys) // 4))
        taught[row], held_out[row] = keys[:-last], keys[-last:]

    def loss_of_step(step: int) -> Tensor:
        total = torch.zeros(())
        for index in my_share(VIEWS_PER_STEP):
            rng = random.Random(f"tuning-{seed}-{step}-{index}")
            row = rng.choices(list(ROW_WEIGHTS), weights=list(ROW_WEIGHTS.values()))[0]
            view, visual = store.load(rng.choice(taught[row]), again=rng.randrange(WORDINGS))
            packed = pack(tokenizer, view, choose_questions(view, rng, MOST_QUESTIONS, hints=0))
            loss = answer_loss(language, packed, visual) / VIEWS_PER_STEP
            loss.backward()
            total += loss.detach()
        return total

    def views(row: str) -> Callable[[], list[tuple[View, Tensor]]]:
        return lambda: [store.load(key) for key in held_out[row]]

    def evaluate() -> str:
        return accuracy_by_family(language, tokenizer, {row: views(row) for row in ROW_WEIGHTS})

    run_stage(stage, {"language": language}, loss_of_step, run, evaluate=evaluate, evaluate_every=200)


def learned(run: Path, language: LanguageModel) -> LanguageModel:
    """`language` with the weights that `learn_on` left."""
    state = torch.load(run / f"{TUNING.name}.pt", weights_only=True)["modules"]["language"]
    language.load_state_dict(state)
    return language.eval()


def _seen(eye: BundleEye, view: View, row: str) -> Tensor:
    """Visual tokens [T, d] of a view, float16."""
    times = torch.tensor(view.time_fractions)
    return eye(view_pixels(view, row), view.grid, times).half().contiguous()
