"""The arms of a study become bundles with the rules each was trained for, and one evaluation compares them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from rough_models import LANGUAGE, save_rough_run

from tam_edge.apps.cli import run as command
from tam_edge.apps.interrupt import Interrupt
from tam_edge.export import study
from tam_edge.export.nano import NANO_FACTS
from tam_edge.export.study import export_study, facts_of
from tam_edge.models.config import NANO, TallVAConfig
from tam_edge.models.recipe.study import ARMS
from tam_edge.models.recipe.views import GROUPS, clip_view, whole_view
from tam_edge.models.street import make_scene
from tam_edge.models.street.video import VIDEO_FPS, frame_count
from tam_edge.models.street.world import FIRST_UNSEEN_SEED
from tam_edge.runtime import Bundle, UsageError
from tam_edge.runtime.frames import VideoInfo
from tam_edge.runtime.inductor import TaskEstimate
from tam_edge.runtime.plan import make_plan

NAMES = ("dense-fixed", "moe-fixed", "dense-planned", "moe-planned")
SEED = 902882


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four arms of random weights, with the nano model's grids and one small layer each."""
    folder: Path = tmp_path_factory.mktemp("study")
    for arm in ARMS:
        vision = replace(NANO.vision, width=32, layers=1, mlp_width=48, experts=arm.experts)
        projector = replace(NANO.projector, input_width=32, output_width=LANGUAGE.width)
        save_rough_run(folder / arm.name, TallVAConfig(vision, projector, replace(LANGUAGE, layers=1)))
    return folder


@pytest.fixture(scope="module")
def bundles(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Bundle]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(study, "NANO_FACTS", replace(NANO_FACTS, max_output_tokens=3))
        return export_study(trained, tmp_path_factory.mktemp("bundles"), questions=1)


def test_every_arm_is_a_bundle_of_its_own(bundles: dict[str, Bundle]) -> None:
    assert tuple(bundles) == NAMES
    said = {name: bundle.manifest for name, bundle in bundles.items()}
    assert {manifest.name for manifest in said.values()} == {f"tallva-study-{name}" for name in NAMES}
    sizes = {name: sum(spec.size_bytes for spec in manifest.files().values()) for name, manifest in said.items()}
    assert sizes["dense-fixed"] == sizes["dense-planned"] < sizes["moe-fixed"] == sizes["moe-planned"]
    assert said["moe-planned"].routing.tasks == NANO_FACTS.routing.tasks
    for name in ("dense-fixed", "moe-fixed"):
        assert {rule.group for rule in said[name].routing.tasks} == {"balanced"}
        assert [rule.title for rule in said[name].routing.tasks] == [rule.title for rule in NANO_FACTS.routing.tasks]


def test_each_arm_looks_at_what_it_was_trained_on(bundles: dict[str, Bundle]) -> None:
    for seed in range(FIRST_UNSEEN_SEED, FIRST_UNSEEN_SEED + 12):
        scene = make_scene(seed)
        frames = frame_count(scene)
        info = VideoInfo("x", "video", frames / VIDEO_FPS, frames, 8, 8, float(VIDEO_FPS), None, "x")
        trained = {name: whole_view(scene, "balanced") for name in NAMES[:2]}
        for number, rule in enumerate(NANO_FACTS.routing.tasks):
            trained |= {name: clip_view(scene, rule.group) for name in NAMES[2:]}
            chances = {task.name: float(index == number) for index, task in enumerate(NANO_FACTS.routing.tasks)}
            for name, bundle in bundles.items():
                plan = make_plan(TaskEstimate("?", rule.name, 1.0, chances), info, bundle.manifest)
                assert (plan.timestamps_seconds, plan.grid) == (trained[name].times, trained[name].grid), name
    assert len(GROUPS) == len({rule.group for rule in NANO_FACTS.routing.tasks})


def test_one_table_compares_them(bundles: dict[str, Bundle], capsys: pytest.CaptureFixture[str]) -> None:
    baseline, *others = (str(bundles[name].path) for name in reversed(NAMES))
    arguments = ["eval", "synthetic", "--seed", str(SEED), "--videos", "2", "--model", baseline]
    assert command([*arguments, *(word for path in others for word in ("--against", path)), "--json"], Interrupt()) == 0
    compared = json.loads(capsys.readouterr().out)["ablations"]
    names = ["baseline", "dense-planned", "moe-fixed", "dense-fixed"]
    assert [row["arm"] for row in compared["rows"]] == compared["bundles"] == names
    assert {(pair["arm"], pair["than"]) for pair in compared["pairs"]} == {
        (first, second) for index, first in enumerate(names) for second in names[index + 1 :]
    }
    tokens = {row["arm"]: row["mean_visual_tokens"] for row in compared["rows"]}
    assert tokens["moe-fixed"] == tokens["dense-fixed"] and tokens["baseline"] == tokens["dense-planned"]


def test_an_arm_that_is_not_trained_stops_it_before_the_first_is_written(trained: Path, tmp_path: Path) -> None:
    for name in NAMES[:-1]:
        (tmp_path / name).symlink_to(trained / name)
    with pytest.raises(UsageError, match=r"moe-planned lacks config\.json.*finish the training"):
        export_study(tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_facts_tell_the_arms_apart() -> None:
    words = [facts_of(arm).description for arm in ARMS]
    assert len(set(words)) == len(words)


def test_command_names_what_a_study_lacks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["export", "study", "--study", str(tmp_path), "--out", str(tmp_path / "out")]
    assert command(arguments, Interrupt()) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert "dense-fixed lacks config.json" in line
