"""`tam-edge watch`: when rules fire, what is told, what is saved, and a street that is watched."""

import io
import json
import re
import signal
import time
from datetime import datetime
from itertools import pairwise
from socket import create_server
from types import SimpleNamespace

import av
import numpy as np
import pytest
from bench_watch import ANYBODY, CONFIRM, DIGGING, LATEST_SECONDS, WAVING, told_by_rule, watched
from command import call, start
from hypothesis import given
from hypothesis import strategies as st
from live_servers import free_port, mjpeg_server
from PIL import Image
from street_hour import Happening, frames
from tiny_bundle import make_tiny_bundle

from tam_edge.apps.watch.command import make_wishes
from tam_edge.apps.watch.evidence import EvidenceFolder, file_name, spread
from tam_edge.apps.watch.firing import Confirm, Standing, after_gap, decide, parse_confirm
from tam_edge.apps.watch.pace import Paced, WallClock
from tam_edge.apps.watch.verdict import check_rule, verdict_of
from tam_edge.apps.watch.watcher import Watcher, WatchEvent, Wishes
from tam_edge.runtime import LiveEvidence, QuestionError, UsageError, VideoQA
from tam_edge.runtime.live.sources import LiveFrame, LiveSource

# ---- when a rule fires

CONFIRMS = st.integers(1, 6).flatmap(lambda of: st.builds(Confirm, st.integers(1, of), st.just(of)))
VERDICTS = st.lists(st.sampled_from(["yes", "no", "unknown"]), max_size=60)


def fired_at(verdicts, confirm, cooldown, every=1.0):
    """Numbers of the checks at which the rule fires."""
    standing, found = Standing(), []
    for number, verdict in enumerate(verdicts):
        standing, fires = decide(standing, verdict, number * every, confirm, cooldown)
        if fires:
            found.append(number)
    return found


@given(VERDICTS, CONFIRMS, st.integers(0, 20))
def test_a_rule_fires_only_on_k_of_n_and_once_until_it_is_over_and_cooled_down(verdicts, confirm, cooldown):
    fired = fired_at(verdicts, confirm, float(cooldown))
    for number in fired:
        assert verdicts[max(0, number + 1 - confirm.of) : number + 1].count("yes") >= confirm.yes
    for one, next_one in pairwise(fired):
        assert next_one - one >= cooldown
        said = "".join("y" if verdict == "yes" else "n" for verdict in verdicts[one + 1 : next_one + 1])
        assert "n" * confirm.of in said


@given(VERDICTS, CONFIRMS, st.integers(0, 20))
def test_what_is_confirmed_and_not_told_before_is_told(verdicts, confirm, cooldown):
    fired = fired_at(verdicts, confirm, float(cooldown))
    for number in range(len(verdicts)):
        confirmed = verdicts[max(0, number + 1 - confirm.of) : number + 1].count("yes") >= confirm.yes
        before = [other for other in fired if other <= number]
        if confirmed and before and before[-1] < number:
            since = "".join("y" if v == "yes" else "n" for v in verdicts[before[-1] + 1 : number + 1])
            assert number - before[-1] < cooldown or "n" * confirm.of not in since
        elif confirmed:
            assert before


@given(st.lists(st.tuples(st.integers(6, 12), st.integers(6, 12)), max_size=8), CONFIRMS)
def test_each_of_several_events_is_told_once_at_its_kth_check(runs, confirm):
    verdicts, expected = [], []
    for quiet, lasting in runs:
        verdicts += ["no"] * quiet
        expected.append(len(verdicts) + confirm.yes - 1)
        verdicts += ["yes"] * lasting
    assert fired_at(verdicts, confirm, 0.0) == expected


@given(VERDICTS, CONFIRMS, st.integers(0, 20))
def test_unknown_counts_as_no_yes(verdicts, confirm, cooldown):
    plain = ["no" if verdict == "unknown" else verdict for verdict in verdicts]
    assert fired_at(verdicts, confirm, float(cooldown)) == fired_at(plain, confirm, float(cooldown))


def test_a_gap_forgets_checks_and_not_what_was_told():
    told, fires = decide(Standing((True,)), "yes", 0.0, Confirm(2, 3), 0.0)
    assert fires
    again = after_gap(told)
    for number in range(5):
        again, fires = decide(again, "yes", 10.0 + number, Confirm(2, 3), 0.0)
        assert not fires
    fresh, fires = decide(after_gap(Standing((True,))), "yes", 0.0, Confirm(2, 3), 0.0)
    assert not fires
    assert fresh.votes == (True,)


