"""Four models that differ in two things only: whether plans follow the task, and whether the eye mixes experts.

They share the eye, and language model, positions and changes of a finished model (`tam-edge reopen`); then each plan
trains one language model, and each arm gets its own last stage, all of them equally long. Half of the scenes are brisk:
of the others nine frames show all that is asked about, so that there is nothing to plan. STUDY/<plan> and
STUDY/<eye>-<plan> are runs like any other, so a stopped study goes on where it was and an arm is exported like a model.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from tokenizers import Tokenizer

from tam_edge.models.config import NANO
from tam_edge.models.recipe.experts import EXPERTS, tune_experts
from tam_edge.models.recipe.features import FIXED, film
from tam_edge.models.recipe.joint import JOINT, ROW_WEIGHTS, Lesson, fit_projectors, train_jointly
from tam_edge.models.recipe.loop import Stage
from tam_edge.models.recipe.minutes import FACTS, note_minutes
from tam_edge.models.recipe.parallel import run_in_processes
from tam_edge.models.recipe.parting import PARTING, part_experts
from tam_edge.models.street.pace import FIRST_BRISK_SEED
from tam_edge.runtime.errors import UsageError

PLANS: dict[str, dict[str, float]] = {
    "fixed": {FIXED: 1.0},
    "planned": {row: weight for row, weight in ROW_WEIGHTS.items() if row != "still"},
}
"""Which rows of views each plan's models are trained on."""
LANGUAGE = replace(JOINT, steps=600, muon_lr=8e-4, adam_lr=8e-4, decay_from=0.3)
LAST = replace(EXPERTS, steps=120)
EYE = replace(PARTING, steps=1200)
STEPS = LANGUAGE.steps
BRISK, BRISK_SHARDS = 0.5, 12
"""Part of the scenes of the last stage that are brisk, and filmed shards of brisk scenes for the language models, which
learn from as many calm ones. The eye sees single frames, and goes on with calm scenes."""
LANGUAGE_FILE = "reopened.pt"
"""What a bundle's language model, positions and changes are kept in."""
START = ("eye.pt", "tokenizer.json", LANGUAGE_FILE)
"""What is taken over from the run."""
SHARED = ("eye.pt", "symbols.pt", "projectors.pt", "tokenizer.json")
"""What every arm starts from."""
BASE, FILMED = "base", "features/0000.safetensors"
"""Folder of what the arms share, and the first film of the run."""
BEGUN = "study.json"
"""Seed, steps and language model a study was begun with."""


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
        return f"{self.eye}-{self.plan}"

    @property
    def eye(self) -> str:
        """Which eye it has."""
        return "dense" if self.experts == 1 else "moe"


ARMS = tuple(Arm(plan, experts) for plan in PLANS for experts in (1, NANO.vision.experts))


def train_arms(run: Path, study: Path, *, seed: int = 0, steps: int = STEPS, processes: int = 1) -> dict[str, Path]:
    """Train what is not finished yet, and return the folders of the four arms by name.

    Every plan trains its language model for `steps`; how every eye goes on and every arm has its last stage is in
    proportion.

    Raises:
        UsageError: `run` has not got as far as the filmed views, no language model was reopened there, or the study
            was begun with another seed or length.
    """
    _check(run)
    _begin(study, seed, steps, hashlib.sha256((run / LANGUAGE_FILE).read_bytes()).hexdigest())
    language = replace(LANGUAGE, steps=steps)
    eye, last = (replace(stage, steps=max(1, round(stage.steps * steps / STEPS))) for stage in (EYE, LAST))
    facts = {"seed": seed, "steps_joint": language.steps, "steps_parting": eye.steps, "steps_experts": last.steps}
    base = _prepare(study / BASE, run, START, ())
    shutil.copyfile(base / LANGUAGE_FILE, base / "symbols.pt")
    _link_films(base, run)
    _train(base, partial(_film_and_fit, base, seed), processes, "projectors", facts)
    for plan in PLANS:
        folder = _prepare(study / plan, base, SHARED, ("features",))
        _train(folder, partial(_train_language, folder, plan, seed, language), processes, "joint", facts)
    for arm in {arm.eye: arm for arm in ARMS}.values():
        folder = _prepare(study / arm.eye, run, ("eye.pt",), ())
        _train(folder, partial(_train_eye, folder, arm, seed, eye), processes, "parting", facts)
    for arm in ARMS:
        folder = _prepare(study / arm.name, study / arm.plan, (*SHARED, "joint.pt", FACTS), ())
        _prepare(folder, study / arm.eye, ("parting.pt",), ())
        shutil.copytree(run / "inductor", folder / "inductor", dirs_exist_ok=True)
        _train(folder, partial(_tune, folder, arm, seed, last), processes, "experts", facts)
    return {arm.name: study / arm.name for arm in ARMS}


