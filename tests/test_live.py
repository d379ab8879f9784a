"""Live sessions on a tiny bundle: asked at any moment, by any thread, within bounds, in constant memory."""

import gc
import io
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from datetime import datetime, timedelta, timezone
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from live_servers import children_of_this_process, free_port, mjpeg_server, wait_for
from PIL import Image
from tiny_bundle import make_tiny_bundle

from tam_edge.runtime import (
    BusyError,
    FramesInMemory,
    QuestionError,
    UsageError,
    VideoError,
    VideoQA,
)
from tam_edge.runtime.live.line import Line
from tam_edge.runtime.live.moments import asked_about
from tam_edge.runtime.live.pictures import PICTURE_BYTES, small_jpeg
from tam_edge.runtime.turns import Turns

SIZE = (36, 48)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_tiny_bundle(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def qa(folder):
    with VideoQA.load(folder, threads=1) as qa:
        yield qa


def picture(seconds):
    """A frame that tells its time by its brightness, and is never the same twice."""
    pixels = np.full((*SIZE, 3), int(seconds) % 251, np.uint8)
    pixels[:8, :8] = np.random.default_rng(int(10 * seconds)).integers(0, 255, (8, 8, 3))
    return pixels


def stream_of(seconds, step=1.0):
    at = 0.0
    while at < seconds:
        yield picture(at), at
        at += step


def looked(live):
    """Wait until the stream is over and every frame of it was looked at."""
    wait_for(lambda: live.status.state == "ended")
    wait_for(lambda: live.status.frames_seen + live.status.frames_dropped == live.status.frames_read)


@pytest.fixture
def minute(qa):
    """A session that has seen a minute, one frame a second."""
    with qa.live(stream_of(61), every_frame=True, keep_ready=False) as live:
        looked(live)
        yield live


class Tap:
    """Frames that come when a test says so, stamped as they come."""

    def __init__(self):
        self._next, self._closed, self.at = threading.Event(), False, 0

    def __iter__(self):
        while not self._closed:
            self.at += 1
            yield picture(self.at)
            self._next.wait()
            self._next.clear()

    def drop(self):
        self._next.set()

    def close(self):
        self._closed = True
        self._next.set()


# ---- answers


def test_pieces_join_to_an_answer_about_the_last_seconds(minute):
    with minute.stream("how many people?", last="10s") as stream:
        assert stream.plan.task == "static attributes"
        with pytest.raises(UsageError, match="not complete"):
            _ = stream.answer
        pieces = list(stream)
        answer = stream.answer
    assert "".join(pieces) == answer.text != ""
    start = minute.status.started_seconds
    seconds = [frame.time_seconds - start for frame in answer.evidence]
    assert len(seconds) == answer.plan.frames > 1
    assert 50 <= seconds[0] < seconds[-1] == 60
    assert (answer.since_seconds - start, answer.until_seconds - start) == (50, 60)
    assert answer.question == "how many people?"
    assert abs(answer.asked_seconds - time.time()) < 60
    timings = answer.answer.timings
    assert (timings.decode, timings.vision) == (0, 0)
    assert 0 < timings.strategy + timings.prefill <= timings.first_token


def test_the_answer_is_that_of_the_same_frames_from_memory(folder, minute):
    """The same frames with the same times, looked at after the question, give the same text."""
    answer = minute.ask("summarize the video", since=minute.status.started_seconds + 20, until=iso(minute, 40))
    times = [float(at) for at in range(20, 41)]
    with VideoQA.load(folder, threads=1) as other:
        video = other.open(FramesInMemory([picture(at) for at in times], times), end=40.0)
        assert other.ask(video, "summarize the video", plan=answer.plan).text == answer.text


def iso(live, seconds):
    moment = datetime.fromtimestamp(live.status.started_seconds, timezone.utc) + timedelta(seconds=seconds)
    return moment.isoformat()


@pytest.mark.parametrize("middle", [3, 17, 30, 44, 58])
def test_any_moment_is_answered_from_frames_of_that_moment(minute, middle):
    start = minute.status.started_seconds
    answer = minute.ask("what is the dog doing?", since=start + middle - 2, until=start + middle + 2)
    shown = [frame.time_seconds - start for frame in answer.evidence]
    assert len(shown) == answer.plan.frames
    assert all(middle - 2.001 <= seconds <= middle + 2.001 for seconds in shown)
    for frame in answer.evidence:
        pixels = np.asarray(Image.open(io.BytesIO(frame.jpeg)))
        assert abs(int(np.median(pixels)) - round(frame.time_seconds - start)) <= 3
    assert answer.notes == ()


def test_a_moment_between_kept_frames_gets_the_nearest(qa):
    with qa.live(stream_of(100, 5.0), every_frame=True) as live:
        looked(live)
        start = live.status.started_seconds
        answer = live.ask("how many people?", since=start + 41, until=start + 43)
        assert [round(frame.time_seconds - start) for frame in answer.evidence] == [40]
        assert any("nearest" in note for note in answer.notes)


def test_what_was_never_seen_is_refused_with_what_is_kept(minute):
    start = minute.status.started_seconds
    with pytest.raises(VideoError, match="no frame of that time was seen: kept is"):
        minute.ask("how many people?", since=start - 100, until=start - 50)
    assert minute.ask("how many people?", last="10s").text


def test_more_than_is_kept_is_said(minute):
    notes = minute.ask("how many people?", last="5min").notes
    assert notes == ("300 s were asked about, 60 s of them are kept",)


def test_json_holds_times_of_day_and_pictures_where_wanted(minute):
    answer = minute.ask("how many people?", last=5)
    value = json.loads(json.dumps(answer.to_json(), allow_nan=False))
    assert value["answer"] == answer.text
    assert value["until"] == iso(minute, 60).replace("+00:00", "")[:23] + "Z"
    assert [frame["tokens"] for frame in value["evidence"]] == [frame.tokens for frame in answer.evidence]
    assert "jpeg" not in value["evidence"][0]
    assert answer.to_json(pictures=True)["evidence"][0]["jpeg"].startswith("/9j/")


def test_a_conversation_and_options_go_through(minute):
    answer = minute.ask("what does the sign say?", last="5s", history=[("how many?", "two")], max_tokens=1)
    assert answer.answer.answer_tokens == 1
    with pytest.raises(QuestionError):
        minute.ask("  ")
    with pytest.raises(UsageError, match="either last"):
        minute.ask("how many?", last="5s", until=time.time())


# ---- the window


def test_frames_are_thinned_and_memory_stays(folder):
    """Ten thousand seconds in a window of sixteen frames: all of the horizon stays covered."""
    with VideoQA.load(folder, threads=1) as qa:
        room = 16 * (4 * 4 * 24 * 4 + PICTURE_BYTES)
        with qa.live(stream_of(400), horizon="5min", every_frame=True) as live:
            live._window.most_frames = 16  # as a low ceiling would have it
            looked(live)
            status = live.status
            assert status.frames_kept == 16
            assert status.window_bytes > room
            newest = status.newest_seconds
            assert newest - status.kept_from_seconds >= 290
            times = [newest - status.started_seconds - time for time in live._window.times()]
            gaps = [a - b for a, b in pairwise(times)]
            assert gaps[-1] == 1
            assert max(gaps) > 20
            assert all(gap <= max(1, 0.6 * age) for gap, age in zip(gaps, times, strict=False))
            far = live.ask("how many people?", since=newest - 300, until=newest - 150)
            assert all(newest - 300 <= frame.time_seconds <= newest - 150 for frame in far.evidence)


IN_A_CHILD = """
import json, sys
import numpy as np
from tam_edge.runtime import TamEdgeError, VideoQA
from tam_edge.runtime.budget import peak_resident_bytes
frames = ((np.full((36, 48, 3), at % 251, np.uint8), float(at)) for at in range(60))
memory = int(sys.argv[2])
try:
    with VideoQA.load(sys.argv[1], threads=1, memory=memory) as qa:
        with qa.live(frames, horizon="1h", every_frame=True) as live:
            answer = live.ask("how many people?")
            facts = live.status.to_json() | {"predicted": live._room.predicted_bytes}
            facts["kinds"] = [event.kind for event in live.events]
    print(json.dumps(facts | {"peak": peak_resident_bytes(), "text": answer.text}))
except TamEdgeError as error:
    print(json.dumps({"error": str(error), "peak": peak_resident_bytes()}))
"""


def in_a_child(folder, memory):
    """A session in a process of its own: a ceiling is on all that a process ever held."""
    command = [sys.executable, "-c", IN_A_CHILD, str(folder), str(memory)]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(run.stdout)


def test_a_window_that_does_not_fit_is_smaller_and_said_or_refused(folder):
    plenty = in_a_child(folder, 2**34)
    assert (plenty["given_up"], plenty["frames_most"]) == ([], 3602)
    assert plenty["window_bytes"] < plenty["peak"] <= plenty["predicted"]
    tight = in_a_child(folder, plenty["predicted"] - 60 * 2**20)
    assert 16 <= tight["frames_most"] < 3602
    assert [given["what"] for given in tight["given_up"]] == ["3602 kept frames"]
    assert "memory" in tight["kinds"]
    assert tight["text"] != ""
    assert tight["peak"] <= tight["predicted"] <= tight["memory_limit_bytes"]
    refused = in_a_child(folder, tight["peak"] - tight["window_bytes"] - 8 * 2**20)
    assert "too little for a live session" in refused["error"]
    named = int(refused["error"].rpartition("allow at least ")[2].removesuffix("MiB")) * 2**20
    least = in_a_child(folder, named)
    assert 16 <= least["frames_most"] < 100
    assert least["peak"] <= named


# ---- the view that is kept ready


def test_the_same_question_again_enters_only_itself(minute):
    first = minute.ask("how many people?", last="10s")
    again = minute.ask("what colour is the car?", last="10s")
    assert first.answer.cache["prefix_tokens_reused"] == 0
    assert again.answer.cache["prefix_tokens_reused"] >= again.plan.visual_tokens
    assert again.plan.timestamps_seconds == first.plan.timestamps_seconds
    assert [frame.jpeg for frame in again.evidence] == [frame.jpeg for frame in first.evidence]
    other = minute.ask("how many people?", last="20s")
    assert other.answer.cache["prefix_tokens_reused"] == 0


def test_the_commonest_view_is_made_before_it_is_asked_for(qa):
    tap = Tap()
    with qa.live(tap, rate=50.0) as live:
        for _ in range(4):
            tap.drop()
            time.sleep(0.05)
        live.ask("how many people?", last="1min")
        made = live._ready.view
        wait_for(lambda: (tap.drop(), live._ready.view is not made)[1])
        time.sleep(0.3)
        view = live._ready.view
        live._ready.view = type(view)(view.video, view.length_seconds, 1e9)  # however slow this machine is
        answer = live.ask("what colour is the car?", last="1min")
        tap.close()
    assert answer.answer.cache["prefix_tokens_reused"] > 0
    assert any("stood in the language model already" in reason for reason in answer.plan.reasons)


def test_a_view_that_is_too_old_is_not_used(qa):
    tap = Tap()
    with qa.live(tap, rate=50.0, keep_ready=False) as live:
        before = live.ask("how many people?", last="1min")
        seen = live.status.frames_seen
        wait_for(lambda: (tap.drop(), live.status.frames_seen > seen)[1])
        view = live._ready.view
        live._ready.view = type(view)(view.video, view.length_seconds, 0.0)
        answer = live.ask("how many people?", last="1min")
        tap.close()
    assert answer.answer.cache["prefix_tokens_reused"] == 0
    assert answer.until_seconds > before.until_seconds  # one frame of so short a stretch may still be the first


# ---- several at a time


def test_threads_are_answered_in_turn(minute):
    answers, failures = {}, []

    def ask(number):
        try:
            answers[number] = minute.ask("how many people?", last=f"{5 + number}s").text
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert answers == {n: minute.ask("how many people?", last=f"{5 + n}s").text for n in range(6)}
    assert minute.status.questions_answered == 12


def test_beyond_the_queue_it_is_busy(qa):
    with qa.live(stream_of(10), every_frame=True, queue=1) as live:
        looked(live)
        holding = live.stream("how many people?", last="5s")
        waiting = threading.Thread(target=lambda: live.ask("what is the dog doing?", last="5s"))
        waiting.start()
        wait_for(lambda: live.status.questions_waiting == 1)
        with pytest.raises(BusyError, match="ask again later"):
            live.ask("how many people?")
        list(holding)
        waiting.join(30)
        assert not waiting.is_alive()
        assert live.ask("how many people?").text


@pytest.mark.parametrize("leave", ["close", "forget", "close after a piece"])
def test_a_stream_that_is_left_makes_room(minute, leave):
    stream = minute.stream("how many people?", last="5s")
    if leave == "forget":
        del stream
        gc.collect()
    else:
        if leave == "close after a piece":
            next(stream)
        stream.close()
        assert list(stream) == []
        with pytest.raises(UsageError):
            _ = stream.answer
    assert not minute._line.busy
    assert not minute._eye.quiet.is_set()
    assert minute.ask("how many people?", last="5s").text


def test_patience_ends():
    line = Line(3, 0.05)
    first = line.enter()
    with pytest.raises(BusyError, match=r"waited 0\.05 s"):
        line.enter()
    first.leave()
    line.enter().leave()
    line.close()
    with pytest.raises(UsageError, match="closed"):
        line.enter()


def test_turns_are_taken_in_order_and_again_by_their_holder():
    turns, order = Turns(), []

    def take(number):
        with turns, turns:
            order.append(number)

    with turns:
        threads = []
        for number in range(5):
            threads.append(threading.Thread(target=take, args=(number,)))
            threads[-1].start()
            wait_for(lambda wanted=number: len(turns._line) == wanted + 1)
    for thread in threads:
        thread.join()
    assert order == [0, 1, 2, 3, 4]
    assert not turns.mine


def test_the_eye_looks_on_while_an_answer_is_written(qa):
    tap = Tap()
    with qa.live(tap, rate=50.0) as live:
        stream = live.stream("summarize the video")
        before = live.status.frames_seen
        tap.drop()
        time.sleep(0.2)
        assert live.status.frames_seen == before  # nothing may delay the first piece
        next(stream)
        wait_for(lambda: (tap.drop(), live.status.frames_seen > before)[1])
        assert list(stream)
        assert stream.answer.text
        tap.close()


def test_other_videos_may_be_asked_about_meanwhile(qa, minute):
    video = qa.open(FramesInMemory([picture(at) for at in range(5)], [float(at) for at in range(5)]))
    first = qa.ask(video, "how many people?").text
    live = minute.ask("how many people?", last="10s").text
    assert qa.ask(video, "how many people?").text == first
    assert minute.ask("how many people?", last="10s").text == live


# ---- status, events, pictures, ends


def test_status_picture_and_events(minute):
    status = minute.status
    assert (status.state, status.frames_read, status.frames_seen, status.frames_kept) == ("ended", 61, 61, 61)
    assert status.source == "the program's frames"
    assert 0 < status.resident_bytes < status.memory_limit_bytes
    assert status.look_ms > 0
    assert json.loads(json.dumps(status.to_json()))["frames_seen"] == 61
    newest = minute.picture()
    assert newest.time_seconds == status.newest_seconds
    assert (newest.pixels == picture(60)).all()
    assert np.asarray(Image.open(io.BytesIO(newest.jpeg(longer_px=24)))).shape == (18, 24, 3)
    with pytest.raises(ValueError, match="read-only"):
        newest.pixels[:] = 0
    assert [event.kind for event in minute.events] == ["connected", "ended"]
    assert [event.number for event in minute.events_after(1)] == [2]
    assert minute.events_after(2, 0.01) == ()
    assert json.loads(json.dumps(minute.events[0].to_json()))["kind"] == "connected"


def test_pictures_never_exceed_their_room():
    noise = np.random.default_rng(0).integers(0, 256, (600, 900, 3)).astype(np.uint8)
    assert len(small_jpeg(noise)) <= PICTURE_BYTES
    assert Image.open(io.BytesIO(small_jpeg(np.zeros((3, 2000, 3), np.uint8)))).size == (448, 1)


def test_a_closed_session_refuses_and_lets_go(qa):
    live = qa.live(stream_of(5))
    live.close()
    live.close()
    assert live.status.state == "closed"
    assert live.events[-1].kind == "closed"
    with pytest.raises(UsageError, match="closed"):
        live.ask("how many people?")
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("tam-edge")]


