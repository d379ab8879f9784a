"""Bad input at the command line: one clear line, the promised exit code, no traceback, no native log, nothing left."""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import av
import numpy as np
import pytest
from command import call
from make_clips import steady, write_clip
from tiny_bundle import EMBEDDING, WIDTH, make_tiny_bundle

QUESTION = "how many people?"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return make_tiny_bundle(tmp_path_factory.mktemp("bundle") / "tiny")


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return write_clip(tmp_path_factory.mktemp("clips") / "clip.mp4", steady(20, every_ms=125))


@pytest.fixture
def refused(tmp_path, monkeypatch, capfd):
    """Run a command that must fail; gives its one line. Descriptors are captured, so native libraries are heard too."""
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setenv("TMPDIR", str(here))

    def refused(code, *arguments):
        before = sorted(tmp_path.rglob("*"))
        capfd.readouterr()
        outcome = call(*arguments)
        assert capfd.readouterr() == ("", "")
        assert (outcome.code, outcome.out) == (code, "")
        assert re.fullmatch(r"tam-edge[^\n]*\n", outcome.err)
        assert outcome.err.rstrip("\n").isprintable()
        assert len(outcome.err) < 600
        assert "Traceback" not in outcome.err
        assert sorted(tmp_path.rglob("*")) == before
        return outcome.err

    return refused


# ---- videos


def missing(path):
    pass


def empty(path):
    path.touch()


def text(path):
    path.write_text("how many people?\n" * 1000)


def without_moov(path):
    write_clip(path, steady(50))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def folder(path):
    path.mkdir()


def zero_frames(path):
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        container.start_encoding()


def only_sound(path):
    with av.open(str(path), "w") as container:
        sound = container.add_stream("aac", rate=16000)
        for at in range(20):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
            frame.sample_rate, frame.pts = 16000, at * 1024
            container.mux(sound.encode(frame))
        container.mux(sound.encode(None))


def mostly_cut(path):
    write_clip(path, steady(500), options={"g": "25", "bf": "0"}, container_options={"movflags": "faststart"})
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * 0.3)])


VIDEOS = [
    (missing, "no such file"),
    (empty, "is empty"),
    (text, "no video or image"),
    (without_moov, "moov"),
    (folder, "is a folder"),
    (zero_frames, "has no "),
    (only_sound, "no video stream"),
]


@pytest.mark.parametrize(("make", "says"), VIDEOS, ids=lambda value: getattr(value, "__name__", None))
def test_a_video_that_is_none(refused, bundle, tmp_path, make, says):
    make(tmp_path / "a.mp4")
    for command in ("run", "plan"):
        line = refused(1, command, "--model", bundle, "--video", tmp_path / "a.mp4", "--ask", QUESTION, "--json")
        assert says in line
        assert str(tmp_path / "a.mp4") in line


def test_a_video_of_which_too_little_decodes(refused, bundle, tmp_path):
    mostly_cut(tmp_path / "a.mp4")
    line = refused(1, "run", "--model", bundle, "--video", tmp_path / "a.mp4", "--ask", "what happens first?")
    assert re.search(r"only \d+ of \d+ frames can be decoded", line)


AS_ANOTHER_USER = """
import os, sys
from tam_edge.apps.cli import main, run
from tam_edge.apps.interrupt import Interrupt
readable, unreadable = sys.argv.pop(), sys.argv.pop()
assert run([*sys.argv[1:], readable], Interrupt()) == 0  # another user might not be able to read what is imported here
if os.getuid() == 0:
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
main([*sys.argv[1:], unreadable])
"""


def test_a_file_this_user_may_not_read(bundle, clip, tmp_path):
    path = Path(shutil.copy(clip, tmp_path / "clip.mp4"))
    path.chmod(0)
    for place in (tmp_path, *tmp_path.parents, bundle, *bundle.parents):
        if Path(tempfile.gettempdir()) in place.parents:
            place.chmod(0o755)
    arguments = ["plan", "--model", bundle, "--ask", QUESTION, "--json", "--video", path, clip]
    own = os.environ | {"TAM_EDGE_CACHE": str(tmp_path / "cache")}  # in the shared one are files of this user
    done = subprocess.run([sys.executable, "-c", AS_ANOTHER_USER, *arguments], env=own, capture_output=True, text=True)
    assert done.stderr == f"tam-edge plan: {path}: may not be read by this user: change its permissions\n"
    assert (done.returncode, done.stdout.count("\n")) == (1, 1)


# ---- questions, options


@pytest.mark.parametrize(
    ("question", "says"), [("", "is empty"), (" \n\t", "is empty"), ("why? " * 20_000, "characters: shorten")]
)
def test_a_question_that_is_none_is_refused_before_anything_is_loaded(refused, question, says):
    for command in ("run", "plan"):
        assert says in refused(2, command, "--model", "missing", "--video", "missing.mp4", "--ask", question)


