"""What answering needs is known before anything is opened, and is not less than it turns out to be."""

import subprocess
import sys

import pytest
from make_clips import steady, write_clip
from tiny_bundle import LADDER, make_tiny_bundle

from tam_edge.runtime.bundle import load_bundle
from tam_edge.runtime.footprint import Footprint
from tam_edge.runtime.frames import VideoInfo


def change(manifest):
    """Peaks that differ by grid, and a language model whose file is larger than what it was measured with."""
    for grid, projector in manifest["projectors"].items():
        projector["engines"][0]["peak_bytes"] = 1000 * int(grid)
    manifest["language"]["engines"][0]["peak_bytes"] = 5


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_tiny_bundle(tmp_path_factory.mktemp("tiny"), change=change)


@pytest.fixture
def footprint(folder):
    return Footprint(load_bundle(folder).manifest, threads=2)


def info(width, height):
    return VideoInfo("v", "video", 10.0, 250, width, height, 25.0, "h264", "id")


def test_every_stage_is_named(footprint, folder):
    needs = footprint.of(3, info(64, 64))
    assert list(needs) == ["process", "libraries", "inductor", "vision", "strategy", "language", "frames"]
    assert needs["strategy"] == 3000
    assert needs["language"] == (folder / "language.gguf").stat().st_size


def test_the_smallest_need_is_that_of_the_cheapest_grid(footprint):
    assert footprint.smallest()["strategy"] == 1000 * min(LADDER)
    assert "frames" not in footprint.smallest()


def test_large_frames_need_more_than_small_ones(footprint):
    small, large = (footprint.of(3, info(*size))["frames"] for size in ((640, 360), (3840, 2160)))
    assert small > 8 * 3 * 640 * 360  # a chunk of RGB, and what the decoder holds
    assert large > 10 * small


def test_every_decoder_thread_holds_a_picture(folder):
    manifest = load_bundle(folder).manifest
    one, nine = (Footprint(manifest, threads=n).of(3, info(1920, 1080))["frames"] for n in (1, 9))
    assert nine - one == 8 * 1920 * 1080 * 3 // 2


def test_a_peak_that_was_reached_already_counts(folder):
    """In a process of its own: memory that was freed again is still part of its peak."""
    code = """
import numpy as np
from tam_edge.runtime.budget import peak_resident_bytes
np.ones(200 << 17)  # 200 MiB, gone at once
from tam_edge.runtime.bundle import load_bundle
from tam_edge.runtime.footprint import Footprint
import sys
needs = Footprint(load_bundle(sys.argv[1]).manifest, threads=1).smallest()
assert sum(needs.values()) >= peak_resident_bytes() > 200 << 20, needs
"""
    run_child(code, str(folder))


def run_child(code, *arguments):
    run = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)
    assert (run.returncode, run.stderr) == (0, "")


def test_the_measured_peak_is_not_above_the_predicted_one(tmp_path):
    """A clip whose frames are large enough to matter, in a process whose memory nobody else fills."""
    folder = make_tiny_bundle(tmp_path / "tiny")
    clip = write_clip(tmp_path / "clip.mp4", steady(16), size_px=(1280, 720), options={"preset": "ultrafast"})
    code = """
import sys
from tam_edge.runtime import VideoQA
from tam_edge.runtime.footprint import Footprint
with VideoQA.load(sys.argv[1], threads=1) as qa:
    video = qa.open(sys.argv[2])
    predicted = sum(Footprint(qa.bundle.manifest, threads=1).of(4, video.info).values())
    answer = qa.ask(video, "how many people?", grid=4)
    assert predicted / 2 < answer.peak_bytes <= predicted, (answer.peak_bytes, predicted)
"""
    run_child(code, str(folder), str(clip))
