"""`tam-edge run` without --ask: questions from a terminal or a pipe, each answered before the next is read."""

import io
import json
import os
import signal
import sys

import pytest
from command import Terminal, call, ended
from make_clips import steady, write_clip
from tiny_bundle import make_tiny_bundle

from tam_edge.runtime import VideoQA

PEOPLE, AFTER, WHY = "how many people?", "what happens after the car leaves?", "why does it stop?"
FOLLOW_UP = "<|im_end|>\n<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant"
PIPE_BYTES = 4096
LONG_SEED = 3
"""Seed with which the tiny model babbles for long."""


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return make_tiny_bundle(tmp_path_factory.mktemp("bundle") / "tiny")


@pytest.fixture(scope="module")
def followed(tmp_path_factory):
    def change(manifest):
        manifest["prompt"]["follow_up"] = FOLLOW_UP

    return make_tiny_bundle(tmp_path_factory.mktemp("bundle") / "followed", change=change)


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return write_clip(tmp_path_factory.mktemp("clips") / "clip.mp4", steady(40, every_ms=125))


@pytest.fixture
def piped(bundle, clip, monkeypatch):
    """`tam-edge run` about the clip, in this process, with this on standard input."""

    def piped(data, *arguments, model=bundle):
        data = data if isinstance(data, bytes) else data.encode()
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data), encoding="utf-8"))
        return call("run", "--model", model, "--threads", "1", "--video", clip, *arguments)

    return piped


# ---- a file or pipe


def test_a_question_a_line_is_answered_as_with_ask(piped):
    read = piped(f"{PEOPLE}\n\n  {AFTER}  \r\n{WHY}")
    asked = piped("", "--ask", PEOPLE, "--ask", AFTER, "--ask", WHY)
    assert (read.code, read.out) == (0, asked.out)
    assert read.out.splitlines()[0] == f"Question    {PEOPLE}"
    assert asked.err == ""
    assert read.err.count("\n") == read.err.count("note: earlier questions: ") == 1, "said once"


def test_json_is_one_value_or_with_stream_one_object_a_line(piped):
    whole = json.loads(piped(f"{PEOPLE}\n{AFTER}\n", "--json").out)
    assert [answer["task"] for answer in whole["answers"]] == ["static attributes", "temporal sequence"]
    assert json.loads(piped(f"{PEOPLE}\n", "--json").out)["answer"] == whole["answers"][0]["answer"]
    outcome = piped(f"{PEOPLE}\n{AFTER}\n", "--json", "--stream")
    events = [json.loads(line) for line in outcome.out.splitlines()]
    assert [event["question"] for event in events if event["event"] == "plan"] == [PEOPLE, AFTER]
    answers = [event["answer"] for event in events if event["event"] == "answer"]
    assert answers == [answer["answer"] for answer in whole["answers"]]
    assert outcome.err == ""


def test_each_question_has_those_before_it_as_its_history(piped, followed, clip):
    outcome = piped(f"{PEOPLE}\n{AFTER}\n{WHY}\n", "--json", model=followed)
    answers = json.loads(outcome.out)["answers"]
    history = []
    with VideoQA.load(followed, threads=1) as qa:
        video = qa.open(clip)
        for question, answer in zip((PEOPLE, AFTER, WHY), answers, strict=True):
            assert qa.ask(video, question, history=history).text == answer["answer"]
            assert answer["rejections"] == []
            history.append((question, answer["answer"]))
        assert qa.ask(video, WHY).text != answers[-1]["answer"]


@pytest.mark.parametrize(
    ("data", "says", "answered"),
    [
        ("", "no question: ask with --ask, or write questions on standard input", 0),
        ("\n \n", "no question", 0),
        (f"{PEOPLE}\n{'x' * 5000}\n{AFTER}\n", "the question has 5,000 characters", 1),
        (PEOPLE.encode() + b"\n\xff\xfe?\n", "not valid text", 1),
    ],
)
def test_what_is_no_question_ends_a_pipe_with_one_line(piped, data, says, answered):
    outcome = piped(data, "--json", "--stream")
    assert (outcome.code, outcome.err.count("\n")) == (2, 1)
    assert outcome.err.startswith("tam-edge run: ")
    assert says in outcome.err
    assert outcome.out.count('"event": "answer"') == answered


def test_without_standard_input_it_says_so_before_anything_is_loaded(monkeypatch):
    monkeypatch.setattr(sys, "stdin", None)
    outcome = call("run", "--model", "missing", "--video", "missing.mp4")
    assert (outcome.code, outcome.out, "standard input" in outcome.err) == (2, "", True)


