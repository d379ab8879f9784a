"""Every answer says what each of its stages was predicted to take, in time and in memory, and what it took."""

from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest
from make_clips import steady, write_clip
from tiny_bundle import make_tiny_bundle

from tam_edge.apps.report import Entry, report_html
from tam_edge.runtime import VideoQA
from tam_edge.runtime.answer import StageClock
from tam_edge.runtime.budget import MIB, peak_resident_bytes, resident_bytes

QUESTION = "how many people?"
STAGES = ["load", "inductor", "decode", "vision", "strategy", "prefill", "generate"]


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    """The first and the second answer about one video, on a device that is not calibrated."""
    folder = tmp_path_factory.mktemp("trace")
    bundle, clip = make_tiny_bundle(folder / "tiny"), write_clip(folder / "clip.mp4", steady(40, every_ms=250))
    with VideoQA.load(bundle, threads=1) as qa, closing(qa.open(str(clip))) as video:
        return [qa.ask(video, QUESTION, max_tokens=5) for _ in range(2)]


def test_a_stage_that_raises_the_peak_has_it_and_another_what_it_ends_with():
    clock = StageClock()
    with clock.stage("vision"):
        size = peak_resident_bytes() - resident_bytes() + 32 * MIB
        held = np.ones(size, np.uint8)
    clock.note_bytes("vision")
    del held
    clock.note_bytes("language")
    vision, language = clock.stage_bytes["vision"], clock.stage_bytes["language"]
    assert vision.is_peak and abs(vision.resident_bytes - peak_resident_bytes()) <= MIB
    assert not language.is_peak and language.resident_bytes <= vision.resident_bytes - size + 8 * MIB


def test_without_a_calibration_only_memory_is_predicted(answers):
    trace = answers[0].to_json()["trace"]
    assert list(trace["ms"]) == [*STAGES, "first_token"]
    assert all(row["predicted"] is None and row["measured"] >= 0 for row in trace["ms"].values())
    assert list(trace["bytes"]) == ["inductor", "vision", "language"]
    for stage, row in trace["bytes"].items():
        assert row["predicted"] == answers[0].plan.predicted_bytes[stage]
        assert 0 < row["measured"] <= answers[0].peak_bytes


def test_stages_that_did_not_run_are_left_out(answers):
    assert set(answers[1].stage_bytes) == {"inductor", "language"}


def test_the_answer_is_predicted_for_as_many_tokens_as_it_became(answers):
    answer = answers[0]
    assert 1 <= answer.answer_tokens <= 5
    plan = replace(answer.plan, predicted_ms=100.0, predicted_stages_ms=dict.fromkeys(STAGES, 10.0))
    predicted = replace(answer, plan=plan).predicted_ms
    assert predicted == {
        **dict.fromkeys(STAGES, 10.0), "generate": 10.0 * answer.answer_tokens, "first_token": 100.0
    }  # fmt: skip


def test_the_report_shows_both(answers):
    plan = replace(answers[0].plan, predicted_ms=1234.0, predicted_stages_ms=dict.fromkeys(STAGES, 12.0))
    page = report_html([Entry(QUESTION, replace(answers[0], plan=plan), ())], ["clip"])
    assert "Predicted and measured" in page and "<td>1.23 s</td>" in page and "<td>vision, memory</td>" in page
    page = report_html([Entry(QUESTION, answers[0], ())], ["clip"])
    assert page.count("<td>not calibrated</td>") == len(STAGES) + 1
