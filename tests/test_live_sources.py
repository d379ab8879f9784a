"""Live sources: each gives the right frames, says when it is lost, comes back, and keeps its password to itself."""

import os
import signal
import subprocess
import sys
import time
from contextlib import closing
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from live_servers import children_of_this_process, free_port, mjpeg_server, rtsp_server, wait_for
from make_clips import steady, write_clip

from tam_edge.runtime import UsageError, VideoError
from tam_edge.runtime.live.events import EventLog
from tam_edge.runtime.live.reader import Reader
from tam_edge.runtime.live.sources import open_source
from tam_edge.runtime.live.sources.camera import Camera
from tam_edge.runtime.live.sources.network import without_password
from tam_edge.runtime.live.sources.pipeline import Pipeline, csi_pipeline

RED = "videotestsrc is-live=true pattern=red ! video/x-raw,width=162,height=120,framerate=30/1"


def some(source, count):
    with closing(open_source(source).frames()) as frames:
        return [frame.pixels for frame in islice(frames, count)]


@pytest.fixture
def read():
    """Start readers that are closed at the end."""
    readers = []

    def start(source, **options):
        log = EventLog()
        reader = Reader(open_source(source), log, **options)
        readers.append(reader)
        reader.start()
        return reader, log

    yield start
    for reader in readers:
        reader.close()


def kinds(log):
    return [event.kind for event in log.after()]


# ---- what is what


@pytest.mark.parametrize(
    ("source", "kind", "name"),
    [
        (0, "Camera", "camera 0"),
        ("1", "Camera", "camera 1"),
        ("/dev/video7", "Camera", "/dev/video7"),
        ("csi://0", "Pipeline", "csi://0"),
        (RED, "Pipeline", RED),
        ("rtsp://10.0.0.2/door", "NetworkStream", "rtsp://10.0.0.2/door"),
        ("HTTP://[::1]:80/cam", "NetworkStream", "HTTP://[::1]:80/cam"),
        ("rtsp://me:secret@10.0.0.2/door?key=secret", "NetworkStream", "rtsp://***@10.0.0.2/door"),
        (iter(()), "Drawn", "the program's frames"),
    ],
)
def test_a_source_is_found_by_what_it_looks_like(source, kind, name):
    found = open_source(source)
    assert (type(found).__name__, found.name) == (kind, name)


@pytest.mark.parametrize(
    "source", ["ftp://host/file", "concat:a|b://x", "rtsp://", "http:///x", "nothing.mp4", "a://["]
)
def test_what_is_no_source_is_refused_in_one_line(source):
    with pytest.raises(VideoError) as refused:
        open_source(source)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("source", [None, True, "", " ", 3.5, object(), "csi://left", "a ! 'b"])
def test_what_makes_no_sense_is_refused(source):
    with pytest.raises(UsageError):
        open_source(source)


def test_passwords_are_left_out():
    assert without_password("rtsp://u:p@h:554/a") == "rtsp://***@h:554/a"
    assert without_password("rtsp://h/a") == "rtsp://h/a"


def test_an_unreachable_address_is_refused_without_its_password(read):
    with pytest.raises(VideoError) as refused:
        read(f"http://user:secret@127.0.0.1:{free_port()}/x")
    assert "secret" not in str(refused.value)
    assert "127.0.0.1" in str(refused.value)


def test_a_camera_that_is_not_there_says_which_there_are(read):
    with pytest.raises(VideoError, match=r"camera 97: there is no /dev/video97; of these there are"):
        read(97)


def test_a_camera_gives_rgb(tmp_path):
    """OpenCV reads a file as it would a device; what it gives is blue first."""
    clip = write_clip(tmp_path / "clip.mp4", steady(5))
    with closing(Camera(str(clip)).frames()) as frames:
        seen = [frame.pixels for frame in islice(frames, 3)]
    played = some(str(clip), 3)
    for ours, theirs in zip(seen, played, strict=True):
        assert np.abs(ours.astype(int) - theirs).mean() < 3
    with pytest.raises(VideoError, match="no picture any more"), closing(Camera(str(clip)).frames()) as frames:
        list(frames)


