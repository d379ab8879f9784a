"""Stage 3b: the eye with its parted experts, projectors and language model are tuned together.

Answers and the dense labels that taught the eye pay, and the router losses, which keep all experts in use.
"""

from __future__ import annotations

import random
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import Tensor

from tam_edge.models.checkpoint import save_checkpoint
from tam_edge.models.config import TallVAConfig
from tam_edge.models.projector import pool
from tam_edge.models.recipe.accelerator import mixed_precision, training_device
from tam_edge.models.recipe.eye import dense_loss
from tam_edge.models.recipe.features import view_of, view_pixels
from tam_edge.models.recipe.joint import ROW_WEIGHTS, load_language, project
from tam_edge.models.recipe.language import accuracy_by_family, answer_loss, choose_questions
from tam_edge.models.recipe.loop import Stage, run_stage
from tam_edge.models.recipe.pack import pack
from tam_edge.models.recipe.parallel import is_first, my_share
from tam_edge.models.recipe.parting import load_parted
from tam_edge.models.recipe.symbols import view_labels
from tam_edge.models.recipe.views import View
from tam_edge.models.street.pace import FIRST_BRISK_SEED
from tam_edge.models.tallva import TallVA

EXPERTS = Stage("experts", steps=160, muon_lr=4e-4, adam_lr=2e-4, warmup_steps=30, decay_from=0.3)
VIEWS_PER_STEP = 4
FIRST_SCENE, LAST_SCENE = 100_000, 899_999  # scenes that no filmed view shows
LABEL_FRAMES = 4  # frames of a view that also pay for their dense labels
LABEL_WEIGHT = 0.05
EVALUATION_VIEWS = 25


def tune_experts(
    run: Path,
    config: TallVAConfig,
    tokenizer: Tokenizer,
    *,
    seed: int = 0,
    stage: Stage = EXPERTS,
    rows: dict[str, float] = ROW_WEIGHTS,
    brisk: float = 0.0,
) -> TallVA:
    """Tune the whole model on pictures and answers; leaves RUN/experts.pt and the checkpoint that the export reads.

    `rows` says how often each row is looked at, `brisk` which part of the scenes is brisk. With one expert in `config`
    the eye stays dense.
    """
    torch.manual_seed(seed)
    device = training_device()
    model = load_language(run, config, tokenizer)
    state = torch.load(run / "joint.pt", weights_only=True)["modules"]
    model.language.load_state_dict(state["language"])
    model.projectors.load_state_dict(state["projectors"])
    model.vision, heads = load_parted(run, config.vision)
    model.config = TallVAConfig(config.vision, config.projector, model.config.language)
    model.to(device).train()
    heads.to(device)

    def see(view: View, row: str) -> tuple[Tensor, Tensor]:
        """Visual tokens [T, d] of a view, and what its eye pays: router losses and dense labels of some frames."""
        output = model.vision(view_pixels(view, row).to(device))
        some = torch.arange(0, len(view.times), max(1, len(view.times) // LABEL_FRAMES))
        labels = view_labels(view)[some].to(device)
        cost = output.losses.weighted() + LABEL_WEIGHT * dense_loss(heads(output.features[some]), labels)
        return project(model, pool(output.features, view.grid), view), cost

    def loss_of_step(step: int) -> Tensor:
        total = torch.zeros((), device=device)
        for index in my_share(VIEWS_PER_STEP):
            rng = random.Random(f"experts-{seed}-{step}-{index}")
            view, row = _draw(rng, rows, brisk)
            with mixed_precision(device):
                visual, cost = see(view, row)
                packed = pack(tokenizer, view, choose_questions(view, rng))
                loss = (answer_loss(model.language, packed, visual) + cost) / VIEWS_PER_STEP
            loss.backward()
            total += loss.detach()
        return total

    def evaluate() -> str:
        rng = random.Random(f"experts-evaluation-{seed}")
        drawn = [_draw(rng, rows, brisk) for _ in range(EVALUATION_VIEWS)]
        return accuracy_by_family(model.language, tokenizer, {"all": lambda: [(v, see(v, row)[0]) for v, row in drawn]})

    modules = {"vision": model.vision, "projectors": model.projectors, "language": model.language, "heads": heads}
    run_stage(stage, modules, loss_of_step, run, evaluate=evaluate, evaluate_every=100)
    if is_first():  # the others hold the same weights
        save_checkpoint(run, model)
    return model.eval()


def _draw(rng: random.Random, rows: dict[str, float], brisk: float) -> tuple[View, str]:
    first = FIRST_BRISK_SEED if brisk and rng.random() < brisk else 0
    while True:
        row = rng.choices(list(rows), weights=list(rows.values()))[0]
        view = view_of(first + rng.randrange(FIRST_SCENE, LAST_SCENE), row)
        if view.asked:
            return view, row
