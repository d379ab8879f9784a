"""`tam-edge bench frames`: clips that show what they are, decoders in turns, and wrong frames told from right ones."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from command import call

from tam_edge.apps.bench.clips import ClipSpec, make_clip, number_shown, wanted_frames
from tam_edge.apps.bench.decoders import DECODERS
from tam_edge.apps.bench.frames import Measured, ratio_to_best
from tam_edge.apps.bench.worker import run
from tam_edge.runtime.video import open_video

SPEC = ClipSpec("h264", 12, False, "10s", 96, 64)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("clips")


def test_clips_show_the_frames_that_are_wanted(folder: Path) -> None:
    for spec in (SPEC, replace(SPEC, length="10min")):
        wanted = wanted_frames(spec, 32)
        video = open_video(make_clip(spec, folder))
        assert video.info.duration_seconds == pytest.approx(10 if spec is SPEC else 600, abs=0.1)
        assert video.info.frame_count == (250 if spec is SPEC else 15000)
        batches = list(video.frames([frame.seconds for frame in wanted], 32))
        assert [number_shown(pixels) for pixels in batches[0].pixels] == [frame.shows for frame in wanted]
        assert batches[0].timestamps_seconds.tolist() == pytest.approx([frame.seconds for frame in wanted])


def test_a_clip_is_made_once_and_whole(folder: Path) -> None:
    path = make_clip(SPEC, folder)
    before = path.stat()
    assert make_clip(SPEC, folder).stat() == before
    assert not list(folder.glob(".*"))


def test_wrong_frames_are_counted(folder: Path) -> None:
    path, wanted = make_clip(SPEC, folder), list(wanted_frames(SPEC, 8))
    assert run("tam-edge", path, wanted)["wrong"] == 0
    assert run("pyav", path, wanted)["wrong"] == 0
    wanted[3] = replace(wanted[3], shows=wanted[3].shows + 1)
    assert run("tam-edge", path, wanted)["wrong"] == 1


def test_a_decoder_that_fails_says_why(folder: Path, tmp_path: Path) -> None:
    answer = run("opencv", tmp_path / "missing.mp4", wanted_frames(SPEC, 2))
    assert (answer["failed"], answer["wrong"]) == ("gives no frame", 2)


def test_the_rival_is_the_fastest_that_was_right_and_needs_no_torch() -> None:
    def measured(decoder: str, ms: float | None, wrong: int = 0, failed: str | None = None) -> Measured:
        return Measured(decoder, failed, wrong, () if ms is None else (ms,), ms, ms, 0)

    ours, slow = measured("tam-edge", 30.0), measured("pyav", 60.0)
    for faster in (measured("decord", 10.0, wrong=1), measured("torchcodec", 10.0), measured("opencv", None, 0, "no")):
        assert ratio_to_best([ours, slow, faster]) == 0.5
    assert ratio_to_best([ours, slow, measured("opencv", 20.0)]) == 1.5
    assert ratio_to_best([ours]) is None
    assert ratio_to_best([measured("tam-edge", 30.0, wrong=1), slow]) is None


def test_decoders_take_turns_in_processes_of_their_own(folder: Path) -> None:
    options = ["--codec", "h264", "--gop", "12", "--rate", "vfr", "--length", "10s", "--size", "96x64", "--frames", "4"]
    done = call("bench", "frames", *options, "--runs", "2", "--decoder", "pyav-seek", "--clips", folder, "--json")
    assert (done.code, done.err) == (0, "")
    [case] = json.loads(done.out)["cases"]
    assert (case["clip"], case["frames"]) == (SPEC.name, 4)
    ours, other = case["decoders"]
    assert (ours["decoder"], other["decoder"]) == ("tam-edge", "pyav-seek")
    assert (ours["wrong"], ours["failed"], len(ours["ms"])) == (0, None, 2)
    assert ours["peak_bytes"] > 20_000_000
    assert case["ratio"] == pytest.approx(ours["median_ms"] / other["median_ms"])


@pytest.mark.parametrize(
    ("option", "value", "says"),
    [
        ("--codec", "h266", "choose from h264, h265, vp9, av1"),
        ("--length", "1h", "choose from 10s, 10min, 2h"),
        ("--rate", "fast", "choose from cfr, vfr"),
        ("--size", "big", "makes no sense"),
        ("--size", "32x32", "no side below 64"),
        ("--size", "101x80", "odd side"),
        ("--decoder", "vlc", "choose from tam-edge, opencv"),
    ],
)
def test_what_makes_no_sense_is_refused_before_any_work(option: str, value: str, says: str) -> None:
    done = call("bench", "frames", option, value)
    assert (done.code, done.out) == (2, "")
    assert says in done.err


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = call("bench", "frames", "--codec", "h264", "--length", "10s", "--clips", tmp_path / "file" / "clips")
    assert done.code == 1
    assert "name another folder" in done.err


def test_every_decoder_says_what_it_lacks() -> None:
    for name, decoder in DECODERS.items():
        missing = decoder.missing()
        assert missing is None or decoder.module.split(".")[0] in missing or name == "torchcodec"