# ---- a program's frames


def pictures(count, step=1.0):
    for at in range(count):
        yield np.full((6, 8, 3), at, np.uint8), at * step


def test_the_newest_frame_wins_and_drops_are_counted(read):
    reader, log = read(pictures(200))
    wait_for(lambda: reader.state == "ended")
    last = reader.take(0.0, 0.0)
    assert (last.number, last.seconds, last.frame.pixels[0, 0, 0]) == (200, 199.0, 199)
    assert (reader.read, reader.dropped) == (200, 199)
    assert kinds(log) == ["connected", "ended"]
    assert reader.take(0.0, 0.0) is None


def test_every_frame_waits_where_that_is_wanted(read):
    reader, _ = read(pictures(50), waits=True)
    taken = []
    while (stamped := reader.take(taken[-1] + 2 if taken else 0.0, 5.0)) is not None:
        taken.append(stamped.seconds)
    assert taken == [float(at) for at in range(0, 50, 2)]
    assert reader.dropped == 24


def test_a_program_may_use_its_array_again(read):
    def frames():
        picture = np.zeros((4, 4, 3), np.uint8)
        for at in range(3):
            picture[:] = 10 + at
            yield picture, float(at)
        picture[:] = 99

    reader, _ = read(frames())
    wait_for(lambda: reader.state == "ended")
    assert (reader.newest.frame.pixels == 12).all()


def test_frames_without_times_are_stamped_as_they_come(read):
    reader, _ = read(frame for frame, _ in pictures(3))
    wait_for(lambda: reader.state == "ended")
    assert not reader.own_clock
    assert 0 < reader.newest.seconds < 60


@pytest.mark.parametrize(
    ("frames", "why"),
    [
        ([(np.zeros((4, 4, 3), np.uint8), 1.0), (np.zeros((4, 4, 3), np.uint8), 1.0)], "times must rise"),
        ([(np.zeros((4, 4, 3), np.uint8), 1.0), (np.zeros((4, 4)), 2.0)], r"float64 \[4, 4\]"),
        ([(np.zeros((4, 4, 3), np.uint8), 1.0), 7], "one is int"),
        ([(np.zeros((4, 4, 3), np.uint8), 1.0), (np.zeros((4, 4, 3), np.uint8), float("nan"))], "times must rise"),
    ],
)
def test_what_is_no_frame_ends_the_stream_with_a_reason(read, frames, why):
    reader, log = read(frames)
    wait_for(lambda: reader.state == "failed")
    assert kinds(log) == ["connected", "failed"]
    with pytest.raises(AssertionError, match=why):
        raise AssertionError(reader.problem)


def test_a_program_that_fails_before_its_first_frame_is_told(read):
    def frames():
        raise ValueError("no camera here")
        yield

    with pytest.raises(VideoError, match="ValueError: no camera here"):
        read(frames())


# ---- a file


def test_a_file_plays_at_its_own_speed_and_ends(read, tmp_path):
    clip = write_clip(tmp_path / "clip.mp4", steady(20, every_ms=100))
    start = time.monotonic()
    reader, log = read(str(clip))
    wait_for(lambda: reader.state == "ended")
    assert time.monotonic() - start >= 1.8
    assert reader.read == 20
    assert reader.newest.seconds >= 1.8
    assert kinds(log) == ["connected", "ended"]


def test_a_playing_file_is_closed_at_once(read, tmp_path):
    clip = write_clip(tmp_path / "clip.mp4", steady(20, every_ms=5000))
    reader, _ = read(str(clip))
    start = time.monotonic()
    reader.close()
    assert time.monotonic() - start < 4


# ---- MJPEG over HTTP


