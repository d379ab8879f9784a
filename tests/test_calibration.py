"""A calibration is kept under the bundle's hash and the device, and one that cannot be used is said to be so."""

import json
import os
from contextlib import closing
from dataclasses import replace

import pytest
from command import call
from known_rates import known_rates
from make_clips import steady, write_clip
from tiny_bundle import make_tiny_bundle

from tam_edge.runtime import VideoQA
from tam_edge.runtime.bundle import load_bundle
from tam_edge.runtime.calibrate import calibrate, specimen
from tam_edge.runtime.calibration import place_of, read_rates, versions, write_rates
from tam_edge.runtime.device import probe_device
from tam_edge.runtime.errors import DeadlineError, MemoryLimitError, TamEdgeError

QUESTION = "how many people?"
PLENTY = "100min"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return load_bundle(make_tiny_bundle(tmp_path_factory.mktemp("tiny")))


@pytest.fixture
def place(bundle, tmp_path, monkeypatch):
    monkeypatch.setenv("TAM_EDGE_CACHE", str(tmp_path / "cache"))
    return place_of(bundle, probe_device(), 2, "auto")


def rates_for(place, **changes):
    return known_rates(bundle=place.bundle, device=place.device, made_with=versions(), **changes)


def test_it_lies_in_the_platforms_cache_folder_under_the_bundles_hash(bundle, tmp_path, monkeypatch):
    monkeypatch.delenv("TAM_EDGE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    profile = probe_device()
    place = place_of(bundle, profile, 2, "auto")
    assert place.path.parent == tmp_path / "tam-edge" / "calibration" / bundle.fingerprint
    others = [place_of(bundle, profile, 3, "auto"), place_of(bundle, profile, 2, "cpu")]
    others.append(place_of(bundle, replace(profile, machine="another board"), 2, "auto"))
    assert len({place.path, *(other.path for other in others)}) == 4


def test_what_is_written_is_read_again_and_replaced_as_a_whole(place):
    assert read_rates(place).rates is None and read_rates(place).problem is None
    for number in (1.0, 2.0):
        write_rates(place, rates_for(place, inductor_ms=number))
        assert read_rates(place).rates == rates_for(place, inductor_ms=number)
    assert [path.name for path in place.path.parent.iterdir()] == [place.path.name]
    assert json.loads(place.path.read_text())["schema_version"] == 2


def test_a_write_that_fails_leaves_what_was_there(place, monkeypatch):
    write_rates(place, rates_for(place))
    monkeypatch.setattr(os, "fdopen", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        write_rates(place, rates_for(place, inductor_ms=9.0))
    monkeypatch.undo()
    assert [path.name for path in place.path.parent.iterdir()] == [place.path.name]
    assert json.loads(place.path.read_text())["inductor_ms"] == 2.0


def test_a_cache_folder_that_is_a_file_is_an_error(bundle, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TAM_EDGE_CACHE", str(tmp_path / "file"))
    place = place_of(bundle, probe_device(), 2, "auto")
    with pytest.raises(TamEdgeError, match="set TAM_EDGE_CACHE to a folder that can be written"):
        write_rates(place, rates_for(place))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda values: values.pop("prefill"), "is damaged or of another version (prefill)"),
        (lambda values: values.update(schema_version=1), "is damaged or of another version (schema_version)"),
        (lambda values: values.update(inductor_ms=-1), "is damaged or of another version (inductor_ms)"),
        (lambda values: values.update(bundle="other"), "is for another bundle or device"),
        (lambda values: values.update(device="other"), "is for another bundle or device"),
        (lambda values: values.update(made_with="onnxruntime 0.1"), "was made with onnxruntime 0.1"),
    ],
)
def test_what_cannot_be_used_is_not_and_is_said(place, change, said):
    values = rates_for(place).model_dump(mode="json")
    change(values)
    place.path.parent.mkdir(parents=True)
    place.path.write_text(json.dumps(values))
    found = read_rates(place)
    assert found.rates is None and said in found.problem and str(place.path) in found.problem
    assert found.problem.endswith("run tam-edge doctor --calibrate again")