def test_closing_the_bundle_ends_its_sessions(folder):
    qa = VideoQA.load(folder, threads=1)
    live = qa.live(stream_of(5))
    qa.close()
    assert live.closed
    with pytest.raises(UsageError):
        qa.live(stream_of(5))
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("tam-edge")]


@pytest.mark.parametrize(
    "options", [{"horizon": "soon"}, {"horizon": 0.1}, {"rate": 0}, {"rate": 61}, {"queue": -1}, {"horizon": "8000h"}]
)
def test_options_that_make_no_sense_are_refused(qa, options):
    with pytest.raises(UsageError):
        qa.live(stream_of(5), **options)


def test_moments():
    about = {"started_unix": 1000.0, "now": 500.0, "horizon_seconds": 600.0}
    assert asked_about(None, None, None, **about)[:2] == (-100.0, 500.0)
    assert asked_about("30s", None, None, **about) == (470.0, 500.0, 30.0)
    assert asked_about(None, 1200.0, datetime.fromtimestamp(1300.0), **about) == (200.0, 300.0, None)
    assert asked_about(None, "1970-01-01T00:20:00Z", None, **about)[:2] == (200.0, 500.0)
    for wrong in ({"since": 1300.0, "until": 1200.0}, {"since": 1600.0}, {"since": "noon"}, {"until": float("nan")}):
        with pytest.raises(UsageError):
            asked_about(None, wrong.get("since"), wrong.get("until"), **about)


