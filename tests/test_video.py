"""Frames are found by presentation time, exactly, in bounded memory, whatever the container and the way there."""

from __future__ import annotations

import gc
import math
import os
import subprocess
import sys
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from make_clips import SIZE_PX, paint, read, steady, write_clip

from tam_edge.runtime import readthrough, seeking
from tam_edge.runtime.container import OpenFile
from tam_edge.runtime.errors import UsageError, VideoError
from tam_edge.runtime.video import FramesInMemory, Video, open_video

# The edit list that the muxer writes by default hides the last frames of some clips with B-frames and uneven times.
NO_EDITS = {"use_editlist": "0"}
# name -> (suffix, codec, encoder options, container options)
FORMATS = {
    "h264": ("mp4", "libx264", {"preset": "ultrafast", "bf": "3", "b-pyramid": "normal"}, NO_EDITS),
    "h264 open gop": ("mkv", "libx264", {"preset": "veryfast", "bf": "3", "x264-params": "open-gop=1"}, {}),
    "h264 open gop mp4": ("mp4", "libx264", {"preset": "veryfast", "bf": "3", "x264-params": "open-gop=1"}, NO_EDITS),
    "h264 fragmented": ("mp4", "libx264", {"preset": "ultrafast", "bf": "2"}, {"movflags": "frag_keyframe+empty_moov"}),
    "h264 ts": ("ts", "libx264", {"preset": "ultrafast", "bf": "2"}, {}),
    "h264 flv": ("flv", "libx264", {"preset": "ultrafast", "bf": "2"}, {}),
    "h265": ("mp4", "libx265", {"preset": "ultrafast"}, NO_EDITS),
    "mpeg4": ("mp4", "mpeg4", {"bf": "2"}, NO_EDITS),
    "vp9": ("webm", "libvpx-vp9", {"deadline": "realtime", "cpu-used": "8"}, {}),
}


def numbers(video: Video, times: Sequence[float], chunk_frames: int = 4) -> list[int]:
    return [read(pixels) for batch in video.frames(times, chunk_frames) for pixels in batch.pixels]


def times_of(video: Video, times: Sequence[float]) -> list[float]:
    return [float(t) for batch in video.frames(times, 4) for t in batch.timestamps_seconds]