@pytest.mark.parametrize("text", ["", "2", "3/2", "0/3", "2/0", "1/101", "a/b", "-1/2", "2/3/4"])
def test_a_confirmation_that_makes_no_sense_is_refused(text):
    with pytest.raises(UsageError, match="--confirm"):
        parse_confirm(text)


# ---- rules and answers


@pytest.mark.parametrize(
    "question",
    [
        "is someone on the floor?",
        "Isn't the door open?",
        "right now, is anybody there?",
        "has a car arrived?",
        "do you see a dog?",
        "can\u2019t you see a dog?",
        "WILL it rain?",
    ],
)
def test_questions_that_can_be_rules(question):
    assert check_rule(question) == question


@pytest.mark.parametrize(
    "question",
    [
        "how many people?",
        "what, if anything, is on the floor?",
        "describe the street",
        "someone on the floor",
        "?",
        "5",
    ],
)
def test_questions_that_cannot_be_rules(question):
    with pytest.raises(UsageError, match="yes or no"):
        check_rule(question)


def test_rules_are_questions():
    with pytest.raises(QuestionError):
        check_rule("  ")


@pytest.mark.parametrize(
    ("answer", "verdict"),
    [
        ("yes", "yes"),
        ("Yes, somebody is.", "yes"),
        ("**No**", "no"),
        ("no, nobody", "no"),
        ("No one is there", "no"),
        ("I can't tell", "unknown"),
        ("not sure", "unknown"),
        ("No idea.", "unknown"),
        ("yesterday", "unknown"),
        ("nothing", "unknown"),
        ("", "unknown"),
        ("3", "unknown"),
    ],
)
def test_what_answers_say(answer, verdict):
    assert verdict_of(answer) == verdict


@pytest.mark.parametrize(
    ("wrong", "match"),
    [
        ({"every": "0"}, "--every"),
        ({"every": "2h"}, "--every"),
        ({"last": "soon"}, "--last"),
        ({"cooldown": "-1s"}, "--cooldown"),
        ({"rules": ["is it?", "how many?"]}, "how many"),
    ],
)
def test_options_that_make_no_sense_are_refused(wrong, match):
    fine = {"rules": ["is it?"], "every": "5s", "last": "10s", "confirm": "2/3", "cooldown": "0"}
    assert make_wishes(**fine).cooldown_seconds == 0
    with pytest.raises(UsageError, match=match):
        make_wishes(**(fine | wrong))


# ---- evidence


def jpeg(grey):
    out = io.BytesIO()
    Image.fromarray(np.full((8, 8, 3), grey, np.uint8)).save(out, "JPEG")
    return out.getvalue()


def event(seconds, rule="is it?", count=6):
    return WatchEvent(
        "fired", seconds, rule, evidence=tuple(LiveEvidence(seconds + i, 1, jpeg(i)) for i in range(count))
    )


def test_evidence_is_bounded_and_leaves_other_files_alone(tmp_path):
    (tmp_path / "holiday.jpg").write_bytes(b"mine")
    folder = EvidenceFolder(tmp_path / "in", 10)
    (tmp_path / "in" / "other.jpg").write_bytes(b"mine")
    saved = [folder.save(event(1_700_000_000.5 + 100 * number)) for number in range(5)]
    assert [len(paths) for paths in saved] == [4] * 5
    names = sorted(path.name for paths in saved for path in paths)
    assert sorted(path.name for path in (tmp_path / "in").iterdir()) == [*names[-10:], "other.jpg"]
    assert (tmp_path / "in" / "other.jpg").read_bytes() == b"mine"
    with Image.open(saved[-1][-1]) as picture:
        assert picture.size == (8, 8)
    EvidenceFolder(tmp_path / "in", 3)
    assert len(list((tmp_path / "in").iterdir())) == 4
    assert not EvidenceFolder(tmp_path / "in", 3).save(event(1.0, count=0))


@given(st.text(max_size=80), st.floats(0, 4e9))
def test_file_names_are_safe_whatever_the_rule(rule, seconds):
    assert re.fullmatch(r"\d{8}T\d{9}Z-[a-z0-9-]{1,40}-[0-9a-f]{6}-01\.jpg", file_name(seconds, rule, 1))