# ---- a source that goes away


def test_a_killed_source_is_said_recovers_and_is_asked(qa, require):
    require("gstreamer1.0-tools")
    launch = "videotestsrc is-live=true ! video/x-raw,width=64,height=48,framerate=30/1"
    with qa.live(launch, rate=20.0) as live:
        assert live.ask("how many people?", last="10s").text
        [child] = children_of_this_process("gst-launch")
        os.kill(child, signal.SIGKILL)
        wait_for(lambda: live.status.reconnects == 1)
        seen = live.status.frames_seen
        wait_for(lambda: live.status.frames_seen > seen)
        assert live.ask("how many people?", last="1s").text
        kinds = [event.kind for event in live.events]
        assert kinds[:2] == ["connected", "lost"]
        assert kinds[-1] == "back"


def test_while_the_source_is_away_the_answer_says_so(qa):
    port = free_port()
    with mjpeg_server(port, (200, 20, 20)) as address:
        live = qa.live(address, rate=20.0)
    with live:
        wait_for(lambda: live.status.state == "reconnecting")
        answer = live.ask("how many people?", last="5min")
        assert any("the source is away" in note for note in answer.notes)
        assert live.status.problem
        with mjpeg_server(port, (20, 20, 200)):
            wait_for(lambda: live.status.state == "live")
            time.sleep(0.5)
            assert not any("away" in note for note in live.ask("how many people?", last="5min").notes)


