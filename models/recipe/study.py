"""Four models that differ in two things only: whether plans follow the task, and whether the eye mixes experts.

They share the eye and what the language model learned from symbols; then each plan trains one language model, and
each model gets its own last stage, all of them equally long. STUDY/<plan> and STUDY/<eye>-<plan> are runs like any
other, so a stopped study goes on where it was and an arm is exported like a model.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from tokenizers import Tokenizer

from tam_edge.models.config import NANO
from tam_edge.models.recipe.experts import EXPERTS, tune_experts
from tam_edge.models.recipe.features import FIXED
from tam_edge.models.recipe.joint import JOINT, ROW_WEIGHTS, Lesson, train_jointly
from tam_edge.models.recipe.loop import Stage
from tam_edge.models.recipe.parallel import run_in_processes
from tam_edge.runtime.errors import UsageError

PLANS: dict[str, dict[str, float]] = {
    "fixed": {FIXED: 1.0},
    "planned": {row: weight for row, weight in ROW_WEIGHTS.items() if row != "still"},
}
"""Which rows of views each plan's models are trained on."""
LANGUAGE = replace(JOINT, steps=1500, decay_from=0.4)
LAST = replace(EXPERTS, steps=200)
SHARED = ("eye.pt", "symbols.pt", "projectors.pt", "tokenizer.json")
"""What every arm starts from."""


@dataclass(frozen=True, slots=True)
class Arm:
    """One of the four models."""

    plan: str
    """A key of PLANS."""
    experts: int
    """Experts of every layer of the eye; 1 is dense."""

    @property
    def name(self) -> str:
        """Name of its folder."""
        return f"{'dense' if self.experts == 1 else 'moe'}-{self.plan}"


ARMS = tuple(Arm(plan, experts) for plan in PLANS for experts in (1, NANO.vision.experts))


def train_arms(run: Path, study: Path, *, seed: int = 0, scale: float = 1.0, processes: int = 1) -> list[Path]:
    """Train what is not finished yet, and return the folders of the four arms.

    Raises:
        UsageError: `run` has not got as far as the filmed views.
    """
    missing = [name for name in (*SHARED, "features", "inductor") if not (run / name).exists()]
    if missing:
        raise UsageError(f"{run} lacks {', '.join(missing)}: `tam-edge train nano --run {run}` makes them")
    for plan in PLANS:
        folder = _prepare(study / plan, run, SHARED, ("features",))
        run_in_processes(partial(_train_language, folder, plan, seed, _scaled(LANGUAGE, scale)), processes)
    for arm in ARMS:
        folder = _prepare(study / arm.name, study / arm.plan, (*SHARED, "joint.pt"), ())
        shutil.copytree(run / "inductor", folder / "inductor", dirs_exist_ok=True)
        run_in_processes(partial(_tune, folder, arm, seed, _scaled(LAST, scale)), processes)
    return [study / arm.name for arm in ARMS]


def _prepare(folder: Path, source: Path, files: tuple[str, ...], folders: tuple[str, ...]) -> Path:
    """Make `folder` with what it starts from: files are copied, since training writes beside them; folders linked."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in files:
        if not (folder / name).exists():
            shutil.copyfile(source / name, folder / name)
    for name in folders:
        if not (folder / name).exists():
            (folder / name).symlink_to((source / name).resolve(), target_is_directory=True)
    return folder


def _scaled(stage: Stage, scale: float) -> Stage:
    return replace(stage, steps=max(1, round(stage.steps * scale)))


def _lesson(plan: str, fraction_done: float) -> Lesson:
    """Pictures of symbols are left out: their grid would be of one plan only."""
    hints = 12 if fraction_done < 0.5 else 4
    return Lesson(symbols=0.0, still=0.0, small=0.0, rows=PLANS[plan], questions=14, hints=hints)


def _train_language(folder: Path, plan: str, seed: int, stage: Stage) -> None:
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    train_jointly(folder, NANO, tokenizer, seed=seed, stage=stage, lessons=partial(_lesson, plan))


def _tune(folder: Path, arm: Arm, seed: int, stage: Stage) -> None:
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    config = replace(NANO, vision=replace(NANO.vision, experts=arm.experts))
    tune_experts(folder, config, tokenizer, seed=seed, stage=stage, rows=PLANS[arm.plan])