def test_a_plan_and_a_report_hold_for_every_question(piped, bundle, clip, tmp_path):
    planned = call("plan", "--model", bundle, "--video", clip, "--ask", PEOPLE, "--frames", "3", "--json").out
    (tmp_path / "p.json").write_text(planned)
    outcome = piped(f"{PEOPLE}\n{AFTER}\n", "--plan", tmp_path / "p.json", "--report", tmp_path / "r.html", "--json")
    assert [answer["frames"] for answer in json.loads(outcome.out)["answers"]] == [3, 3]
    page = (tmp_path / "r.html").read_text()
    assert page.count("<article>") == 2
    assert "Reused from an earlier question: 3 of 3 frames, " in page
    (tmp_path / "two.json").write_text(json.dumps({"plans": [json.loads(planned)] * 2}))
    assert piped(f"{PEOPLE}\n", "--plan", tmp_path / "two.json").code == 2


def test_explain_says_what_was_reused(piped):
    lines = piped(f"{PEOPLE}\n{AFTER}\n", "--explain").out.splitlines()
    assert [line[12:].split(",")[0] for line in lines if line.startswith("Reused")] == ["5 of 5 frames"]


# ---- a terminal


def test_at_a_terminal_an_empty_line_ends_and_a_bad_question_does_not(bundle, clip):
    with Terminal("run", "--model", bundle, "--threads", "1", "--video", clip) as terminal:
        assert "Ctrl-D" in terminal.wait_for()
        terminal.type(f"{PEOPLE}\n")
        assert terminal.wait_for() == ""
        terminal.type("x " * 2040 + "\n")  # a terminal takes lines of up to 4095 characters
        assert terminal.wait_for().startswith("tam-edge run: the question")
        terminal.type(f"{AFTER}\n")
        assert "note: earlier questions" in terminal.wait_for()
        terminal.type("\n")
        code, out, err = ended(terminal)
    asked = call("run", "--model", bundle, "--threads", "1", "--video", clip, "--ask", PEOPLE, "--ask", AFTER)
    assert (code, out, err) == (0, asked.out, "")


def test_the_end_of_input_ends_and_ctrl_c_at_the_prompt_leaves_with_130(bundle, clip):
    arguments = ("run", "--model", bundle, "--threads", "1", "--video", clip, "--json")
    with Terminal(*arguments) as terminal:
        terminal.wait_for()
        terminal.type("\x04")
        assert ended(terminal) == (0, '{"answers": []}\n', "\n")
    with Terminal(*arguments) as terminal:
        terminal.wait_for()
        terminal.child.send_signal(signal.SIGINT)
        assert ended(terminal) == (130, "", "\n")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs a pipe of 4 KiB, so that an answer has to wait")
def test_ctrl_c_stops_an_answer_and_the_conversation_goes_on(bundle, clip):
    """The long answer waits for a reader while Ctrl-C is pressed; the next question is answered as ever."""
    import fcntl

    read, write = os.pipe()
    fcntl.fcntl(write, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    arguments = ("run", "--model", bundle, "--threads", "1", "--video", clip, "--max-tokens", "700")
    drawn = ("--temperature", "5", "--seed", f"{LONG_SEED}", "--json", "--stream")
    with Terminal(*arguments, *drawn, stdout=write) as terminal, os.fdopen(read, "rb", buffering=0) as out:
        os.close(write)
        terminal.wait_for()
        terminal.type(f"{PEOPLE}\n")
        events = [json.loads(out.readline())["event"] for _ in range(2)]
        terminal.child.send_signal(signal.SIGINT)
        while events[-1] not in ("stopped", "answer"):
            events.append(json.loads(out.readline())["event"])
        assert (events[:2], events[-1]) == (["plan", "text"], "stopped")
        assert "note: stopped" in terminal.wait_for()
        terminal.type("what does the sign say?\n")
        while (event := json.loads(out.readline()))["event"] != "answer":
            pass
        terminal.wait_for()
        terminal.child.send_signal(signal.SIGINT)
        assert terminal.child.wait(timeout=60) == 130
    with VideoQA.load(bundle, threads=1) as qa:
        options = {"max_tokens": 700, "temperature": 5.0, "seed": LONG_SEED}
        pieces = list(qa.stream(qa.open(clip), PEOPLE, **options))
        alone = qa.ask(qa.open(clip), "what does the sign say?", **options)
    assert len(pieces) * len('{"event": "text", "text": ""}\n') > PIPE_BYTES, "or it would not have had to wait"
    assert event["answer"] == alone.text
    assert event["rejections"] == [], "an answer that was stopped is no history"