def test_a_stream_without_frames_is_refused(qa):
    with pytest.raises(VideoError, match="gave no frame"):
        qa.live(iter(()))


BEFORE_THE_LOOP = """
import time
from tam_edge.models.street import make_scene, render
frames = ((render(make_scene(900001), float(at)), float(at)) for at in range(5))
rounds = iter([False, False, True])
time.sleep = lambda seconds: next(rounds) and live.close()
"""


def test_the_robot_loop_of_the_readme_runs():
    """In a process of its own, as its ceiling is on all that a process ever held."""
    readme = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    [code] = [block for block in re.findall(r"```python\n(.*?)```", readme, re.DOTALL) if "def drive" in block]
    assert len([line for line in code.splitlines() if line]) <= 20
    code = BEFORE_THE_LOOP + code.replace('"/dev/video0"', "frames")
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    said = run.stdout.splitlines()
    assert said[0].startswith("connected the program's frames gives frames of 336x336 pixels")
    assert len([line for line in said if re.fullmatch(r".+ \[\d+.*\] \(.*\)", line)]) == 3


def test_a_broken_eye_is_said_when_asked(qa, monkeypatch):
    tap = Tap()
    with qa.live(tap, rate=50.0) as live:
        monkeypatch.setattr("tam_edge.runtime.live.eye.encode", lambda *_: 1 / 0)
        wait_for(lambda: (tap.drop(), live.status.state == "failed")[1])
        assert "ZeroDivisionError" in live.status.problem
        with pytest.raises(Exception, match="ZeroDivisionError"):
            live.ask("how many people?")
        tap.close()
