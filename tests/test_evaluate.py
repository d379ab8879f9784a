"""The evaluation: unseen scenes only, honest baselines, every question through the runtime as a real file, all arms."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from tiny_bundle import LADDER, MAX_VISUAL, make_tiny_bundle

from tam_edge.apps.cli import run
from tam_edge.apps.interrupt import Interrupt
from tam_edge.models.evaluate import cli, films
from tam_edge.models.evaluate.arms import ABLATIONS, BASELINE, ablations, chosen, others
from tam_edge.models.evaluate.ask import Reply
from tam_edge.models.evaluate.films import BATCH_FILMS, batches, scene_seeds
from tam_edge.models.evaluate.reencode import ENCODINGS
from tam_edge.models.evaluate.report import ENCODED, Request, evaluate
from tam_edge.models.evaluate.summary import summarise
from tam_edge.models.evaluate.sweep import budgets
from tam_edge.models.evaluate.table import lines
from tam_edge.models.recipe.nano import TASKS
from tam_edge.models.street import Question, make_scene, questions
from tam_edge.models.street.doubts import CANNOT_TELL
from tam_edge.models.street.pace import FIRST_BRISK_SEED
from tam_edge.models.street.video import VIDEO_FPS, frame_count
from tam_edge.models.street.world import FIRST_UNSEEN_SEED
from tam_edge.runtime import BundleError, UsageError, VideoQA
from tam_edge.runtime.bundle import load_bundle
from tam_edge.runtime.plan import Limits, make_plan
from tam_edge.runtime.routing import route

SEED, VIDEOS = 902882, 2  # 12 and 5 seconds: long enough for plans to differ by task, short enough for a test
BUDGETS = (8, 40, 160)


def _reply(video: int, family: str, task: int, answer: str, said: str) -> Reply:
    return Reply("baseline", video, Question(f"{family}?", answer, task, family), said, TASKS[task - 1], 4, 64)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_bundle(tmp_path_factory.mktemp("tiny") / "bundle")


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_bundle(tmp_path_factory.mktemp("other") / "stranger", seed=5)


@pytest.fixture(scope="module")
def measured(bundle: Path, other: Path) -> tuple[dict[str, Any], list[Reply]]:
    """Everything at once, on the tiny bundle."""
    request = Request(
        SEED, VIDEOS, bundle, threads=1, ablate=("all", "fixed-2"), reencode=("all",),
        against=(f"twin={bundle}", str(other)), budgets=tuple(map(str, BUDGETS)),
    )  # fmt: skip
    return evaluate(request)


# ---- films


def test_seeds_are_unseen_and_never_shared() -> None:
    assert min(scene_seeds(990001, 200)) >= FIRST_UNSEEN_SEED
    assert min(scene_seeds(2_990_001, 200)) >= FIRST_BRISK_SEED + FIRST_UNSEEN_SEED
    assert not set(scene_seeds(990001, 400)) & set(scene_seeds(990002, 400))
    for seed, videos in ((0, 10), (899_999, 10), (2_899_999, 10), (990001, 0)):
        with pytest.raises(UsageError):
            scene_seeds(seed, videos)


def test_only_one_batch_of_films_lies_on_the_disk(tmp_path: Path) -> None:
    short = [
        seed for seed in range(FIRST_UNSEEN_SEED, FIRST_UNSEEN_SEED + 400) if make_scene(seed).duration_seconds < 6
    ]
    seeds, numbers = short[: BATCH_FILMS + 1], []
    assert len(seeds) > BATCH_FILMS
    for batch in batches(seeds, tmp_path):
        assert {film.path for film in batch} == set(tmp_path.iterdir())
        numbers += [film.number for film in batch]
        for film in batch:
            assert film.questions == tuple(questions(make_scene(seeds[film.number])))
    assert numbers == list(range(len(seeds)))
    assert list(tmp_path.iterdir()) == []


# ---- summary


def test_summary_counts_and_compares_with_guessing() -> None:
    replies = [_reply(video, "count", 1, answer, "3") for video, answer in enumerate("3321")]
    replies += [_reply(video, "sign", 8, "STOP", "STOP") for video in range(2)]
    report = summarise(replies, TASKS, 4)
    assert report["accuracy"] == pytest.approx(4 / 6, abs=1e-4)
    assert report["per_task"]["static attributes"]["accuracy"] == 0.5
    assert report["per_task"]["static attributes"]["majority"] == 0.5
    assert report["per_family"]["sign"] == {
        "accuracy": 1.0, "majority": 1.0, "questions": 2, "ci95": [1.0, 1.0], "task": "OCR and cross-modal",
    }  # fmt: skip
    low, high = report["ci95"]
    assert 0 <= low <= report["accuracy"] <= high <= 1
    assert report["inductor_accuracy"] == 1.0
    assert (report["mean_frames"], report["mean_visual_tokens"]) == (4, 64)


def test_doubt_is_counted_where_it_is_right_and_where_it_is_not() -> None:
    replies = [
        _reply(0, "doubt", 1, CANNOT_TELL, "i can\N{RIGHT SINGLE QUOTATION MARK}t tell"),
        _reply(1, "doubt", 1, CANNOT_TELL, "red"),
    ]
    replies += [_reply(video, "count", 1, "3", said) for video, said in enumerate(("3", "2", "I can't tell.", "3"))]
    report = summarise(replies, TASKS, 4)
    assert (report["cannot_tell"]["share"], report["cannot_tell"]["questions"]) == (0.5, 2)
    assert (report["false_refusals"]["share"], report["false_refusals"]["questions"]) == (0.25, 4)
    assert report["accuracy"] == 0.5
    assert summarise(replies[2:], TASKS, 4)["cannot_tell"] == {"share": None, "ci95": None, "questions": 0}


# ---- arms


def test_every_arm_is_asked_every_question(measured: tuple[dict[str, Any], list[Reply]]) -> None:
    expected = Counter(
        (video, question)
        for video, seed in enumerate(scene_seeds(SEED, VIDEOS))
        for question in questions(make_scene(seed))
    )
    asked: dict[str, Counter[tuple[int, Question]]] = {}
    for reply in measured[1]:
        asked.setdefault(reply.arm, Counter())[reply.video, reply.question] += 1
    assert set(asked) == {
        *("baseline", *ABLATIONS, "fixed-2", "twin", "stranger"),
        *(f"{line} {budget}" for line in ("planned", "fixed") for budget in BUDGETS),
        *(f"{ENCODED}{name}" for name in ENCODINGS),
    }
    assert all(counts == expected for counts in asked.values())


def test_the_baseline_says_what_the_runtime_says(
    measured: tuple[dict[str, Any], list[Reply]], bundle: Path, tmp_path: Path
) -> None:
    said = {(r.video, r.question): r.said for r in measured[1] if r.arm == "baseline"}
    with VideoQA.load(bundle, threads=1) as qa:
        for batch in batches(scene_seeds(SEED, VIDEOS), tmp_path):
            for film in batch:
                video = qa.open(film.path)
                for question in film.questions:
                    [estimate] = qa.classify([question.text])  # as if nothing had been asked before
                    plan = make_plan(estimate, video.info, qa.bundle.manifest, Limits())
                    assert qa.ask(video, question.text, plan=plan).text == said[film.number, question]


def test_arms_look_at_what_they_say(measured: tuple[dict[str, Any], list[Reply]], bundle: Path) -> None:
    replies = measured[1]
    grids = {
        arm: {reply.visual_tokens / reply.frames for reply in replies if reply.arm == arm}
        for arm in {reply.arm for reply in replies}
    }
    routing = load_bundle(bundle).manifest.routing
    for arm, start in (("fixed", routing), ("fixed-2", routing.model_copy(update={"balanced_grid": 2}))):
        for video, seed in enumerate(scene_seeds(SEED, VIDEOS)):
            seconds = frame_count(make_scene(seed)) / VIDEO_FPS
            wanted = route("balanced", seconds, math.ceil(seconds), MAX_VISUAL, start)
            looked = {(r.frames, r.visual_tokens) for r in replies if (r.arm, r.video) == (arm, video)}
            assert looked == {(wanted.frames, wanted.frames * wanted.grid**2)}, (arm, video)
    assert len(grids["baseline"]) > 1
    assert grids["dense"] == grids["projector-swap"] == grids["baseline"] <= {grid**2 for grid in LADDER}
    for budget in BUDGETS:
        for line in ("planned", "fixed"):
            assert all(r.visual_tokens <= budget for r in replies if r.arm == f"{line} {budget}")


def test_the_whole_budget_is_the_baseline(measured: tuple[dict[str, Any], list[Reply]]) -> None:
    def said(arm: str) -> dict[tuple[int, Question], tuple[str, int]]:
        return {(r.video, r.question): (r.said, r.visual_tokens) for r in measured[1] if r.arm == arm}

    assert said(f"planned {MAX_VISUAL}") == said("baseline") == said("twin")
    assert said(f"fixed {MAX_VISUAL}") == said("fixed")
    for arm in ("dense", "random-top2", "lowest-2", "projector-swap", "projector-untrained", "no-instruction"):
        assert said(arm) != said("baseline"), arm


def test_tables_hold_every_arm_beside_the_baseline(measured: tuple[dict[str, Any], list[Reply]]) -> None:
    report = measured[0]
    assert [row["arm"] for row in report["ablations"]["rows"]] == [
        "baseline", "fixed-2", *ABLATIONS, "twin", "stranger",
    ]  # fmt: skip
    assert [row["arm"] for row in report["encodings"]["rows"]] == ["baseline", *ENCODINGS]
    for part in ("ablations", "encodings"):
        baseline, *rows = report[part]["rows"]
        assert (baseline["accuracy"], baseline["ci95"]) == (report["accuracy"], report["ci95"])
        assert set(baseline["per_task"]) == set(report["per_task"])
        for row in rows:
            low, high = row["difference_ci95"]
            assert row["difference"] == pytest.approx(row["accuracy"] - baseline["accuracy"], abs=2e-4)
            assert low <= row["difference"] <= high
            assert row["counts"] == (low > 0 or high < 0)
        count = len(rows) + 1
        assert len(report[part]["pairs"]) == count * (count - 1) / 2
    bundles = report["ablations"]["bundles"]
    assert bundles == ["baseline", "twin", "stranger"]
    twin = next(row for row in report["ablations"]["rows"] if row["arm"] == "twin")
    assert (twin["difference"], twin["counts"]) == (0, False)
    assert [point["budget"] for point in report["curve"]["planned"]] == list(BUDGETS)


def test_every_arm_is_in_the_text(measured: tuple[dict[str, Any], list[Reply]]) -> None:
    text = "\n".join(lines(measured[0]))
    for name in (*ABLATIONS, *ENCODINGS, "twin", *(f"planned {budget}" for budget in BUDGETS)):
        assert f"\n{name} " in text
    assert "every task: up to 17 frames at grid 3" in text
    assert re.findall(r"^(\S+) than (\S+) ", text, re.MULTILINE) == [
        ("baseline", "twin"), ("baseline", "stranger"), ("twin", "stranger"),
    ]  # fmt: skip


def test_names_are_checked_before_anything_is_filmed(bundle: Path) -> None:
    tiny = load_bundle(bundle)
    assert ablations(("lowest-2,fixed", "fixed"), tiny) == ("fixed", "lowest-2")
    assert ablations(("all",), tiny) == tuple(ABLATIONS)
    assert chosen(("vfr", "half"), ENCODINGS, "--reencode") == ("half", "vfr")
    assert budgets(("all",), tiny)[-1] == MAX_VISUAL and len(budgets(("all",), tiny)) == 8
    for wrong in ("randomtop2", "fixed-9", "fixed-", "fixed-0", "", "lowest-2,"):
        with pytest.raises(UsageError):
            ablations((wrong,), tiny)
    for wrong in ("", "vfr,", "vhs"):
        with pytest.raises(UsageError, match="--reencode"):
            chosen((wrong,), ENCODINGS, "--reencode")
    for wrong in ("3", "many", "-60", "6.5", ""):
        with pytest.raises(UsageError, match="from 4 on"):
            budgets((wrong,), tiny)


@pytest.mark.parametrize(
    ("against", "error"),
    [
        ("dense=BUNDLE", UsageError),
        ("fixed-3=BUNDLE", UsageError),
        ("planned 60=BUNDLE", UsageError),
        ("BUNDLE,x=BUNDLE,x=BUNDLE", UsageError),
        ("x=no", BundleError),
    ],
)
def test_other_bundles_need_names_of_their_own(bundle: Path, against: str, error: type[Exception]) -> None:
    given = tuple(against.replace("BUNDLE", str(bundle)).split(","))
    with pytest.raises(error):
        evaluate(Request(SEED, 1, bundle, against=given))


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"strategy": "zoom"}, r"--strategy 'zoom' is unknown to .*bundle: choose one of tam"),
        ({"memory": "much"}, "no memory size"),
        ({"reencode": ("vhs",)}, "--reencode 'vhs' is unknown: choose from crf35"),
        ({"ablate": ("fixed-9",)}, "grid 9 is not on this bundle's ladder"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_anything_is_filmed(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, wanted: dict[str, Any], message: str
) -> None:
    monkeypatch.setattr(films, "write_video", lambda *_: pytest.fail("filmed"))
    with pytest.raises(UsageError, match=message):
        evaluate(Request(SEED, 1, bundle, **wanted))


@pytest.mark.parametrize("option", ["--model", "--against"])
def test_an_empty_folder_is_no_bundle(
    bundle: Path, tmp_path: Path, option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    options = {"--model": str(bundle), option: str(tmp_path / "empty")}
    arguments = [word for pair in options.items() for word in pair]
    assert run(["eval", "synthetic", "--seed", str(SEED), "--videos", "1", *arguments], Interrupt()) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert "empty" in line and "manifest.json" in line


def test_a_folder_with_an_equals_sign_needs_no_name(bundle: Path, tmp_path: Path) -> None:
    folder = tmp_path / "a=b"
    shutil.copytree(bundle, folder)
    assert [arm.name for arm in others((str(folder), f"c={folder}"), None)] == ["a=b", "c"]


# ---- the command


@pytest.mark.parametrize("option", ["--figures", "--replies"])
def test_a_place_that_cannot_be_written_is_refused_at_once(
    bundle: Path, tmp_path: Path, option: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(films, "write_video", lambda *_: pytest.fail("filmed"))
    (tmp_path / "file").touch()
    arguments = ["eval", "synthetic", "--seed", str(SEED), "--videos", "1", "--model", str(bundle)]
    assert run([*arguments, option, str(tmp_path / "file" / "x")], Interrupt()) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"tam-edge eval: cannot write {tmp_path / 'file' / 'x'}")


def test_command_prints_one_json_value(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    replies = tmp_path / "replies.jsonl"
    arguments = ["eval", "synthetic", "--seed", str(SEED), "--videos", "1", "--model", str(bundle), "--json"]
    assert run([*arguments, "--replies", str(replies)], Interrupt()) == 0
    report = json.loads(capsys.readouterr().out)
    assert {"schema_version", "accuracy", "majority", "per_task", "per_family", "seed", "videos"} <= set(report)
    assert not {"ablations", "encodings", "curve"} & set(report)
    said = [json.loads(line) for line in replies.read_text().splitlines()]
    assert len(said) == report["questions"] and {"question", "answer", "said", "right"} <= set(said[0])
    assert run([*arguments[:3], "7", *arguments[4:]], Interrupt()) == 2
    assert "900000" in capsys.readouterr().err


def test_a_stopped_evaluation_has_written_what_was_said(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cli, "SECONDS_BETWEEN_LINES", 0.0)
    path = tmp_path / "replies.jsonl"
    with path.open("w", encoding="utf-8") as file:
        progress = cli._Progress(file)

        def stop(count: int, total: int, who: str, replies: Sequence[Reply]) -> None:
            progress(count, total, who, replies)
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            evaluate(Request(SEED, 2, bundle), stop)
        said = [json.loads(line) for line in path.read_text().splitlines()]
    assert said and {reply["video"] for reply in said} == {0}
    assert capsys.readouterr().err == f"1 of 2 videos: {BASELINE}\n"


def test_help_names_everything_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["eval", "synthetic", "--help"], Interrupt()) == 0
    text = "".join(capsys.readouterr().out.split())  # lines are broken within names too
    assert [name for name in (*ABLATIONS, *ENCODINGS) if name not in text] == []


def test_figures_are_pictures_and_numbers(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["eval", "synthetic", "--seed", str(SEED), "--videos", "1", "--model", str(bundle)]
    wanted = ["--ablate", "fixed", "--reencode", "half", "--budgets", "40,160", "--figures", str(tmp_path / "f")]
    assert run([*arguments, *wanted, "--json"], Interrupt()) == 0
    report = json.loads(capsys.readouterr().out)
    names = {"ablations.png", "encodings.png", "curve.png", "figures.json"}
    assert {path.name for path in (tmp_path / "f").iterdir()} == names
    assert all((tmp_path / "f" / name).read_bytes()[:4] == b"\x89PNG" for name in names if name.endswith("png"))
    numbers = json.loads((tmp_path / "f" / "figures.json").read_text())
    assert {name: numbers[name] for name in ("ablations", "encodings", "curve")} == {
        name: report[name] for name in ("ablations", "encodings", "curve")
    }


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="sends SIGINT")
def test_ctrl_c_leaves_neither_films_nor_bundles(bundle: Path, tmp_path: Path) -> None:
    scratch, cache = tmp_path / "tmp", tmp_path / "cache"
    scratch.mkdir()
    shutil.copytree(bundle, tmp_path / "bundle")
    program = "from tam_edge.apps.cli import main; main()"
    arguments = [
        "eval",
        "synthetic",
        "--seed",
        str(SEED),
        "--videos",
        "50",
        "--model",
        str(tmp_path / "bundle"),
        "--ablate",
        "all",
    ]
    env = {**os.environ, "TMPDIR": str(scratch), "TAM_EDGE_CACHE": str(cache)}
    child = subprocess.Popen(
        [sys.executable, "-c", program, *arguments], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    with child:
        while child.poll() is None and len(list(cache.glob("verified/*.json"))) < 2:  # a derived bundle is in use
            time.sleep(0.01)
        child.send_signal(signal.SIGINT)
        assert child.communicate(timeout=60) == ("", "")
    assert child.returncode == 130
    assert list(scratch.iterdir()) == []
    assert len(list(cache.glob("verified/*.json"))) == 1