def _check(run: Path) -> None:
    names = ("eye.pt", "tokenizer.json", FILMED, "inductor/metrics.json")
    said = []
    if missing := [name for name in names if not (run / name).exists()]:
        said.append(f"{', '.join(missing)}: `tam-edge train nano --run {run}` makes them")
    if not (run / LANGUAGE_FILE).exists():
        said.append(f"{LANGUAGE_FILE}: `tam-edge reopen BUNDLE --run {run}` makes it")
    if said:
        raise UsageError(f"{run} lacks {'; and '.join(said)}")


def _link_films(base: Path, run: Path) -> None:
    """As many calm scenes as there will be brisk ones beside them; the run may have been moved since."""
    (base / "features").mkdir(exist_ok=True)
    for path in sorted((run / "features").glob("*.safetensors"))[:BRISK_SHARDS]:
        _link(base / "features" / path.name, path)


def _link(link: Path, to: Path) -> None:
    link.unlink(missing_ok=True)
    link.symlink_to(to.resolve(), target_is_directory=to.is_dir())


def _film_and_fit(base: Path, seed: int) -> None:
    film(base, NANO.vision, shards=BRISK_SHARDS, first_seed=FIRST_BRISK_SEED)
    fit_projectors(base, NANO, Tokenizer.from_file(str(base / "tokenizer.json")), seed=seed)


def _begin(study: Path, seed: int, steps: int, start: str) -> None:
    """Arms of one study are trained equally long from one start: what was begun otherwise cannot go on."""
    begun, path = {"seed": seed, "steps": steps, "start": start}, study / BEGUN
    before = json.loads(path.read_text()) if path.exists() else begun
    if before.get("start") != start:
        raise UsageError(f"{study} was begun from another language model: name another folder with --out")
    if before != begun:
        words = f"--seed {before['seed']} --steps {before['steps']}"
        raise UsageError(f"{study} was begun with {words}: say so again, or name another folder")
    study.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(begun) + "\n")


def _train(folder: Path, work: Callable[[], None], processes: int, stage: str, facts: Mapping[str, float]) -> None:
    began = time.monotonic()
    run_in_processes(work, processes)
    note_minutes(folder, stage, (time.monotonic() - began) / 60, facts)


def _prepare(folder: Path, source: Path, files: tuple[str, ...], folders: tuple[str, ...]) -> Path:
    """Make `folder` with what it starts from: files are copied, since training writes beside them; folders linked."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in files:
        if not (folder / name).exists():
            shutil.copyfile(source / name, folder / f"{name}.partial")
            (folder / f"{name}.partial").replace(folder / name)
    for name in folders:
        _link(folder / name, source / name)
    return folder


def _lesson(plan: str, fraction_done: float) -> Lesson:
    """Pictures of symbols are left out: their grid would be of one plan only."""
    del fraction_done
    return Lesson(symbols=0.0, still=0.0, small=0.0, rows=PLANS[plan], questions=16, hints=0)


def _train_eye(folder: Path, arm: Arm, seed: int, stage: Stage) -> None:
    part_experts(folder, replace(NANO.vision, experts=arm.experts), seed=seed, stage=stage)


def _train_language(folder: Path, plan: str, seed: int, stage: Stage) -> None:
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    train_jointly(folder, NANO, tokenizer, seed=seed, stage=stage, lessons=partial(_lesson, plan))


def _tune(folder: Path, arm: Arm, seed: int, stage: Stage) -> None:
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    config = replace(NANO, vision=replace(NANO.vision, experts=arm.experts))
    tune_experts(folder, config, tokenizer, seed=seed, stage=stage, rows=PLANS[arm.plan], brisk=BRISK)
