"""Whatever is left out on the way to a frame, the frame is the one that reading through everything shows."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from fractions import Fraction
from functools import cache
from itertools import accumulate
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from make_clips import SIZE_PX, paint_moving, steady, write_clip
from numpy.typing import NDArray

from tam_edge.apps.bench.clips import ClipSpec, make_clip
from tam_edge.runtime import seeking
from tam_edge.runtime.container import open_stream
from tam_edge.runtime.decode import VideoFile
from tam_edge.runtime.keyframes import KeyframeRules, keyframe_rules
from tam_edge.runtime.readthrough import ReadThrough
from tam_edge.runtime.upright import UprightRgb
from tam_edge.runtime.video import open_video

FRAMES = 150
# Uneven times, now and then seconds apart; key frames at most 20 frames apart.
TIMES_MS = [0, *accumulate((7 * i * i) % 70 + (2500 if i % 40 == 39 else 11) for i in range(FRAMES - 1))]
X264 = {"preset": "veryfast", "bf": "3", "b-pyramid": "normal"}
# name -> (suffix, codec, encoder options, container options)
ENCODINGS: dict[str, tuple[str, str, dict[str, str], dict[str, str]]] = {
    "h264": ("mp4", "libx264", X264, {}),
    "h264 without edit list": ("mp4", "libx264", X264, {"use_editlist": "0"}),
    "h264 open gop": ("mkv", "libx264", {**X264, "x264-params": "open-gop=1"}, {}),
    "h264 open gop mp4": ("mp4", "libx264", {**X264, "x264-params": "open-gop=1"}, {}),
    "h264 intra refresh": ("mp4", "libx264", {"preset": "veryfast", "intra-refresh": "1"}, {}),
    "h264 interlaced": ("mkv", "libx264", {**X264, "x264-params": "tff=1"}, {}),
    "h264 fragmented": ("mp4", "libx264", X264, {"movflags": "frag_keyframe+empty_moov"}),
    "h264 ts": ("ts", "libx264", X264, {}),
    "h264 open gop ts": ("ts", "libx264", {**X264, "x264-params": "open-gop=1"}, {}),
    "h264 flv": ("flv", "libx264", X264, {}),
    "h264 without cues": ("mkv", "libx264", X264, {"live": "1"}),
    "h265": ("mp4", "libx265", {"preset": "veryfast"}, {}),
    "h265 mkv": ("mkv", "libx265", {"preset": "veryfast"}, {}),
    "h265 ts": ("ts", "libx265", {"preset": "veryfast"}, {}),
    "h265 temporal layers": ("mp4", "libx265", {"preset": "veryfast", "x265-params": "temporal-layers=3:b-adapt=0"}, {}),
    "mpeg4": ("mp4", "mpeg4", {"bf": "2"}, {}),
    "mpeg4 avi": ("avi", "mpeg4", {"bf": "2"}, {}),
    "mpeg2": ("ts", "mpeg2video", {"bf": "2"}, {}),
    "mjpeg": ("mkv", "mjpeg", {}, {}),
    "vp8": ("webm", "libvpx", {"deadline": "realtime", "auto-alt-ref": "1", "lag-in-frames": "10"}, {}),
    "vp9": ("webm", "libvpx-vp9", {"deadline": "good", "cpu-used": "8", "auto-alt-ref": "1", "lag-in-frames": "10"}, {}),
    "av1": ("mp4", "libsvtav1", {"preset": "12"}, {}),
}  # fmt: skip
STEADY_ONLY = {"mpeg4", "mpeg4 avi", "mpeg2", "mjpeg"}  # their encoders count frames
Frame = tuple[float, NDArray[np.uint8]]


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    folder = tmp_path_factory.mktemp("clips")

    @cache
    def clip(name: str) -> Path:
        suffix, codec, options, container_options = ENCODINGS[name]
        path = folder / f"{name.replace(' ', '-')}.{suffix}"
        params = ":".join(filter(None, ["log-level=none" * (codec == "libx265"), options.get(f"{codec[3:]}-params")]))
        times_ms = steady(FRAMES) if name in STEADY_ONLY else TIMES_MS
        return write_clip(
            path, times_ms, codec, painter=paint_moving, container_options=container_options,
            options={**options, "g": "20", **({f"{codec[3:]}-params": params} if params else {})},
            pix_fmt="yuvj420p" if codec == "mjpeg" else "yuv420p",
            time_base=Fraction(1, 25) if name in STEADY_ONLY else Fraction(1, 1000),
        )  # fmt: skip

    return clip


def frames_of(video: VideoFile, times: Sequence[float]) -> tuple[list[Frame], set[str]]:
    """Times and pixels, and why anything was read through."""
    batches = list(video.frames(times, 4))
    frames = [pair for batch in batches for pair in zip(batch.timestamps_seconds, batch.pixels, strict=True)]
    return frames, {reason for batch in batches for reason in batch.read_through}


def read_through(path: Path, video: VideoFile, times: Sequence[float]) -> list[Frame]:
    """The reference."""
    facts, to_rgb = video._probe, UprightRgb(video._probe.orientation)
    with closing(ReadThrough(open_stream(path, str(path), 1), str(path), facts)) as reader:
        shown = [reader.shown_at(facts.clock.last_tick_at(seconds)) for seconds in times]
        return [(facts.clock.seconds_at(s.tick), to_rgb(s.frame)) for s in shown if s is not None]


def opened(path: Path, threads: int = 1) -> VideoFile:
    video = open_video(path, threads=threads)
    assert isinstance(video, VideoFile)
    return video


def same(some: Sequence[Frame], others: Sequence[Frame]) -> bool:
    return len(some) == len(others) and all(
        one[0] == other[0] and np.array_equal(one[1], other[1]) for one, other in zip(some, others, strict=True)
    )


@pytest.mark.parametrize("name", ENCODINGS)
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_what_is_found_is_what_reading_through_shows(
    name: str, data: st.DataObject, clips: Callable[[str], Path]
) -> None:
    path = clips(name)
    video = opened(path, data.draw(st.sampled_from((1, 3)), "threads"))
    on_a_frame = st.sampled_from([t / 1000 for t in TIMES_MS])
    anywhere = st.floats(0, video.info.duration_seconds + 1)
    times = sorted(data.draw(st.lists(on_a_frame | anywhere, min_size=1, max_size=9), "times"))
    found, _ = frames_of(video, times)
    assert same(found, read_through(path, video, times))


@pytest.mark.parametrize("name", ENCODINGS)
def test_all_frames_are_what_reading_through_shows(name: str, clips: Callable[[str], Path]) -> None:
    path = clips(name)
    video = opened(path)
    times = np.linspace(0, video.info.duration_seconds, 400).tolist()
    expected = read_through(path, video, times)
    assert len({seconds for seconds, _ in expected}) > FRAMES // 2
    assert same(frames_of(video, times)[0], expected)
