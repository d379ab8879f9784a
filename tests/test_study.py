"""The study trains four arms that differ in plan and in experts only, each of them a run that can be exported."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer

from tam_edge.apps.cli import run as command
from tam_edge.apps.interrupt import Interrupt
from tam_edge.models.checkpoint import load_checkpoint
from tam_edge.models.config import NANO
from tam_edge.models.recipe import features, joint, study
from tam_edge.models.recipe.eye import DenseHeads
from tam_edge.models.recipe.features import FIXED, Store, film, view_of
from tam_edge.models.recipe.nano import ROUTING
from tam_edge.models.recipe.noticing import new_reader
from tam_edge.models.recipe.study import ARMS, train_arms
from tam_edge.models.recipe.tokenizer import train_tokenizer
from tam_edge.models.street.pace import FIRST_BRISK_SEED
from tam_edge.models.vision import VisionTransformer
from tam_edge.runtime.errors import UsageError


def test_one_pipeline_is_asked_everything() -> None:
    fixed = view_of(3, FIXED)
    balanced = view_of(3, "balanced")
    assert (fixed.times, fixed.grid) == (balanced.times, balanced.grid)
    assert {question.task for question in fixed.asked} > {question.task for question in balanced.asked}
    rule = next(rule for rule in ROUTING.tasks if rule.group == "more")
    assert any(ROUTING.tasks[question.task - 1].group == rule.group for question in fixed.asked)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with untrained weights in every file that a study starts from."""
    folder: Path = tmp_path_factory.mktemp("run")
    torch.manual_seed(0)
    tokenizer: Tokenizer = train_tokenizer()
    tokenizer.save(str(folder / "tokenizer.json"))
    vision = VisionTransformer(replace(NANO.vision, experts=1))
    reader = new_reader(NANO, tokenizer).modules
    for name, modules in (
        ("eye.pt", {"vision": vision, "heads": DenseHeads(NANO.vision.width)}),
        (study.LANGUAGE_FILE, {part: reader[part] for part in ("language", "position", "change")}),
    ):
        torch.save({"modules": {key: module.state_dict() for key, module in modules.items()}}, folder / name)
    (folder / "inductor").mkdir()
    (folder / "inductor" / "metrics.json").write_text("{}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(features, "SCENES_PER_SHARD", 4)
        film(folder, NANO.vision, shards=1)
    return folder


def test_the_fixed_row_is_the_balanced_rows_film(run: Path) -> None:
    store = Store(run)
    [*fixed], [*balanced] = store.by_row(FIXED), store.by_row("balanced")
    assert len(fixed) == len(balanced) > 0
    assert torch.equal(store.load(fixed[0])[1], store.load(balanced[0])[1])


def test_four_arms_come_out(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(joint, "HELD_OUT_VIEWS", 1)
    monkeypatch.setattr(features, "SCENES_PER_SHARD", 4)
    monkeypatch.setattr(study, "BRISK_SHARDS", 1)
    monkeypatch.setitem(joint.fit_projectors.__kwdefaults__, "stage", replace(joint.PROJECTORS, steps=1))
    found = train_arms(run, tmp_path / "study", steps=1)
    assert list(found) == ["dense-fixed", "moe-fixed", "dense-planned", "moe-planned"]
    folders = list(found.values())
    models = [load_checkpoint(folder) for folder in folders]
    assert [model.config.vision.experts for model in models] == [arm.experts for arm in ARMS] == [1, 4, 1, 4]
    words = [model.language.embed_tokens.weight for model in models]
    assert not torch.equal(words[0], words[2]), "the plans have trained different language models"
    seeds = {int(key.split("/")[0]) for _, key in Store(tmp_path / "study" / "planned").by_row("more")}
    assert seeds == {*range(4), *range(FIRST_BRISK_SEED, FIRST_BRISK_SEED + 4)}, "half of the scenes are brisk"
    assert all((folder / "inductor" / "metrics.json").is_file() for folder in folders)
    for folder in folders:
        said = json.loads((folder / "training.json").read_text())
        steps = [said[f"steps_{stage}"] for stage in ("joint", "parting", "experts")]
        assert said["seed"] == 0 and steps == [1, 2, 1]
        assert set(said["minutes"]) == {"joint", "experts"}
    began = (folders[0] / "experts.pt").stat().st_mtime_ns
    train_arms(run, tmp_path / "study", steps=1)
    assert (folders[0] / "experts.pt").stat().st_mtime_ns == began, "a finished arm is trained again"
    for other in ({"steps": 2}, {"steps": 1, "seed": 1}):
        with pytest.raises(UsageError, match="was begun with --seed 0 --steps 1: say so again"):
            train_arms(run, tmp_path / "study", **other)
    shutil.copytree(run, tmp_path / "run")
    (tmp_path / "run" / study.LANGUAGE_FILE).write_bytes(b"of another bundle")
    with pytest.raises(UsageError, match="was begun from another language model"):
        train_arms(tmp_path / "run", tmp_path / "study", steps=1)


def test_an_unfinished_run_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["train", "study", "--run", str(tmp_path), "--out", str(tmp_path / "study")]
    assert command(arguments, Interrupt()) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert "lacks eye.pt" in line and "inductor/metrics.json: `tam-edge train nano --run" in line
    assert "; and reopened.pt: `tam-edge reopen BUNDLE --run" in line
    assert list(tmp_path.iterdir()) == []


def test_a_run_without_a_language_model_says_where_it_comes_from(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(run, tmp_path / "run")
    (tmp_path / "run" / study.LANGUAGE_FILE).unlink()
    arguments = ["train", "study", "--run", str(tmp_path / "run"), "--out", str(tmp_path / "study")]
    assert command(arguments, Interrupt()) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert "lacks reopened.pt: `tam-edge reopen BUNDLE --run" in line
    assert not (tmp_path / "study").exists()
