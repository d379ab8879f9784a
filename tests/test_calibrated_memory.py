"""What engines hold is measured on the device as it was for the bundle, kept beside the rates, and predicted by."""

import json
import re
import subprocess
import sys
from contextlib import closing

import pytest
from command import call
from hypothesis import given
from hypothesis import strategies as st
from known_rates import known_rates
from make_clips import steady, write_clip
from tiny_bundle import LADDER, file_spec, make_tiny_bundle

from tam_edge.quant.remeasure import remeasured
from tam_edge.runtime import VideoQA
from tam_edge.runtime.budget import MIB
from tam_edge.runtime.bundle import MANIFEST_FILE, load_bundle
from tam_edge.runtime.calibrate import memory as measuring
from tam_edge.runtime.calibrate.memory import graph_figures, measured_memory
from tam_edge.runtime.calibrate.peak import _curve
from tam_edge.runtime.calibration import place_of, read_rates, versions, write_rates
from tam_edge.runtime.device import probe_device
from tam_edge.runtime.errors import EngineError
from tam_edge.runtime.figures import THREAD_BYTES, prolonged, refined, with_memory
from tam_edge.runtime.parts import Parts
from tam_edge.runtime.schema import EngineMemory, EngineSpec, Sized

QUESTION = "how many people?"
GROWN_BYTES = 50 * MIB
ENGINES = {"inductor.onnx", "encoder.onnx", *(f"projector-{grid}.onnx" for grid in LADDER), "language.gguf"}


def specs(manifest):
    """Every engine, by its file."""
    return {spec.file: spec for spec in manifest.files().values() if isinstance(spec, EngineSpec)}


def held(bundle, fits=lambda case, thrift: True, threads=2, progress=lambda _: None):
    with closing(Parts(bundle, threads=threads, device="cpu")) as parts:
        return measured_memory(parts, fits, progress)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    """A tiny bundle that was measured as an export does."""
    folder = make_tiny_bundle(tmp_path_factory.mktemp("tiny"))
    text = remeasured(load_bundle(folder)).model_dump_json()
    (folder / MANIFEST_FILE).write_text(text, encoding="utf-8")
    return load_bundle(folder)


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return str(write_clip(tmp_path_factory.mktemp("clip") / "clip.mp4", steady(20), size_px=(320, 240)))


# ---- measured for real


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux lets a process reset its peak")
def test_measured_again_it_is_what_the_export_has_measured(bundle):
    doing = []
    here, made = held(bundle, progress=doing.append), specs(bundle.manifest)
    assert set(here) == set(made) == ENGINES
    assert doing == [f"the memory of {file}" for file in here]
    for file, memory in here.items():
        other = made[file].memory
        for name in ("opening_bytes", "open_bytes", "library_bytes"):
            assert_near(getattr(memory, name), getattr(other, name), f"{file} {name}")
        assert memory.cell_bytes == other.cell_bytes and list(memory.running) == list(other.running)
        for way, curve in memory.running.items():
            for one, was in zip(curve, other.running[way], strict=True):
                assert one.size == was.size
                assert_near(one.bytes, was.bytes, f"{file} {way} {one.size}")


def assert_near(found, expected, what):
    assert abs(found - expected) <= 2 * MIB + 0.25 * expected, f"{what}: {found} instead of {expected}"


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux lets a process reset its peak")
def test_what_does_not_fit_is_not_run_and_goes_on_as_the_bundle_says(bundle, tmp_path, monkeypatch):
    tasks = []
    run = measuring.run_module
    monkeypatch.setattr(measuring, "run_module", lambda module, task: tasks.append(task) or run(module, task))
    here, made = held(bundle, fits=lambda case, thrift: False), specs(bundle.manifest)
    eye, language = (next(task for task in tasks if name in task["path"]) for name in ("encoder", "language"))
    assert eye["sizes"] == {"run": [1]} and eye["inputs"][""][1][0] == 1
    assert {size for some in language["sizes"].values() for size in some} == {256}
    for file in ("encoder.onnx", "language.gguf"):
        for way, curve in here[file].running.items():
            known = made[file].memory.running[way]
            assert [one.size for one in curve] == [one.size for one in known]
            assert all(one.bytes >= was.bytes for one, was in zip(curve[1:], known[1:], strict=True))
    unmeasured = load_bundle(make_tiny_bundle(tmp_path / "unmeasured"))
    assert set(held(unmeasured, fits=lambda case, thrift: False)) == {"inductor.onnx"}  # its work is always the same


