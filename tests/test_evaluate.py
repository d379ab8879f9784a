"""The evaluation: unseen scenes only, honest baselines, and every question through the runtime as a real file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tiny_bundle import make_tiny_bundle

from tam_edge.apps.cli import run
from tam_edge.apps.interrupt import Interrupt
from tam_edge.models.evaluate import Reply, ask_all, scene_seeds, summarise
from tam_edge.models.recipe.nano import TASKS
from tam_edge.models.street import Question, make_scene, questions
from tam_edge.models.street.world import FIRST_UNSEEN_SEED
from tam_edge.runtime import UsageError, VideoQA


def _reply(video: int, family: str, task: int, answer: str, said: str) -> Reply:
    question = Question(f"{family}?", answer, task, family)
    return Reply(video, question, said, TASKS[task - 1], said == answer)


def test_seeds_are_unseen_and_never_shared() -> None:
    assert min(scene_seeds(990001, 200)) >= FIRST_UNSEEN_SEED
    assert not set(scene_seeds(990001, 400)) & set(scene_seeds(990002, 400))
    for seed, videos in ((0, 10), (899_999, 10), (990001, 0)):
        with pytest.raises(UsageError):
            scene_seeds(seed, videos)


def test_summary_counts_and_compares_with_guessing() -> None:
    replies = [_reply(video, "count", 1, answer, "3") for video, answer in enumerate("3321")]
    replies += [_reply(video, "sign", 8, "STOP", "STOP") for video in range(2)]
    report = summarise(replies, TASKS)
    assert report["accuracy"] == pytest.approx(4 / 6, abs=1e-4)
    assert report["per_task"]["static attributes"]["accuracy"] == 0.5
    assert report["per_task"]["static attributes"]["majority"] == 0.5
    assert report["per_family"]["sign"] == {
        "accuracy": 1.0, "majority": 1.0, "questions": 2, "ci95": [1.0, 1.0], "task": "OCR and cross-modal",
    }  # fmt: skip
    low, high = report["ci95"]
    assert 0 <= low <= report["accuracy"] <= high <= 1
    assert report["inductor_accuracy"] == 1.0


def test_every_question_is_asked_of_a_file(tmp_path: Path) -> None:
    seeds = [seed for seed in range(FIRST_UNSEEN_SEED, FIRST_UNSEEN_SEED + 60) if make_scene(seed).duration_seconds < 7]
    with VideoQA.load(make_tiny_bundle(tmp_path / "bundle")) as qa:
        replies = list(ask_all(qa, seeds[:2]))
    expected = [question for seed in seeds[:2] for question in questions(make_scene(seed))]
    assert sorted(map(str, (reply.question for reply in replies))) == sorted(map(str, expected))
    assert {reply.video for reply in replies} == {0, 1}


def test_command_prints_one_json_value(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = make_tiny_bundle(tmp_path / "bundle")
    replies = tmp_path / "replies.jsonl"
    arguments = ["eval", "synthetic", "--seed", "990000", "--videos", "1", "--model", str(bundle), "--json"]
    assert run([*arguments, "--replies", str(replies)], Interrupt()) == 0
    report = json.loads(capsys.readouterr().out)
    assert {"schema_version", "accuracy", "majority", "per_task", "per_family", "seed", "videos"} <= set(report)
    lines = [json.loads(line) for line in replies.read_text().splitlines()]
    assert len(lines) == report["questions"] and {"question", "answer", "said", "right"} <= set(lines[0])
    assert run([*arguments[:3], "7", *arguments[4:]], Interrupt()) == 2
    assert "900000" in capsys.readouterr().err