@pytest.mark.parametrize("text", [b"", b"{", b"[1]", b"\xff\xfe", b" " * (2 << 20), b"null"])
def test_a_damaged_file_is_said_to_be_damaged(place, text):
    place.path.parent.mkdir(parents=True)
    place.path.write_bytes(text)
    assert read_rates(place).rates is None and "run tam-edge doctor --calibrate again" in read_rates(place).problem


# ---- measured for real


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return str(write_clip(tmp_path_factory.mktemp("clip") / "clip.mp4", steady(40, every_ms=250), size_px=(320, 240)))


@pytest.fixture(scope="module")
def calibrated(bundle, tmp_path_factory):
    """A tiny bundle, measured with the one encoder that every FFmpeg has; its cache folder."""
    folder = tmp_path_factory.mktemp("calibrated")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TAM_EDGE_CACHE", str(folder))
        patch.setattr(specimen, "_ENCODERS", {"mpeg4": specimen._ENCODERS["mpeg4"]})
        doing = []
        rates = calibrate(bundle.path, threads=1, progress=doing.append)
    assert len(doing) > 8
    return folder, rates


def test_everything_a_plan_needs_is_measured(bundle, calibrated):
    _, rates = calibrated
    assert set(rates.opening_ms) == set(rates.first_run_ms)
    assert set(rates.opening_ms) >= {"inductor.engines", "encoders.eye.engines", "language.engines"}
    assert set(rates.projecting_ms) == {str(grid) for grid in bundle.manifest.projectors}
    assert [run.frames for run in rates.encoding["eye"]] == [1, 2, 4, 8]
    assert set(rates.decoding) == {"mpeg4", "image"}
    assert set(rates.spread) >= {"load", "inductor", "vision", "strategy", "prefill", "generate", "decode", "whole"}
    assert rates.prefill.at(500, 0) > rates.prefill.at(50, 0) > 0
    assert rates.token.at(100) > 0


def test_predictions_come_with_every_plan_and_stand_beside_what_was_measured(bundle, calibrated, clip, monkeypatch):
    monkeypatch.setenv("TAM_EDGE_CACHE", str(calibrated[0]))
    with VideoQA.load(bundle.path, threads=1) as qa, closing(qa.open(clip)) as video:
        planned = qa.plan(video, QUESTION)
        assert set(planned.predicted_stages_ms) == {
            "load", "inductor", "decode", "vision", "strategy", "prefill", "generate"
        }  # fmt: skip
        assert planned.predicted_ms > 0
        answer = qa.ask(video, QUESTION, deadline=PLENTY, max_tokens=4)
        assert answer.plan.timestamps_seconds == planned.timestamps_seconds
        trace = answer.to_json()["trace"]
        assert all(row["predicted"] is not None for row in trace["ms"].values())
        assert trace["ms"]["first_token"]["measured"] == round(answer.timings.first_token, 3)
        assert set(trace["bytes"]) == {"inductor", "vision", "language"}
        second = qa.plan(video, QUESTION)  # looked at already: only its text is left
        assert second.predicted_stages_ms["vision"] == second.predicted_stages_ms["decode"] == 0


def test_a_deadline_that_cannot_be_kept_is_refused_and_what_it_names_is_kept_to(bundle, calibrated, clip, monkeypatch):
    monkeypatch.setenv("TAM_EDGE_CACHE", str(calibrated[0]))
    with VideoQA.load(bundle.path, threads=1) as qa, closing(qa.open(clip)) as video:
        with pytest.raises(DeadlineError, match="to the first token is too little") as caught:
            qa.plan(video, QUESTION, deadline="1ms")
        needed = caught.value.needed_seconds
        whole = qa.plan(video, QUESTION)
        short = qa.plan(video, QUESTION, deadline=max(3 * needed, 0.5))  # the machine may be busy: never too tight
        assert short.visual_tokens <= whole.visual_tokens
        given = qa.ask(video, QUESTION, plan=short, deadline=PLENTY, max_tokens=1)
        assert given.plan.timestamps_seconds == short.timestamps_seconds