def test_a_language_model_that_cannot_be_measured_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv("TAM_EDGE_CACHE", str(tmp_path / "cache"))

    def broken(values):
        (tmp_path / "tiny" / "language.gguf").write_bytes(b"GGUF and no more")
        values["language"]["engines"][0] |= file_spec(tmp_path / "tiny", "language.gguf")

    make_tiny_bundle(tmp_path / "tiny", change=broken)
    done = call("doctor", "--model", tmp_path / "tiny", "--threads", "2", "--calibrate")
    last = done.err.splitlines()[-1]
    assert (done.code, done.out) == (1, "")
    assert "language.gguf could not be measured: " in last and "the file is damaged or memory is short" in last
    assert "Traceback" not in done.err and "tam_edge.runtime" not in done.err
    assert not (tmp_path / "cache" / "calibration").exists()


def test_an_engine_that_the_system_ends_is_said_to_be_short_of_memory(tmp_path, monkeypatch):
    command = [sys.executable, "-c", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    monkeypatch.setattr(measuring, "run_module", lambda module, task: ended)
    with pytest.raises(EngineError, match=r"vision\.onnx could not be measured: .*signal 9.*memory may be short"):
        graph_figures(tmp_path / "vision.onnx", {})


def test_on_a_gpu_the_bundles_figures_stay(bundle, monkeypatch):
    monkeypatch.setattr(Parts, "may_use_gpu", True)
    assert held(bundle) == {}


# ---- joined with what the bundle says


def figures(*points, open_bytes=10, way="run"):
    curve = tuple(Sized(size=size, bytes=taken) for size, taken in points)
    return EngineMemory(opening_bytes=5, open_bytes=open_bytes, library_bytes=1, running={way: curve} if curve else {})


def test_larger_sizes_go_on_with_as_much_more_as_the_last_measured_took():
    made = figures((1, 100), (2, 200), (4, 400), (8, 800))
    found = refined(made, figures((1, 130), (2, 250), open_bytes=20))
    assert found == figures((1, 130), (2, 250), (4, 450), (8, 850), open_bytes=20)
    assert refined(made, figures((1, 90), (2, 150))) == figures((1, 90), (2, 150), (4, 400), (8, 800))
    assert refined(made, figures()).running == made.running
    assert refined(made, figures((1, 9), way="flash")).running == made.running, "ways are the bundle's"


points = st.lists(st.integers(0, 1000), min_size=5, max_size=5).map(sorted)


@given(points, points, st.integers(0, 5))
def test_what_was_not_measured_here_never_takes_less_than_the_bundle_says(taken, here, measured):
    made = figures(*zip((1, 2, 4, 8, 16), taken, strict=True))
    found = refined(made, figures(*list(zip((1, 2, 4, 8, 16), here, strict=True))[:measured])).running["run"]
    assert [one.size for one in found] == [1, 2, 4, 8, 16]
    assert [one.bytes for one in found[:measured]] == here[:measured]
    assert all(one.bytes >= was for one, was in zip(found[measured:], taken[measured:], strict=True))


def test_no_size_is_begun_that_would_take_too_long():
    assert [one.size for one in _curve([1, 2, 4], lambda size: 10 * size, None)] == [1, 2, 4]
    assert [one.size for one in _curve([1, 2, 4], lambda size: 10 * size, 1e-12)] == [1]


def test_threads_that_the_prediction_counts_are_not_counted_twice():
    assert measuring._as_counted(figures((1, 2), open_bytes=9 * MIB), None, 2).open_bytes == 9 * MIB
    more = measuring._as_counted(figures((1, 2), open_bytes=9 * MIB), None, 12)
    assert more.open_bytes == 9 * MIB - 10 * THREAD_BYTES


def test_only_the_engines_named_get_other_figures(bundle):
    found = with_memory(bundle.manifest, {"encoder.onnx": figures((1, 7))})
    was, now = specs(bundle.manifest), specs(found)
    assert now["encoder.onnx"].memory == figures((1, 7))
    assert {file for file in was if was[file] != now[file]} == {"encoder.onnx"}
    assert with_memory(found, {"encoder.onnx": was["encoder.onnx"].memory}) == bundle.manifest


# ---- kept, and predicted by


@pytest.fixture
def place(bundle, tmp_path, monkeypatch):
    monkeypatch.setenv("TAM_EDGE_CACHE", str(tmp_path / "cache"))
    return place_of(bundle, probe_device(), 2, "auto")


def keep(place, bundle, grown_bytes):
    """Figures of this device that differ from the bundle's in one thing: what the language model holds."""
    memory = {file: spec.memory for file, spec in specs(bundle.manifest).items()}
    language = memory["language.gguf"]
    grown = {name: getattr(language, name) + grown_bytes for name in ("opening_bytes", "open_bytes")}
    memory["language.gguf"] = language.model_copy(update=grown)
    rates = known_rates(bundle=place.bundle, device=place.device, made_with=versions(), memory=memory)
    write_rates(place, rates)
    return rates


def predicted(bundle, clip):
    with VideoQA.load(bundle.path, threads=2) as qa, closing(qa.open(clip)) as video:
        assert qa.bundle == bundle, "what a bundle says about itself stays what it says"
        return qa.plan(video, QUESTION)


def test_it_is_read_again_as_it_was_written(bundle, place):
    assert read_rates(place).memory_from == "bundle"
    rates = keep(place, bundle, GROWN_BYTES)
    assert read_rates(place).rates == rates and read_rates(place).memory_from == "device"
    assert set(read_rates(place).rates.memory) == ENGINES


def test_predictions_go_by_what_the_device_has_measured(bundle, place, clip):
    plain = predicted(bundle, clip)
    assert plain.predicted_bytes_from == "bundle"
    keep(place, bundle, GROWN_BYTES)
    grown = predicted(bundle, clip)
    assert grown.predicted_bytes_from == "device"
    more = {stage: size - plain.predicted_bytes[stage] for stage, size in grown.predicted_bytes.items()}
    assert abs(more["language"] - GROWN_BYTES) < 10 * MIB
    assert abs(more["inductor"]) < 5 * MIB and abs(more["vision"]) < 5 * MIB  # this process itself holds a little more
    with VideoQA.load(bundle.path, threads=2) as qa, closing(qa.open(clip)) as video:
        answer = qa.ask(video, QUESTION, max_tokens=1)
        assert answer.to_json()["trace"]["bytes_from"] == answer.plan.predicted_bytes_from == "device"
        slow = qa.plan(video, QUESTION, deadline="100min")
        assert slow.predicted_bytes_from == "device"


def test_features_are_shared_between_a_calibrated_session_and_one_that_is_not(bundle, place):
    with VideoQA.load(bundle.path, threads=2) as plain:
        keep(place, bundle, GROWN_BYTES)
        with VideoQA.load(bundle.path, threads=2) as refined_one:
            refined_one.share_features(plain)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda memory: memory["encoder.onnx"].update(open_bytes=-1), "memory.encoder.onnx.open_bytes"),
        (lambda memory: memory["encoder.onnx"]["running"].update(run=[]), "memory.encoder.onnx.running.run"),
        (lambda memory: memory["encoder.onnx"]["running"]["run"].reverse(), "memory.encoder.onnx.running.run"),
        (lambda memory: memory.update(encoder=None), "memory.encoder"),
    ],
)
def test_damaged_figures_are_not_used_and_that_is_said(bundle, place, clip, change, said):
    keep(place, bundle, GROWN_BYTES)
    values = json.loads(place.path.read_text())
    change(values["memory"])
    place.path.write_text(json.dumps(values))
    found = read_rates(place)
    assert found.rates is None and found.memory_from == "bundle"
    assert f"is damaged or of another version ({said})" in found.problem
    plan = predicted(bundle, clip)
    assert plan.predicted_bytes_from == "bundle"
    assert found.problem in [rejection.reason for rejection in plan.rejections]