def count_packets(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list that will grow with every packet that goes into a decoder to find a frame."""
    decoded: list[int] = []

    class Counting:
        def __init__(self, packet: av.Packet) -> None:
            self._packet = packet

        def __getattr__(self, name: str) -> object:
            return getattr(self._packet, name)

        def __bytes__(self) -> bytes:
            return bytes(self._packet)

        def decode(self) -> object:
            decoded.append(self._packet.pts)
            return self._packet.decode()

    def counted(file: OpenFile, place: readthrough.Place) -> object:
        return (Counting(packet) for packet in packets_from(file, place))

    packets_from = readthrough.packets_from
    monkeypatch.setattr(readthrough, "packets_from", counted)
    monkeypatch.setattr(seeking, "packets_from", counted)
    return decoded


def shown_at(times_ms: Sequence[int], seconds: float) -> int:
    """The definition: the last frame that appears at or before the time, the first if none does."""
    first = times_ms[0]
    return max((i for i, t in enumerate(times_ms) if (t - first) / 1000 <= seconds + 1e-9), default=0)


@st.composite
def clip_and_times(draw: st.DrawFn) -> tuple[list[int], int, list[float]]:
    """Frame times in ms, key frame distance, and rising times in seconds, some of them a frame's own."""
    gaps = draw(st.lists(st.one_of(st.integers(1, 120), st.integers(400, 4000)), min_size=5, max_size=40))
    times_ms = list(np.cumsum([draw(st.integers(0, 3000)), *gaps]).tolist())
    length = (times_ms[-1] - times_ms[0]) / 1000
    anywhere = st.floats(0, length + 1, allow_nan=False)
    on_a_frame = st.sampled_from([(t - times_ms[0]) / 1000 for t in times_ms])
    times = draw(st.lists(st.one_of(anywhere, on_a_frame), min_size=1, max_size=12))
    return times_ms, draw(st.integers(1, 12)), sorted(times)


@pytest.mark.parametrize("name", FORMATS)
@settings(max_examples=12, deadline=None)
@given(case=clip_and_times())
def test_the_frame_on_screen_is_returned(
    name: str, case: tuple[list[int], int, list[float]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    times_ms, gop, times = case
    suffix, codec, options, container_options = FORMATS[name]
    path = tmp_path_factory.mktemp("clip") / f"clip.{suffix}"
    write_clip(path, times_ms, codec, options={**options, "g": str(gop)}, container_options=container_options)
    video = open_video(path)
    expected = [shown_at(times_ms, t) for t in times]
    assert numbers(video, times, chunk_frames=5) == expected
    assert times_of(video, times) == [(times_ms[i] - times_ms[0]) / 1000 for i in expected]


@pytest.mark.parametrize("name", FORMATS)
def test_seeking_gives_the_same_pixels_as_reading_on(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    suffix, codec, options, container_options = FORMATS[name]
    times_ms = steady(1200)  # 48 s
    path = write_clip(
        tmp_path / f"clip.{suffix}", times_ms, codec,
        options={**options, "g": "20", "keyint_min": "20"}, container_options=container_options,
    )  # fmt: skip
    decoded = count_packets(monkeypatch)
    video = open_video(path)
    sparse = [0.5, 13.56, 13.7, 27.94, 40.72, 47.96]  # some just before a key frame, which is every 0.8 s
    found = [pixels for batch in video.frames(sparse, 2) for pixels in batch.pixels]
    assert len(decoded) < 600
    decoded.clear()
    dense = [t / 1000 for t in times_ms]
    every = [pixels for batch in video.frames(dense, 8) for pixels in batch.pixels]
    assert len(decoded) >= 1200
    assert [read(pixels) for pixels in every] == list(range(1200))
    for seconds, pixels in zip(sparse, found, strict=True):
        assert np.array_equal(pixels, every[shown_at(times_ms, seconds)])


def test_long_gops_are_read_through_not_sought_again_and_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_clip(tmp_path / "clip.mp4", steady(500), options={"g": "500", "preset": "ultrafast"})
    monkeypatch.setattr(seeking.Seeking, "_seek", lambda *_: pytest.fail("jumped"))
    assert numbers(open_video(path), [1.0, 8.0, 19.0]) == [25, 200, 475]


def test_without_an_index_useless_seeks_are_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_clip(tmp_path / "clip.flv", steady(1500), options={"g": "1500", "preset": "ultrafast"})
    decoded = count_packets(monkeypatch)
    assert numbers(open_video(path), [1.0, 12.0, 23.0, 34.0, 45.0, 56.0]) == [25, 300, 575, 850, 1125, 1400]
    assert len(decoded) < 2 * 1500


def test_a_wrong_index_only_costs_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Frames come out right even where no seek leads to a key frame; that is said, and tried only once."""
    path = write_clip(tmp_path / "clip.mp4", steady(300), options={"g": "10", "preset": "ultrafast"})
    video = open_video(path)
    decoded = count_packets(monkeypatch)
    monkeypatch.setattr(seeking.Seeking, "_indexed_keys", lambda *_: [2**40])
    batches = list(video.frames([0.0, 5.0, 8.0, 11.0], 1))
    assert [read(batch.pixels[0]) for batch in batches] == [0, 125, 200, 275]
    assert [len(batch.read_through) for batch in batches] == [0, 1, 1, 1]
    assert "no place that decoding may start from" in batches[1].read_through[0]
    assert len(decoded) < 60


def test_metadata_come_from_the_container(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "clip.mp4", [500, 600, 800, 1500], size_px=(128, 96), container_options=NO_EDITS)
    info = open_video(path).info
    assert (info.kind, info.codec, info.width_px, info.height_px) == ("video", "h264", 128, 96)
    assert info.frame_count == 4
    assert info.duration_seconds == pytest.approx(1.1, abs=0.1)  # the encoder decides how long the last frame stays
    assert info.average_fps == pytest.approx(4, rel=0.3)
    assert (info.notes, info.start_seconds) == ((), 0.0)


def test_identity_follows_the_content(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "clip.mp4", steady(5))
    before = open_video(path).info.identity
    assert open_video(str(path)).info.identity == before
    os.utime(path, ns=(1, 1))
    assert open_video(path).info.identity != before


def test_a_beginning_hidden_by_an_edit_list_is_not_shown(tmp_path: Path) -> None:
    path = write_clip(
        tmp_path / "clip.mp4", steady(50, first_ms=-1200), options={"g": "25", "bf": "2"},
        container_options={"avoid_negative_ts": "disabled"},
    )  # fmt: skip
    video = open_video(path)
    assert video.info.duration_seconds == pytest.approx(0.8)
    assert video.info.frame_count == 20
    assert numbers(video, [0.0, 0.4, 0.79]) == [30, 40, 49]


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_frames_that_all_have_the_same_time_show_the_first(suffix: str, tmp_path: Path) -> None:
    source, path = write_clip(tmp_path / "timed.mp4", steady(10)), tmp_path / f"still.{suffix}"
    with av.open(source) as timed, av.open(path, "w") as still:
        stream = still.add_stream_from_template(timed.streams.video[0])
        for packet in timed.demux(timed.streams.video[0]):
            if not packet.size:
                continue
            packet.pts = packet.dts = 0
            packet.stream = stream
            still.mux(packet)
    video = open_video(path)
    assert numbers(video, [0.0, video.info.duration_seconds]) == [0, 0]


# Containers without presentation times, without an index, or without a duration.
@pytest.mark.parametrize(
    ("file", "codec", "fmt", "options", "container_options"),
    [
        ("clip.avi", "libx264", None, {"bf": "3"}, {}),
        ("clip.avi", "mpeg4", None, {"bf": "2"}, {}),
        ("clip.h264", "libx264", "h264", {"bf": "3"}, {}),
        ("clip.hevc", "libx265", "hevc", {}, {}),
        ("clip.m2v", "mpeg2video", "mpeg2video", {"bf": "2"}, {}),
        ("clip.mkv", "libx264", None, {"bf": "3"}, {"live": "1"}),
        ("clip.mkv", "libx264", None, {"bf": "3"}, {}),
        ("clip.ogv", "libvpx", "ogg", {"deadline": "realtime", "cpu-used": "8"}, {}),
        ("clip.y4m", "rawvideo", "yuv4mpegpipe", {}, {}),
    ],
)
def test_plain_streams_are_timed_too(
    file: str, codec: str, fmt: str | None, options: dict[str, str], container_options: dict[str, str], tmp_path: Path
) -> None:
    times_ms = steady(250)  # 10 s
    path = write_clip(
        tmp_path / file, times_ms, codec, fmt=fmt, options={**options, "g": "30"},
        container_options=container_options, time_base=Fraction(1, 25),
    )  # fmt: skip
    video = open_video(path)
    assert video.info.duration_seconds == pytest.approx(10.0, abs=0.05)
    assert numbers(video, [t / 1000 for t in times_ms]) == list(range(250))
    assert numbers(video, [0.1, 4.0, 9.99]) == [2, 100, 249]


@pytest.mark.parametrize(("suffix", "codec", "pix_fmt"), [("gif", "gif", "gray"), ("apng", "apng", "rgb24")])
def test_animated_images_are_videos(suffix: str, codec: str, pix_fmt: str, tmp_path: Path) -> None:
    path = write_clip(
        tmp_path / f"clip.{suffix}", [0, 500, 600, 2000], codec, pix_fmt=pix_fmt, time_base=Fraction(1, 100)
    )
    video = open_video(path)
    assert video.info.kind == "video"
    assert numbers(video, [0.0, 0.49, 0.5, 0.61, 1.9, 2.0]) == [0, 0, 1, 2, 2, 3]


def test_pictures_that_end_before_the_sound(tmp_path: Path) -> None:
    for name in ("clip.mp4", "clip.mkv"):
        info = open_video(write_clip(tmp_path / name, steady(50), audio_seconds=8)).info
        assert info.duration_seconds == pytest.approx(2.0, abs=0.05)
    assert info.notes == ("The file says it lasts 8.1 s, its pictures end after 2.0 s.",)


# Matrix rows as stored: a b u, c d v, x y w; source x goes to a * x + c * y, source y to b * x + d * y.
@pytest.mark.parametrize(
    ("a", "b", "c", "d", "turned"),
    [
        (1, 0, 0, 1, lambda p: p),
        (0, 1, -1, 0, lambda p: np.rot90(p, -1)),  # a phone held upright
        (-1, 0, 0, -1, lambda p: np.rot90(p, 2)),
        (0, -1, 1, 0, lambda p: np.rot90(p, 1)),
        (-1, 0, 0, 1, lambda p: p[:, ::-1]),  # a mirrored front camera
        (0, 1, 1, 0, lambda p: p.transpose(1, 0, 2)),
    ],
)
def test_rotation_is_applied(a: int, b: int, c: int, d: int, turned: object, tmp_path: Path) -> None:
    one = 1 << 16
    matrix = [a * one, b * one, 0, c * one, d * one, 0, 0, 0, 1 << 30]
    path = write_clip(tmp_path / "clip.mp4", steady(3), size_px=(128, 64), matrix=matrix, options={"qp": "1"})
    video = open_video(path)
    (batch,) = video.frames([0.0], 1)
    upright = turned(paint(0, 64, 128))  # type: ignore[operator]
    assert batch.pixels.shape[1:] == upright.shape
    assert (video.info.height_px, video.info.width_px) == upright.shape[:2]
    assert np.abs(batch.pixels[0].astype(int) - upright).mean() < 4


@pytest.mark.parametrize(
    ("codec", "pix_fmt"),
    [
        ("ffv1", "gray"), ("ffv1", "gray16le"), ("ffv1", "yuv422p10le"), ("ffv1", "yuva420p"), ("ffv1", "bgra"),
        ("ffv1", "gbrp16le"), ("rawvideo", "nv12"), ("rawvideo", "yuyv422"),
        ("mjpeg", "yuvj444p"), ("prores_ks", "yuv444p10le"), ("ffv1", "yuv410p"), ("libx264", "yuv444p10le"),
    ],
)  # fmt: skip
def test_pixel_formats_become_rgb(codec: str, pix_fmt: str, tmp_path: Path) -> None:
    path = write_clip(tmp_path / "clip.mkv", steady(6), codec, pix_fmt=pix_fmt)
    (batch,) = open_video(path).frames([0.0, 0.2], 2)
    assert batch.pixels.dtype == np.uint8
    assert np.abs(batch.pixels[1].astype(int) - paint(5)).mean() < 6


def test_chunks_come_in_order_and_bounded(tmp_path: Path) -> None:
    video = open_video(write_clip(tmp_path / "clip.mp4", steady(30)))
    batches = list(video.frames([i * 0.04 for i in range(30)], 8))
    assert [len(batch.pixels) for batch in batches] == [8, 8, 8, 6]
    assert [read(p) for batch in batches for p in batch.pixels] == list(range(30))
    assert all(batch.sources == (video.info.source,) * len(batch.pixels) for batch in batches)
    assert list(video.frames([], 4)) == []


def test_calls_may_overlap_and_leave_nothing_open(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "clip.mp4", steady(30))
    before = len(list(Path("/proc/self/fd").iterdir()))
    video = open_video(path)
    one, two = video.frames([0.0, 0.4, 0.8], 1), video.frames([0.2, 0.6], 1)
    assert [read(next(one).pixels[0]), read(next(two).pixels[0]), read(next(one).pixels[0])] == [0, 5, 10]
    del one, two  # left half-way
    gc.collect()
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    video.close()
    with pytest.raises(VideoError, match="closed"):
        video.frames([0.0], 1)


def test_a_file_is_closed_before_its_last_frames_are_used(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "clip.mp4", steady(30))

    def open_files() -> int:
        return sum(place.is_symlink() and place.readlink() == path for place in Path("/proc/self/fd").iterdir())

    held = []
    for _ in open_video(path).frames([0.0, 0.4, 0.8], 2):
        held.append(open_files())
    assert held == [1, 0]


MEMORY_PROGRAM = """
import sys
from pathlib import Path
from tam_edge.runtime.video import open_video
video = open_video(sys.argv[1], threads=1)
for batch in video.frames([i / 10 for i in range(int(sys.argv[2]))], 4):
    pass
print(next(line.split()[1] for line in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in line))
"""


def test_memory_does_not_grow_with_the_number_of_frames(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "clip.mp4", steady(300, 100), size_px=(640, 384), options={"preset": "ultrafast"})

    def peak_kib(frames: int) -> int:
        command = [sys.executable, "-c", MEMORY_PROGRAM, str(path), str(frames)]
        return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)

    assert peak_kib(300) - peak_kib(8) < 12 * 1024  # all 300 would be 216 MiB


def test_a_clip_cut_short_gives_what_decodes(tmp_path: Path) -> None:
    faststart = {"movflags": "faststart"}
    path = write_clip(tmp_path / "clip.mp4", steady(500), options={"g": "50", "bf": "0"}, container_options=faststart)
    kept = int(path.stat().st_size * 0.7)
    path.write_bytes(path.read_bytes()[:kept])
    with av.open(str(path)) as container:
        intact = sum(entry.pos + entry.size <= kept for entry in container.streams.video[0].index_entries)
    assert 100 < intact < 400
    video = open_video(path)
    assert video.info.duration_seconds == pytest.approx(20.0)
    every_second = [float(i) for i in range(20)]
    found = numbers(video, every_second)
    assert found == [i * 25 for i in range(len(found))]
    assert len(found) == math.ceil(intact / 25)
    assert numbers(video, [5.0, 19.0]) == [125]
    assert numbers(video, [intact * 0.04 - 0.001, 19.0]) == [intact - 1]


def test_half_a_picture_is_no_picture(tmp_path: Path) -> None:
    faststart = {"movflags": "faststart"}
    path = write_clip(tmp_path / "clip.mp4", steady(40), "libvpx-vp9", container_options=faststart)
    with av.open(str(path)) as container:
        entry = container.streams.video[0].index_entries[20]
        path.write_bytes(path.read_bytes()[: entry.pos + entry.size * 3 // 4])
    assert numbers(open_video(path), [0.76, 0.8, 1.2]) == [19]


def test_a_matroska_cut_short_says_so(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "clip.mkv", steady(500), options={"g": "50"})
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * 0.7)])
    video = open_video(path)
    assert 11 <= video.info.duration_seconds <= 17
    assert len(video.info.notes) == 1 and "says it lasts 20.0 s" in video.info.notes[0]
    assert numbers(video, [5.0, 10.0]) == [125, 250]


def test_a_damaged_middle_freezes_but_does_not_lie(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "clip.mp4", steady(500), options={"g": "25", "bf": "0"})
    data = bytearray(path.read_bytes())
    third = len(data) // 3
    data[third : 2 * third] = bytes(third)
    path.write_bytes(data)
    video = open_video(path)
    times = [float(i) for i in range(20)]
    batches = list(video.frames(times, 4))
    shown = [float(t) for batch in batches for t in batch.timestamps_seconds]
    assert shown[-3:] == times[-3:]  # intact again
    assert all(appears <= asked for appears, asked in zip(shown, times, strict=True))


def test_a_window_keeps_the_times_of_the_file(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "clip.mp4", steady(250))
    video = open_video(path, start=4, end=6)
    assert (video.info.start_seconds, video.info.duration_seconds) == (4, 2)
    assert video.info.identity == open_video(path).info.identity
    assert times_of(video, [4.0, 5.0]) == [4.0, 5.0]
    assert open_video(path, start=8, end=100).info.duration_seconds == pytest.approx(2)
    assert open_video(path, end=3).info.duration_seconds == 3
    for outside in (3.9, 6.1):
        with pytest.raises(UsageError, match="outside the window"):
            list(video.frames([outside], 1))


@pytest.mark.parametrize(
    ("start", "end"),
    [
        (float("nan"), None),
        (-1.0, None),
        (float("inf"), None),
        (None, -0.5),
        (None, float("nan")),
        (2.0, 2.0),
        (2.0, 1.0),
    ],
)
def test_windows_that_make_no_sense(start: float | None, end: float | None, tmp_path: Path) -> None:
    path = write_clip(tmp_path / "clip.mp4", steady(5))
    with pytest.raises(UsageError):
        open_video(path, start=start, end=end)


def test_a_start_beyond_the_end(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "clip.mp4", steady(25))
    with pytest.raises(UsageError, match=r"beyond the end .*1\.00 s"):
        open_video(path, start=1)


@pytest.mark.parametrize("times", [[1.0, 0.5], [float("nan")], [-0.1], [float("inf")]])
def test_times_that_make_no_sense(times: list[float], tmp_path: Path) -> None:
    video = open_video(write_clip(tmp_path / "clip.mp4", steady(5)))
    with pytest.raises(UsageError):
        video.frames(times, 1)
    with pytest.raises(UsageError, match="at least 1"):
        video.frames([0.0], 0)


def test_frames_in_memory() -> None:
    source = FramesInMemory([paint(i) for i in range(4)], [10.0, 10.1, 10.5, 12.0])
    video = open_video(source)
    assert (video.info.kind, video.info.start_seconds, video.info.frame_count) == ("frames", 10.0, 4)
    assert video.info.duration_seconds == pytest.approx(2 * 4 / 3)
    assert numbers(video, [0.0, 10.0, 10.1, 11.9, 12.0, 50.0]) == [0, 0, 1, 2, 3, 3]
    assert times_of(video, [10.4]) == [10.1]
    sum_of_floats = FramesInMemory([paint(0), paint(1)], [0.0, 0.1 + 0.2])
    assert numbers(open_video(sum_of_floats), [0.3]) == [1]
    again = FramesInMemory(np.stack([paint(i) for i in range(4)]), np.array([10.0, 10.1, 10.5, 12.0]))
    assert open_video(again).info.identity == video.info.identity
    other = FramesInMemory([paint(i) for i in (0, 1, 2, 7)], [10.0, 10.1, 10.5, 12.0])
    assert open_video(other).info.identity != video.info.identity


@pytest.mark.parametrize(
    ("pixels", "times"),
    [
        ([], []),
        ([paint(0)], []),
        ([paint(0), paint(1)], [1.0, 1.0]),
        ([paint(0)], [float("nan")]),
        ([paint(0)], [-1.0]),
        ([paint(0).astype(np.float32)], [0.0]),
        ([paint(0)[..., 0]], [0.0]),
        ([paint(0), paint(1, 80, 80)], [0.0, 1.0]),
    ],
)
def test_frames_in_memory_that_make_no_sense(pixels: list[np.ndarray], times: list[float]) -> None:
    with pytest.raises(UsageError):
        FramesInMemory(pixels, times)


def test_a_sequence_is_one_timeline(tmp_path: Path) -> None:
    from PIL import Image

    Image.fromarray(paint(1000)).save(tmp_path / "still.png")
    one = write_clip(tmp_path / "one.mp4", steady(50))
    two = write_clip(tmp_path / "two.mkv", steady(25, first_ms=700), size_px=(128, 80))
    held = FramesInMemory([paint(2000), paint(2001)], [5.0, 6.0])
    video = open_video([one, tmp_path / "still.png", two, held])
    info = video.info
    assert info.kind == "sequence"
    assert info.duration_seconds == pytest.approx(2 + 1 + 1 + 2)
    assert (info.width_px, info.height_px) == (128, 80)
    batches = list(video.frames([0.0, 1.99, 2.0, 2.9, 3.0, 3.5, 4.0, 5.5], 3))
    assert [read(p) for batch in batches for p in batch.pixels] == [0, 49, 1000, 1000, 0, 12, 2000, 2001]
    sources = [source for batch in batches for source in batch.sources]
    assert sources == [str(one)] * 2 + [str(tmp_path / "still.png")] * 2 + [str(two)] * 2 + ["frames in memory"] * 2
    found = [float(t) for batch in batches for t in batch.timestamps_seconds]
    assert found == pytest.approx([0.0, 1.96, 2.0, 2.0, 3.0, 3.48, 4.0, 5.0])
    assert all(len(batch.pixels) <= 3 for batch in batches)
    assert {batch.pixels.shape[1:] for batch in batches} == {(SIZE_PX, SIZE_PX, 3), (80, 128, 3)}
    assert "still.png begins at 2.00 s." in info.notes[1]


def test_a_window_on_a_sequence(tmp_path: Path) -> None:
    one, two = (write_clip(tmp_path / f"{i}.mp4", steady(50)) for i in range(2))
    video = open_video([one, two], start=1.5, end=2.5)
    assert numbers(video, [1.5, 2.0, 2.4]) == [37, 0, 10]
    video.close()
    with pytest.raises(VideoError, match="closed"):
        video.frames([2.0], 1)
