"""Stage 2c: from symbols to what the eye really sees. First each projector learns to say what symbols say, then all of
language model, projectors and positions learn from answers, with some symbols kept in so that nothing is forgotten.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional

from tam_edge.models.config import TallVAConfig
from tam_edge.models.recipe.accelerator import mixed_precision, training_device
from tam_edge.models.recipe.features import ROWS, Store
from tam_edge.models.recipe.guidance import NOTES_WEIGHT, Guidance, notice
from tam_edge.models.recipe.language import BUSY, accuracy_by_family, answer_loss, choose_questions
from tam_edge.models.recipe.loop import Stage, run_stage
from tam_edge.models.recipe.pack import pack
from tam_edge.models.recipe.parallel import my_share
from tam_edge.models.recipe.symbols import Symbols, mark, view_labels
from tam_edge.models.recipe.views import View, busy_view, random_view
from tam_edge.models.tallva import TallVA

PROJECTORS = Stage("projectors", steps=500, muon_lr=2e-3, adam_lr=2e-3, warmup_steps=20)
JOINT = Stage("joint", steps=3600, muon_lr=1.6e-3, adam_lr=1.6e-3, warmup_steps=40, decay_from=0.3)
VIEWS_PER_STEP = 6
ROW_WEIGHTS = {"high": 1.0, "balanced": 1.6, "more": 2.0, "still": 0.4}  # what plans look at
WORDINGS = 1000  # a view that comes again asks in other words
HELD_OUT_VIEWS = 40  # per row, from the end of the store


@dataclass(frozen=True, slots=True)
class Lesson:
    """What a part of the stage teaches with."""

    symbols: float
    """Chance that a view stays symbolic."""
    still: float
    """Chance that a symbolic view is a picture."""
    small: float
    """Chance that a symbolic clip is cut short: a few frames teach order at a third of the price."""
    rows: dict[str, float]
    """How often each row of filmed views is looked at."""
    questions: int
    """Most questions of a view."""
    hints: int
    """Most hints of a view."""


def lesson_at(fraction_done: float) -> Lesson:
    """Pictures in between at first, hints fewer and fewer; symbols stay: they show scenes that were never filmed."""
    if fraction_done < 0.1:
        pictures = {"high": 1.0, "balanced": 1.0, "more": 1.0, "still": 1.5}
        return Lesson(symbols=0.3, still=0.3, small=0.5, rows=pictures, questions=14, hints=10)
    hints = 8 if fraction_done < 0.5 else 4 if fraction_done < 0.85 else 1
    return Lesson(symbols=0.25, still=0.1, small=0.2, rows=ROW_WEIGHTS, questions=16, hints=hints)


def load_language(run: Path, config: TallVAConfig, tokenizer: Tokenizer) -> TallVA:
    """The whole model with the decoder and positions of RUN/symbols.pt; the eye is dense until stage 3."""
    sizes = replace(config.language, vocab_size=tokenizer.get_vocab_size())
    model = TallVA(replace(config, language=sizes, vision=replace(config.vision, experts=1)))
    state = torch.load(run / "symbols.pt", weights_only=True)["modules"]
    model.language.load_state_dict(state["language"])
    for name, module in (("position", model.projectors.position), ("change", model.projectors.change)):
        assert module is not None
        module.load_state_dict(state[name])
    return model


def project(model: TallVA, pooled: Tensor, view: View) -> Tensor:
    """Visual tokens [T, d] of features that are already pooled to the view's grid."""
    projectors = model.projectors
    expert = projectors.experts[projectors.config.grids.index(view.grid)]
    return mark(expert(pooled), view, position=projectors.position, change=projectors.change)


def fit_projectors(
    run: Path, config: TallVAConfig, tokenizer: Tokenizer, *, seed: int = 0, stage: Stage = PROJECTORS
) -> TallVA:
    """Each projector expert learns to give the symbols of what its patches show; leaves RUN/projectors.pt."""
    torch.manual_seed(seed)
    device = training_device()
    model = load_language(run, config, tokenizer).to(device)
    symbols, store = Symbols(tokenizer), Store(run)
    words = model.language.embed_tokens.weight.detach().cpu()
    rows = {row: store.by_row(row) for row in ROWS}

    def loss_of_step(step: int) -> Tensor:
        rng = random.Random(f"projectors-{seed}-{step}-{my_share(2).start}")
        total = torch.zeros((), device=device)
        for row in (ROWS[index] for index in my_share(len(ROWS))):
            view, pooled = store.load(rng.choice(rows[row]))
            target = symbols.tokens(view_labels(view), view.grid, words).to(device)
            expert = model.projectors.experts[model.projectors.config.grids.index(view.grid)]
            total = total + functional.mse_loss(expert(pooled.to(device)), target)
        return total

    run_stage(stage, {"experts": model.projectors.experts}, loss_of_step, run)
    return model