def test_file_names_of_two_rules_differ_though_they_begin_alike():
    long = "is there anybody who is working with a shovel"
    assert len({file_name(1.0, rule, 1) for rule in (long + " or a pick?", long + "?", long + "!?")}) == 3


@given(st.integers(0, 30), st.integers(1, 6))
def test_some_frames_stand_for_all(count, most):
    frames_ = [LiveEvidence(float(i), 1, b"x") for i in range(count)]
    chosen = spread(frames_, most)
    assert len(chosen) == min(count, most)
    assert [frame.time_seconds for frame in chosen] == sorted({frame.time_seconds for frame in chosen})
    assert not chosen or chosen[-1] is frames_[-1]


def test_a_folder_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UsageError, match="--evidence"):
        EvidenceFolder(tmp_path / "file" / "in", 3)


# ---- a street that is watched

SECONDS = 112.0
HAPPENED = (Happening(11.3, 40.0, "waving"), Happening(73.8, 102.0, "digging"))


@pytest.fixture(scope="module")
def nano():
    with VideoQA.load(threads=1) as qa:
        yield qa


def test_each_event_of_a_street_is_told_once_and_in_time(nano):
    """A wave and a dig; the bundled model is trained to tell these. `bench_watch` does it for an hour."""
    wishes = Wishes((ANYBODY, WAVING, DIGGING), 5.0, 10.0, CONFIRM, cooldown_seconds=30.0, all_checks=True)
    fired, tally, events = watched(nano, HAPPENED, SECONDS, wishes, "park", "cloudy")
    for told in told_by_rule(fired, HAPPENED).values():
        assert (told.missed, told.invented) == (0, 0)
        assert told.latest_seconds <= LATEST_SECONDS
    assert tally.fired == {ANYBODY: 2, WAVING: 1, DIGGING: 1}
    assert tally.checks == 3 * 22 == sum(one.kind == "check" for one in events)
    first = next(one for one in events if one.kind == "fired")
    assert first.evidence[0].jpeg.startswith(b"\xff\xd8")
    assert [check.verdict for check in first.checks[-2:]] == ["yes", "yes"]
    value = json.loads(json.dumps(first.to_json(), allow_nan=False))
    assert 0.5 < value["confidence"] <= 1
    assert datetime.fromisoformat(value["time"].replace("Z", "+00:00")).timestamp() == pytest.approx(
        value["time_seconds"], abs=0.001
    )


def test_a_file_is_watched_to_its_end(tmp_path):
    clip = tmp_path / "street.mp4"
    with av.open(str(clip), "w") as container:
        stream = container.add_stream("libx264", rate=1, options={"crf": "20"})
        stream.width, stream.height, stream.pix_fmt = 336, 336, "yuv420p"
        for pixels, _ in frames(HAPPENED[:1], 36.0):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    options = ("--every", "5s", "--cooldown", "0", "--threads", "1", "--evidence", tmp_path / "seen", "--keep", "3")
    ended = call("watch", "--source", clip, "--fast", "--rule", ANYBODY, *options)
    assert ended.code == 0, ended.err
    lines = [json.loads(line) for line in ended.out.splitlines()]
    assert [line["event"] for line in lines] == ["fired", "ended"]
    files = sorted((tmp_path / "seen").iterdir())
    assert [str(path) for path in files] == lines[0]["files"]
    assert len(files) == 3
    assert ended.err.splitlines()[-1] == f"watched 35 s, 7 checks; events: 1 x {ANYBODY!r}"


def test_what_is_no_yes_no_question_is_refused_before_anything_starts(tmp_path):
    ended = call("watch", "--source", tmp_path / "none.mp4", "--rule", "how many people?", "--model", tmp_path / "none")
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.count("\n") == 1
    assert "yes or no" in ended.err


def test_a_source_that_is_not_there_is_one_line(tmp_path):
    ended = call("watch", "--source", tmp_path / "none.mp4", "--rule", "is it?")
    assert (ended.code, ended.out) == (1, "")
    assert ended.err.count("\n") == 1
    assert call("watch", "--source", tmp_path / "none.mp4", "--rule", "is it?", "--fast").code == 2


# ---- on a bundle whose answers mean nothing


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return make_tiny_bundle(tmp_path_factory.mktemp("tiny"))