def test_an_http_camera_is_lost_and_comes_back(read):
    port = free_port()
    with mjpeg_server(port, (250, 10, 10)) as address:
        reader, log = read(address)
        assert np.abs(reader.newest.frame.pixels.mean((0, 1)) - (250, 10, 10)).max() < 12
    wait_for(lambda: reader.state == "reconnecting")
    assert f"127.0.0.1:{port}" in reader.problem
    with mjpeg_server(port, (10, 10, 250)):
        wait_for(lambda: reader.state == "live")
        wait_for(lambda: np.abs(reader.newest.frame.pixels.mean((0, 1)) - (10, 10, 250)).max() < 12)
    assert reader.reconnects == 1
    said = kinds(log)
    assert said[:2] == ["connected", "lost"]
    assert "back" in said


# ---- GStreamer


@pytest.fixture
def gstreamer(require):
    require("gstreamer1.0-tools")
    return require("gstreamer1.0-plugins-good")


@pytest.mark.parametrize("width", [162, 164])  # rows of 486 bytes are padded to 488
def test_a_pipeline_gives_its_very_pixels(gstreamer, width):
    launch = (
        f"videotestsrc pattern=solid-color foreground-color=0xff1e5ab4 ! video/x-raw,format=RGB,width={width},height=90"
    )
    for pixels in some(launch, 3):
        assert pixels.shape == (90, width, 3)
        assert (pixels == (0x1E, 0x5A, 0xB4)).all()


def test_an_appsink_is_replaced(gstreamer):
    [pixels] = some(f"{RED} ! videoconvert ! appsink drop=1", 1)
    assert pixels.shape == (120, 162, 3)


def test_a_killed_pipeline_is_started_again(gstreamer, read):
    reader, log = read(RED)
    before = reader.newest.number
    [child] = children_of_this_process("gst-launch")
    os.kill(child, signal.SIGKILL)
    wait_for(lambda: "lost" in kinds(log))
    wait_for(lambda: reader.reconnects == 1)
    assert children_of_this_process("gst-launch") not in ([], [child])
    wait_for(lambda: reader.newest.number > before + 3)
    reader.close()
    assert children_of_this_process("gst-launch") == []


def test_a_pipeline_that_cannot_run_says_why(gstreamer, read):
    with pytest.raises(VideoError, match="nosuchelement"):
        read("nosuchelement ! video/x-raw")


def test_without_gstreamer_it_is_named(monkeypatch, tmp_path, read):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(VideoError, match=r"Debian: gstreamer1.0-tools"):
        read(RED)


def test_a_jetson_camera_is_a_pipeline():
    assert "nvarguscamerasrc sensor-id=1 ! video/x-raw(memory:NVMM)" in csi_pipeline("csi://1")
    assert Pipeline(csi_pipeline("csi://1"), "csi://1").name == "csi://1"


def test_a_child_does_not_outlive_a_killed_program(gstreamer, tmp_path):
    """Writing to a pipe that nobody reads ends it."""
    code = (
        "import os, signal\nfrom tam_edge.runtime.live.sources import open_source\n"
        f"frames = open_source({RED!r}).frames()\nnext(frames)\n"
        "import psutil\nprint(psutil.Process().children()[0].pid, flush=True)\nos.kill(os.getpid(), signal.SIGKILL)\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    child = int(run.stdout)
    files = Path(f"/proc/{child}/fd")  # of a zombie that nobody waits for, none are left
    wait_for(lambda: not files.exists() or not list(files.iterdir()))


# ---- RTSP


def test_an_rtsp_server_is_restarted(require, read):
    require("gir1.2-gst-rtsp-server-1.0")
    require("python3-gi")
    require("gstreamer1.0-plugins-good")
    port = free_port()
    with rtsp_server(port) as address:
        reader, log = read(address)
        assert reader.newest.frame.pixels.shape == (120, 160, 3)
        red, green, blue = reader.newest.frame.pixels.mean((0, 1))
        assert red > 200 > 60 > max(green, blue)
    wait_for(lambda: reader.state == "reconnecting")
    with rtsp_server(port):
        wait_for(lambda: reader.reconnects == 1)
        number = reader.newest.number
        wait_for(lambda: reader.newest.number > number)
    assert "back" in kinds(log)