def test_below_a_ceiling_that_is_too_low_nothing_is_measured(bundle, tmp_path, monkeypatch):
    monkeypatch.setenv("TAM_EDGE_CACHE", str(tmp_path))
    with pytest.raises(MemoryLimitError, match="allow at least"):
        calibrate(bundle.path, memory="1MiB", threads=1)
    assert not (tmp_path / "calibration").exists()


# ---- the command line


def test_the_doctor_says_what_is_known(bundle, calibrated, place, monkeypatch):
    done = call("doctor", "--model", bundle.path, "--threads", "1")
    assert (done.code, done.err) == (0, "") and "not calibrated: run tam-edge doctor --calibrate" in done.out
    monkeypatch.setenv("TAM_EDGE_CACHE", str(calibrated[0]))
    done = call("doctor", "--model", bundle.path, "--threads", "1", "--verify")
    assert done.code == 0 and "a token of the answer" in done.out
    value = json.loads(call("doctor", "--model", bundle.path, "--threads", "1", "--json").out)
    assert value["calibration"] == calibrated[1].model_dump(mode="json")
    assert value["bundle"]["fingerprint"] == bundle.fingerprint


def test_the_doctor_measures_and_keeps_it(bundle, place, monkeypatch):
    monkeypatch.setattr("tam_edge.runtime.calibrate.calibrate", lambda *_, progress, **__: measured(place, progress))
    done = call("doctor", "--model", bundle.path, "--threads", "2", "--calibrate")
    assert (done.code, done.err) == (0, "something\n") and "vision 32 ms a frame" in done.out


def measured(place, progress):
    progress("something")
    write_rates(place, rates_for(place))


def test_a_deadline_without_a_calibration_is_one_line(bundle, place, clip):
    asked = ("--model", bundle.path, "--video", clip, "--ask", QUESTION, "--threads", "2")
    for command in ("run", "plan"):
        done = call(command, *asked, "--deadline", "3s")
        assert (done.code, done.out) == (1, "")
        assert done.err.count("\n") == 1 and "run tam-edge doctor --calibrate once" in done.err
        done = call(command, *asked, "--deadline", "soon")
        assert (done.code, done.out) == (2, "") and "a deadline cannot be 'soon'" in done.err
    assert "not calibrated: run tam-edge doctor --calibrate" in call("plan", *asked).out


def test_a_damaged_calibration_is_said_beside_the_answer(bundle, place, clip):
    place.path.parent.mkdir(parents=True)
    place.path.write_text("{")
    asked = ("--model", bundle.path, "--video", clip, "--ask", QUESTION, "--threads", "2")
    done = call("run", *asked, "--max-tokens", "1")
    assert done.code == 0 and done.err.count("note: ") == 1 and "damaged" in done.err
    done = call("run", *asked, "--deadline", "3s")
    assert done.code == 1 and "damaged" in done.err


def test_run_explains_and_reports_what_was_predicted(bundle, calibrated, clip, tmp_path, monkeypatch):
    monkeypatch.setenv("TAM_EDGE_CACHE", str(calibrated[0]))
    asked = ("--model", bundle.path, "--video", clip, "--ask", QUESTION, "--threads", "1")
    page = tmp_path / "page.html"
    done = call("run", *asked, "--deadline", PLENTY, "--explain", "--report", page, "--max-tokens", "2")
    assert done.code == 0, done.err
    assert "predicted: first token after" in done.out and "Measured    load" in done.out
    assert "Predicted and measured" in page.read_text() and "vision, memory" in page.read_text()
    done = call("run", *asked, "--deadline", "1ms")
    assert (done.code, done.out, done.err.count("\n")) == (1, "", 1) and "allow at least" in done.err