def test_a_plan_from_a_calibrated_device_says_where_it_is_predicted_now(bundle, place, clip, tmp_path):
    asked = ("--model", bundle.path, "--video", clip, "--threads", "2", "--ask", QUESTION)
    keep(place, bundle, GROWN_BYTES)
    kept = tmp_path / "plan.json"
    kept.write_text(call("plan", *asked, "--json").out)
    assert json.loads(kept.read_text())["predicted_bytes_from"] == "device"
    place.path.unlink()
    done = call("run", *asked, "--plan", kept, "--json", "--max-tokens", "1")
    assert json.loads(done.out)["trace"]["bytes_from"] == "bundle"


def test_the_command_line_says_whose_figures_they_are(bundle, place, clip):
    asked, doctor = ("--video", clip, "--ask", QUESTION), ("doctor", "--model", bundle.path, "--threads", "2")
    plan = ("plan", "--model", bundle.path, "--threads", "2", *asked)
    assert "memory is predicted by what they held where the bundle was made" in call(*doctor).out
    assert json.loads(call(*doctor, "--json").out)["memory_predicted_from"] == "bundle"
    assert "predicted peaks: inductor" in call(*plan).out
    rates = keep(place, bundle, GROWN_BYTES)
    assert f"predicted by what they hold here: {len(ENGINES)} measured, " in call(*doctor).out
    value = json.loads(call(*doctor, "--json").out)
    assert value["memory_predicted_from"] == "device"
    assert value["calibration"]["memory"] == rates.model_dump(mode="json")["memory"]
    assert "predicted peaks, by what engines hold on this device: inductor" in re.sub(r"\s+", " ", call(*plan).out)


def test_a_curve_goes_on_in_a_line_and_never_falls() -> None:
    curve = (Sized(size=256, bytes=1000), Sized(size=512, bytes=1600))
    assert prolonged(curve, 2048) == (*curve, Sized(size=2048, bytes=1600 + 6 * 600))
    assert prolonged(curve, 512) == curve
    falling = (Sized(size=256, bytes=1600), Sized(size=512, bytes=1000))
    assert prolonged(falling, 2048)[-1].bytes == 1000
    assert prolonged(curve[:1], 2048)[-1].bytes == 1000