def train_jointly(
    run: Path,
    config: TallVAConfig,
    tokenizer: Tokenizer,
    *,
    seed: int = 0,
    stage: Stage = JOINT,
    lessons: Callable[[float], Lesson] = lesson_at,
) -> TallVA:
    """Language model, projectors and positions on filmed views, as `lessons` of the part done says.

    Answers alone teach where RUN/symbols.pt is of a finished model, which needs no guidance. Leaves RUN/joint.pt.
    """
    model = fit_projectors(run, config, tokenizer, seed=seed)
    device = training_device()
    guidance = _guidance(run, model, tokenizer, device)
    symbols, store = Symbols(tokenizer), Store(run)
    rows = tuple(lessons(1.0).rows)
    held_out = {row: store.by_row(row)[-HELD_OUT_VIEWS:] for row in rows}
    taught = {row: store.by_row(row)[:-HELD_OUT_VIEWS] for row in rows}

    def symbolic(view: View) -> Tensor:
        tokens = symbols.tokens(view_labels(view), view.grid, model.language.embed_tokens.weight)
        return mark(tokens, view, position=model.projectors.position, change=model.projectors.change)

    def loss_of_step(step: int) -> Tensor:
        total, lesson = torch.zeros((), device=device), lessons(step / stage.steps)
        for index in my_share(VIEWS_PER_STEP):
            rng = random.Random(f"joint-{seed}-{step}-{index}")
            if guidance is not None and rng.random() < BUSY:
                view = busy_view(rng)
                with mixed_precision(device):
                    noted = NOTES_WEIGHT * notice(model.language, guidance, view, symbolic(view))
                (noted / VIEWS_PER_STEP).backward()
                continue
            with mixed_precision(device):
                if rng.random() < lesson.symbols:
                    view = random_view(rng, lesson.still, lesson.small)
                    visual = symbolic(view)
                else:
                    row = rng.choices(list(lesson.rows), weights=list(lesson.rows.values()))[0]
                    view, pooled = store.load(rng.choice(taught[row]), again=rng.randrange(WORDINGS))
                    visual = project(model, pooled.to(device), view)
                asked = choose_questions(view, rng, lesson.questions, lesson.hints)
                packed = pack(tokenizer, view, asked)
                loss = answer_loss(model.language, packed, visual)
                guided = loss + guidance.loss(view, asked, packed) if guidance is not None else loss
            (guided / VIEWS_PER_STEP).backward()
            total += loss.detach() / VIEWS_PER_STEP
        return total

    def evaluate() -> str:
        return _accuracy(model, tokenizer, store, held_out, device)

    modules: dict[str, nn.Module] = {"language": model.language, "projectors": model.projectors}
    if guidance is not None:
        modules["guidance"] = guidance
    run_stage(stage, modules, loss_of_step, run, evaluate=evaluate, evaluate_every=min(500, stage.steps))
    return model


def _guidance(run: Path, model: TallVA, tokenizer: Tokenizer, device: torch.device) -> Guidance | None:
    learned = torch.load(run / "symbols.pt", weights_only=True)["modules"].get("guidance")
    if learned is None:
        return None
    guidance = Guidance(model.language, tokenizer).to(device)
    guidance.load_state_dict(learned)
    return guidance


def _accuracy(
    model: TallVA, tokenizer: Tokenizer, store: Store, held_out: dict[str, list[tuple[int, str]]], device: torch.device
) -> str:
    def views(row: str) -> Callable[[], list[tuple[View, Tensor]]]:
        return lambda: [
            (view, project(model, pooled.to(device), view)) for view, pooled in map(store.load, held_out[row])
        ]

    return accuracy_by_family(model.language, tokenizer, {row: views(row) for row in held_out})