@pytest.mark.parametrize(
    ("option", "value", "says"),
    [
        ("--strategy", "nope", "choose one of tam"),
        ("--grid", "7", "choose one of 4, 3, 2"),
        ("--device", "tpu", "choose one of"),
        ("--memory", "10", "900MiB"),
        ("--start", "99", "beyond the end"),
        ("--start", "nan", "seconds"),
        ("--end", "-1", "seconds"),
        ("--temperature", "-1", "temperature"),
        ("--max-tokens", "100000", "--max-tokens"),
    ],
)
def test_an_option_that_makes_no_sense(refused, bundle, clip, option, value, says):
    assert says in refused(2, "run", "--model", bundle, "--video", clip, "--ask", QUESTION, option, value)


# ---- bundles


def without_file(model):
    (model / "projector-3.onnx").unlink()


def with_another_file(model):
    (model / "language.gguf").write_bytes(b"\0" * (model / "language.gguf").stat().st_size)


def without_manifest(model):
    (model / "manifest.json").unlink()


def not_json(model):
    (model / "manifest.json").write_text("{")


def with_a_path_outside(model):
    manifest = json.loads((model / "manifest.json").read_text())
    manifest["inductor"]["engines"][0]["file"] = "../inductor.onnx"
    (model / "manifest.json").write_text(json.dumps(manifest))


def with_a_link_outside(model):
    (model / "encoder.onnx").rename(model.parent / "encoder.onnx")
    (model / "encoder.onnx").symlink_to(model.parent / "encoder.onnx")


def gone(model):
    shutil.rmtree(model)


@pytest.mark.parametrize(
    ("spoil", "field"),
    [
        (without_file, "projectors.3.engines.0"),
        (with_another_file, "language.engines.0.sha256"),
        (without_manifest, "manifest.json"),
        (not_json, "manifest.json"),
        (with_a_path_outside, "inductor.engines.0.file"),
        (with_a_link_outside, "encoders.eye.engines.0"),
        (gone, "no such folder"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_a_bundle_that_lies_is_refused_with_the_field(refused, bundle, clip, tmp_path, spoil, field):
    model = Path(shutil.copytree(bundle, tmp_path / "model"))
    spoil(model)
    assert field in refused(1, "run", "--model", model, "--video", clip, "--ask", QUESTION)


@pytest.mark.parametrize(
    ("widths", "field"),
    [
        ({"encoder_width": WIDTH + 8}, "encoders.eye.width"),
        ({"projector_width": EMBEDDING + 8}, "projectors.4"),
        ({"language_width": EMBEDDING + 16}, "language.embedding_width"),
    ],
)
def test_a_wrong_width_is_refused_with_the_field(refused, clip, tmp_path, widths, field):
    model = make_tiny_bundle(tmp_path / "model", **widths)
    assert field in refused(1, "run", "--model", model, "--video", clip, "--ask", QUESTION)


# ---- reports


@pytest.mark.parametrize(
    ("report", "says"),
    [
        ("missing/report.html", "No such file"),
        ("/proc/report.html", "cannot write /proc/report.html"),
        ("/dev/null", "not an ordinary file"),
        (".", "not an ordinary file"),
        ("x" * 300, "File name too long"),
        ("loop", "cannot write loop"),
        ("the-clip.mp4", "one of the files that are read"),
    ],
)
def test_a_report_that_cannot_be_written_is_refused_before_any_work(refused, clip, tmp_path, report, says):
    (tmp_path / "here" / "loop").symlink_to("loop")
    (tmp_path / "here" / "the-clip.mp4").symlink_to(clip)
    content = clip.read_bytes()
    line = refused(2, "run", "--model", "missing", "--video", "the-clip.mp4", "--ask", QUESTION, "--report", report)
    assert says in line, "a missing bundle would have been named, had it been looked at"
    assert clip.read_bytes() == content


# ---- plans


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[]", "not a plan"),
        ('{"schema_version": 9}', "schema_version 1"),
        ('{"plans": []}', "0 plans"),
        ('{"plans": [3]}', "not a plan"),
    ],
)
def test_a_plan_that_is_none(refused, bundle, clip, tmp_path, content, says):
    (tmp_path / "p.json").write_text(content)
    arguments = ("run", "--model", bundle, "--video", clip, "--ask", QUESTION, "--plan", tmp_path / "p.json")
    assert says in refused(2, *arguments)


def test_a_plan_of_another_clip(refused, bundle, clip, tmp_path):
    longer = write_clip(tmp_path / "longer.mp4", steady(80, every_ms=250))
    plan = call("plan", "--model", bundle, "--video", longer, "--ask", QUESTION, "--json").out
    (tmp_path / "p.json").write_text(plan)
    line = refused(2, "run", "--model", bundle, "--video", clip, "--ask", QUESTION, "--plan", tmp_path / "p.json")
    assert "the clip is" in line