def test_answers_that_are_neither_are_told_once_and_never_fire(tiny):
    shown = ((np.full((36, 48, 3), at, np.uint8), float(at)) for at in range(30))
    events, paced = [], Paced(shown)
    with VideoQA.load(tiny, threads=1) as qa, qa.live(paced, every_frame=True, keep_ready=False) as live:
        try:
            tally = Watcher(live, Wishes(("is it?",), 5.0), paced, events.append, events.append).run()
        finally:
            paced.stop()
    assert tally.unknown == tally.checks == 5
    assert [one.kind for one in events if isinstance(one, WatchEvent)] == ["unknown", "ended"]
    assert events[0].checks[0].answer != ""


def test_a_camera_that_goes_and_comes_back_and_ctrl_c(tiny, tmp_path):
    port, seen = free_port(), tmp_path / "seen"
    options = ("--every", "0.3s", "--all-checks", "--evidence", seen, "--model", tiny, "--threads", "1")
    with mjpeg_server(port, 80) as address:
        child = start("watch", "--source", address, "--rule", "is it?", *options)
        try:
            until(child, "check")
        except BaseException:
            child.kill()
            raise
    with child:
        try:
            until(child, "lost")
            with mjpeg_server(port, 90):
                until(child, "back")
                until(child, "check")
                child.send_signal(signal.SIGINT)
                rest, said = child.communicate(timeout=60)
        finally:
            child.kill()
    assert child.returncode == 130
    assert [line for line in rest.splitlines() if not line.endswith("}")] == []
    assert "connecting again" in said
    assert "is back" in said
    assert "Traceback" not in said
    assert [path for path in seen.iterdir() if path.suffix != ".jpg"] == []


def test_what_waits_for_the_webhook_is_said_when_sigterm_ends_it(tiny):
    with create_server(("127.0.0.1", 0)) as never_answers:
        url = f"http://localhost:{never_answers.getsockname()[1]}/"
        options = ("--every", "0.2s", "--all-checks", "--model", tiny, "--threads", "1")
        hook = ("--webhook", url, "--allow-host", "localhost")
        with (
            mjpeg_server(free_port(), 80) as address,
            start("watch", "--source", address, "--rule", "is it?", *options, *hook) as child,
        ):
            try:
                until(child, "check")
                child.send_signal(signal.SIGTERM)
                _, said = child.communicate(timeout=60)
            finally:
                child.kill()
    assert child.returncode == 0
    assert "not delivered before the end" in said
    assert said.splitlines()[-1].startswith("watched ")
    assert "Traceback" not in said


class EndsAfter(LiveSource):
    """Some pictures, then it is over."""

    ends = True

    def __init__(self, seconds):
        super().__init__("short")
        self._seconds = seconds

    def frames(self):
        pixels = np.zeros((36, 48, 3), np.uint8)
        for _ in range(3):
            yield LiveFrame(lambda: pixels, 36, 48)
        time.sleep(self._seconds)


@pytest.mark.parametrize("every", [0.2, 0.21])
def test_a_source_that_is_over_ends_it_however_often_is_checked(tiny, every):
    """Checks are due at every look there."""
    events = []
    with VideoQA.load(tiny, threads=1) as qa, qa.live(EndsAfter(0.5), keep_ready=False) as live:
        tally = Watcher(live, Wishes(("is it?",), every), WallClock(), events.append, lambda text: None).run()
    assert events[-1].kind == "ended"
    assert tally.watched_seconds > 0


@pytest.mark.parametrize(
    ("state", "due"), [("live", True), ("reconnecting", True), ("ended", False), ("failed", False)]
)
def test_nothing_is_due_once_the_source_is_over(state, due):
    assert WallClock().wait(SimpleNamespace(status=SimpleNamespace(state=state)), 0.0, 0.2) is due


def test_each_kind_of_complaint_is_said_once():
    said = []
    watcher = Watcher(None, Wishes(("is it?",), 1.0), WallClock(), said.append, said.append)
    watcher._pace = SimpleNamespace(now=iter((1.5, 12.5, 130.0, 2000.0)).__next__)
    for due in (0.0, 1.0, 2.0, 3.0):
        watcher._next(due)
    assert len(said) == 1
    assert watcher.tally.left_out == 1 + 11 + 128 + 1997


def until(child, kind):
    """Read events until one of that kind."""
    for line in child.stdout:
        if json.loads(line)["event"] == kind:
            return
    raise AssertionError(f"{kind} never came: {child.stderr.read()}")
