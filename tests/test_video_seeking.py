"""Whatever is left out on the way to a frame, the frame is the one that reading through everything shows."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import closing
from fractions import Fraction
from functools import cache
from itertools import accumulate
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from make_clips import paint_moving, steady, write_clip
from numpy.typing import NDArray

from tam_edge.apps.bench.clips import ClipSpec, make_clip
from tam_edge.runtime import seeking
from tam_edge.runtime.container import open_stream
from tam_edge.runtime.decode import VideoFile
from tam_edge.runtime.packets import PacketRules, packet_rules
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
    "h265 temporal layers": ("mp4", "libx265", {"preset": "veryfast", "x265-params": "temporal-layers=3"}, {}),
    "mpeg4": ("mp4", "mpeg4", {"bf": "2"}, {}),
    "mpeg4 avi": ("avi", "mpeg4", {"bf": "2"}, {}),
    "mpeg2": ("ts", "mpeg2video", {"bf": "2"}, {}),
    "mjpeg": ("mkv", "mjpeg", {}, {}),
    "vp8": ("webm", "libvpx", {"deadline": "good", "cpu-used": "8", "auto-alt-ref": "1", "lag-in-frames": "9"}, {}),
    "vp9": ("webm", "libvpx-vp9", {"deadline": "good", "cpu-used": "8", "auto-alt-ref": "1", "lag-in-frames": "9"}, {}),
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
@settings(max_examples=8, deadline=None)
@given(data=st.data())
def test_what_is_found_is_what_reading_through_shows(
    name: str, data: st.DataObject, clips: Callable[[str], Path]
) -> None:
    path = clips(name)
    video = opened(path, data.draw(st.sampled_from((1, 3)), "threads"))
    on_a_frame = st.sampled_from([t / 1000 for t in TIMES_MS])
    anywhere = st.floats(0, video.info.duration_seconds + 1)
    times = sorted(data.draw(st.lists(on_a_frame | anywhere, min_size=1, max_size=9), "times"))
    with pytest.MonkeyPatch.context() as patch:
        if data.draw(st.booleans(), "seek wherever it is possible"):
            patch.setattr(seeking, "SEEK_PACKETS", 1)
            patch.setattr(seeking, "UNINDEXED_GAP_SECONDS", 0.3)
            patch.setattr(seeking, "_BACK_SECONDS", 0.3)
            patch.setattr(seeking, "RESTART_FRAMES", 1)
        found, _ = frames_of(video, times)
    assert same(found, read_through(path, video, times))


@pytest.mark.parametrize("name", ENCODINGS)
def test_every_frame_in_turn(name: str, clips: Callable[[str], Path]) -> None:
    path = clips(name)
    video = opened(path)
    times = np.linspace(0, video.info.duration_seconds, 300).tolist()
    expected = read_through(path, video, times)
    assert len({seconds for seconds, _ in expected}) > FRAMES // 2
    found, reasons = frames_of(video, times)
    assert same(found, expected)
    assert reasons == set()


def rules_of(path: Path) -> PacketRules | None:
    with open_stream(path, str(path), 1).container as container:
        return packet_rules(container.streams.video[0].codec_context)


def remuxed(path: Path, into: Path, change: Callable[[int, av.Packet], None]) -> Path:
    """Copy a clip packet by packet; `change` gets each packet and its number."""
    with av.open(str(path)) as source, av.open(str(into), "w") as container:
        stream = container.add_stream_from_template(source.streams.video[0], opaque=True)
        for number, packet in enumerate(source.demux(source.streams.video[0])):
            if packet.size:
                change(number, packet)
                packet.stream = stream
                container.mux(packet)
    return into


@pytest.mark.parametrize("name", ["h264", "h264 open gop", "h264 ts", "h265", "h265 ts", "mpeg4", "mpeg2"])
def test_key_frames_are_known_by_their_packets(name: str, clips: Callable[[str], Path]) -> None:
    path = clips(name)
    rules = rules_of(path)
    assert rules is not None
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
        marked = [packet.is_keyframe for packet in packets]
        assert [rules.starts(bytes(packet)) for packet in packets] == marked
        assert FRAMES // 20 <= sum(marked) < FRAMES // 10
        assert not any(rules.starts(bytes(packet)[:end]) for packet in packets for end in range(5))


def test_where_a_picture_is_refreshed_bit_by_bit_decoding_does_not_start(clips: Callable[[str], Path]) -> None:
    path = clips("h264 intra refresh")
    rules = rules_of(path)
    assert rules is not None
    with av.open(str(path)) as container:
        marked = [packet for packet in container.demux(video=0) if packet.size and packet.is_keyframe]
    assert len(marked) > 3
    assert [rules.starts(bytes(packet)) for packet in marked] == [True] + [False] * (len(marked) - 1)


def mark_all(number: int, packet: av.Packet) -> None:
    packet.is_keyframe = True


def test_packets_that_are_wrongly_marked_are_not_believed(
    clips: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = remuxed(clips("h264"), tmp_path / "clip.mkv", mark_all)
    monkeypatch.setattr(seeking, "SEEK_PACKETS", 1)
    monkeypatch.setattr(seeking, "RESTART_FRAMES", 1)
    video, times = opened(path), [0.7, 3.0, 6.1, 9.0, 12.5]
    expected = read_through(path, video, times)
    assert same(frames_of(video, times)[0], expected)
    monkeypatch.setattr(PacketRules, "starts", lambda *_: True)  # and that is why
    believed, reasons = frames_of(video, times)
    assert reasons or not same(believed, expected)


def unreferenced(path: Path) -> list[bool]:
    """For each packet of a clip, whether nothing refers to it."""
    rules = rules_of(path)
    assert rules is not None
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
        found = [rules.nothing_refers_to(bytes(packet)) for packet in packets]
        assert not any(rules.nothing_refers_to(bytes(packet)[:end]) for packet in packets for end in range(5))
        assert not any(found[i] for i, packet in enumerate(packets) if packet.is_keyframe)
    return found


@pytest.mark.parametrize("name", ["h264", "h264 ts", "h265", "h265 ts", "mpeg4", "mpeg2"])
def test_what_nothing_refers_to_can_be_taken_away(name: str, clips: Callable[[str], Path], tmp_path: Path) -> None:
    path = clips(name)
    can_go = unreferenced(path)
    assert sum(can_go) > FRAMES // 4

    def decoded(omit: Sequence[bool]) -> dict[int | None, NDArray[np.uint8]]:
        with open_stream(path, str(path), 1).container as container:
            packets = [packet for i, packet in enumerate(container.demux(video=0)) if not (i < len(omit) and omit[i])]
            return {frame.pts: frame.to_ndarray() for packet in packets for frame in packet.decode()}

    every, rest = decoded([]), decoded(can_go)
    assert len(rest) == len(every) - sum(can_go)
    assert all(np.array_equal(pixels, every[pts]) for pts, pixels in rest.items())


def test_what_a_higher_temporal_layer_leans_on_is_not_taken_away(clips: Callable[[str], Path]) -> None:
    assert not any(unreferenced(clips("h265 temporal layers")))


def test_frames_that_nobody_wants_are_not_decoded(
    clips: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    out: list[int] = []
    came_out = seeking.Seeking._came_out

    def counted(self: seeking.Seeking, frame: av.VideoFrame, on_screen: float) -> object:
        out.append(frame.pts or 0)
        return came_out(self, frame, on_screen)

    monkeypatch.setattr(seeking.Seeking, "_came_out", counted)
    video = opened(clips("h264"))
    last = video.info.duration_seconds
    assert len(frames_of(video, [last])[0]) == 1
    assert len(out) < 8  # of 150
    out.clear()
    frames_of(video, [t / 1000 for t in TIMES_MS])
    assert len(out) == FRAMES


def test_damage_is_read_through_as_ever_and_said(clips: Callable[[str], Path], tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    data = bytearray(clips("h264").read_bytes())
    with av.open(str(clips("h264"))) as container:
        index = container.streams.video[0].index_entries
        for entry in index[84:88]:
            data[entry.pos + 4 : entry.pos + entry.size] = bytes(entry.size - 4)
    path.write_bytes(data)
    video, times = opened(path), np.linspace(0, 13, 40).tolist()
    found, reasons = frames_of(video, times)
    assert same(found, read_through(path, video, times))
    assert any("damaged" in reason or "do not come out" in reason for reason in reasons)


def test_a_file_that_cannot_be_sought_in_says_so(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "clip.avi", steady(300, every_ms=100), "mpeg4", time_base=Fraction(1, 10))
    assert frames_of(opened(path), [0.0, 5.0])[1] == set()
    _, reasons = frames_of(opened(path), [0.0, 25.0])
    assert reasons == {"its container does not tell where decoding may start, so all of it was decoded"}


MEMORY_PROGRAM = """
import sys
from tam_edge.runtime.budget import peak_resident_bytes
from tam_edge.runtime.video import open_video
video = open_video(sys.argv[1], threads=1)
length = video.info.duration_seconds
shown = sum(len(batch.pixels) for batch in video.frames([length * (i + 0.5) / 32 for i in range(32)], 8))
assert shown == 32
print(peak_resident_bytes())
"""


@pytest.mark.parametrize("codec", ["h264", "vp9"])
def test_memory_does_not_grow_with_the_length_of_the_clip(codec: str, tmp_path: Path) -> None:
    def peak_bytes(length: str) -> int:
        path = make_clip(ClipSpec(codec, 50, True, length, 96, 64), tmp_path)
        command = [sys.executable, "-c", MEMORY_PROGRAM, str(path)]
        return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)

    index_bytes = 90 * 25 * 590 if codec == "h264" else 0  # FFmpeg's own, for each sample of an mp4
    assert peak_bytes("10min") - peak_bytes("10s") < index_bytes + 3 * 1024**2
