"""Stages beside each other: the same answers and errors as one after the other, and no thread is ever left."""

import gc
import threading
import time
from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from known_rates import known_rates
from make_clips import steady, write_clip
from test_ceiling import HELD, info
from test_costs import ALL_OPEN, prediction
from test_footprint import with_memory
from test_session import cut_short
from tiny_bundle import EMBEDDING, make_tiny_bundle

from tam_edge.runtime import BundleError, VideoError, VideoQA, admission, vision
from tam_edge.runtime.answer import StageClock
from tam_edge.runtime.beside import Ahead, check_wanted
from tam_edge.runtime.bundle import load_bundle
from tam_edge.runtime.calibrate import specimen
from tam_edge.runtime.calibrate.beside import measure_beside
from tam_edge.runtime.footprint import Case, Thrift
from tam_edge.runtime.language import LanguageModel
from tam_edge.runtime.parts import Parts
from tam_edge.runtime.schedule import NO_GAIN, Overlap, Work, saved_ms, slowdown, worthwhile

QUESTION = "summarize the video"
SERIAL, BOTH = Overlap(), Overlap(True, True)


@pytest.fixture(autouse=True)
def _no_thread_is_left():
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) <= before


# ---- a worker


def counting(most, made, closed=None):
    try:
        for number in range(most):
            made.append(number)
            yield number
    finally:
        if closed is not None:
            closed.append(threading.current_thread())


def settled(made):
    """What was made, once nothing more is."""
    for _ in range(40):
        time.sleep(0.005)
    return list(made)


def test_items_come_in_order_and_only_one_is_made_ahead():
    made = []
    with closing(Ahead(counting(5, made))) as items:
        assert settled(made) == [0]
        for number in range(4):
            assert next(items) == number
            assert settled(made) == list(range(number + 2))
        assert list(items) == [4]
        assert list(items) == []


def test_an_error_is_raised_in_its_place_and_nothing_comes_after_it():
    def failing():
        yield 1
        raise VideoError("clip", "is damaged")

    items = Ahead(failing())
    assert next(items) == 1
    with pytest.raises(VideoError, match="is damaged"):
        next(items)
    assert list(items) == []


@pytest.mark.parametrize("taken", [0, 1, 2])
def test_closing_stops_the_worker_which_closes_what_it_works_on(taken):
    made, closed, unused = [], [], []
    items = Ahead(counting(9, made, closed), unused=unused.append)
    for _ in range(taken):
        next(items)
    settled(made)
    items.close()
    items.close()
    assert len(made) == taken + 1 and unused == [taken]
    [thread] = closed
    assert thread is not threading.current_thread() and not thread.is_alive()
    assert list(items) == []


def test_long_work_is_left_where_it_asks():
    begun, left = threading.Event(), []

    def long():
        try:
            while True:
                begun.set()
                time.sleep(0.001)
                check_wanted()
                yield from ()
        finally:
            left.append(True)

    items = Ahead(long())
    assert begun.wait(10)
    items.close()
    assert left == [True]
    check_wanted()  # outside a worker nothing happens


def test_no_item_stays_in_memory_while_the_next_is_made():
    alive, most = [0], [0]

    class Item:
        def __init__(self):
            alive[0] += 1
            most[0] = max(most[0], alive[0])

        def __del__(self):
            alive[0] -= 1

    def items():
        for _ in range(6):
            yield Item()

    with closing(Ahead(items())) as ahead:
        while (item := next(ahead, None)) is not None:
            time.sleep(0.01)
            del item
    gc.collect()
    assert most[0] == 2 and alive[0] == 0


# ---- the decision and its prediction


def test_nothing_overlaps_where_nothing_was_gained():
    assert worthwhile({}, threads=8, decoded=True) == SERIAL
    assert worthwhile({"decode": 1.2, "language": 1.2}, threads=1, decoded=True) == SERIAL
    assert worthwhile({"decode": 1.9, "language": 2.4}, threads=2, decoded=True) == SERIAL
    assert worthwhile({"decode": 1.2, "language": 1.9}, threads=2, decoded=True) == Overlap(decode_ahead=True)
    assert worthwhile({"decode": 1.2, "language": 1.2}, threads=2, decoded=False) == Overlap(language_beside=True)
    assert worthwhile(None, threads=2, decoded=True) == Overlap(decode_ahead=True)
    assert worthwhile(None, threads=1, decoded=True) == SERIAL


def test_what_is_saved_by_hand():
    work = Work(decode_ms=40.0, vision_ms=100.0, chunks=4, opening_ms=6.0, language_ms=30.0)
    ahead = Overlap(decode_ahead=True)
    assert saved_ms(work, ahead, {"decode": 1.0}) == 6 + 3 * 10
    assert saved_ms(work, ahead, {"decode": 1.5}) == 18
    assert saved_ms(work, ahead, {"decode": 2.5}) == 0
    assert saved_ms(replace(work, decode_ms=400.0), ahead, {"decode": 1.0}) == 6 + 3 * 25
    assert saved_ms(work, Overlap(language_beside=True), {"language": 1.0}) == 30
    assert saved_ms(work, SERIAL, {"decode": 1.0, "language": 1.0}) == 0


times = st.floats(0, 1000)


@given(times, times, st.integers(0, 9), times, times, st.floats(1, 3), st.floats(1, 3))
def test_no_more_is_saved_than_can_be_hidden(decode, vision_ms, chunks, opening, language, one, other):
    work = Work(decode, vision_ms, chunks, opening, language)
    saved = saved_ms(work, BOTH, {"decode": one, "language": other})
    whole = decode + vision_ms + opening + language
    assert 0 <= saved <= whole - max(decode, vision_ms / 2, language) + 1e-6 or decode == 0
    assert saved <= whole


@given(times, times, st.floats(1, 3))
def test_a_slowdown_is_found_in_what_it_makes_of_two_times(one, other, slow):
    one, other = one + 1, other + 1
    together = max(one, other) + (slow - 1) * min(one, other)
    assert slowdown(one, other, together) == pytest.approx(slow)
    assert slowdown(one, other, one + other) == pytest.approx(NO_GAIN)


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    return load_bundle(make_tiny_bundle(tmp_path_factory.mktemp("tiny"), change=with_memory)).manifest


def test_a_prediction_is_sooner_by_what_is_saved_and_stages_stay_as_they_are(manifest):
    rates = known_rates(beside={"decode": 1.5, "language": 1.5})
    thrift = Thrift(chunk_frames=2)
    serial = prediction(manifest, frames=8, rates=rates, thrift=thrift)
    ahead = prediction(manifest, frames=8, rates=rates, thrift=replace(thrift, decode_ahead=True))
    assert serial.saved_ms == 0 < ahead.saved_ms
    assert ahead.stages_ms == serial.stages_ms
    assert ahead.safe_ms == pytest.approx(serial.safe_ms - ahead.saved_ms)
    beside = replace(thrift, language_beside=True)
    assert prediction(manifest, rates=rates, thrift=beside).saved_ms == pytest.approx(10 * 0.5)
    assert prediction(manifest, rates=rates, thrift=beside, opened=ALL_OPEN).saved_ms == 0
    assert prediction(manifest, rates=rates, thrift=beside, seen=True).saved_ms == 0


def test_overlapping_is_given_up_first(manifest):
    from test_ceiling import MIB, Limits, MemoryLimit, Setting, TaskEstimate, admit, make_plan

    estimate, video = TaskEstimate(QUESTION, "summary", 0.9, {"summary": 0.9}), info(1280, 720)
    start = Thrift(chunk_frames=4, decode_ahead=True, language_beside=True)
    seen = {}
    for mib in range(300, 100, -1):
        setting = Setting(manifest, HELD, video, MemoryLimit(mib * MIB, "as given"))
        within = lambda tokens: make_plan(estimate, video, manifest, Limits(visual_tokens=tokens))  # noqa: E731
        case_of = lambda plan: Case(plan.visual_tokens, plan.frames, plan.grid, room_tokens=40)  # noqa: E731
        try:
            found = admit(setting, within, case_of, manifest.least_visual_tokens, start)
        except admission.MemoryLimitError:
            break
        assert max(found.plan.predicted_bytes.values()) <= mib * MIB
        given_up = tuple(one.what for one in found.plan.rejections)
        seen.setdefault(len(given_up), (given_up, found.thrift))
    assert seen[0][1] == start
    assert seen[1][0] == ("decoding ahead of vision",)
    last, thrift = seen[max(seen)]
    assert last[:3] == ("decoding ahead of vision", "the language model opened beside vision", "4 frames at once")
    assert (thrift.decode_ahead, thrift.language_beside) == (False, False)


# ---- whole answers


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_tiny_bundle(tmp_path_factory.mktemp("whole"))


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    path = tmp_path_factory.mktemp("clips") / "clip.mp4"
    options = {"g": "1", "bf": "0", "qp": "20"}
    return write_clip(path, steady(72, every_ms=125), options=options, container_options={"movflags": "faststart"})


@pytest.fixture
def overlapping(monkeypatch):
    """Choose what runs beside what, in chunks of two frames."""
    monkeypatch.setattr(vision, "CHUNK_FRAMES", 2)

    def choose(overlap):
        monkeypatch.setattr(admission, "worthwhile", lambda slowdowns, *, threads, decoded: overlap)

    return choose


def looked(folder, clip, patch):
    """The answer, and the visual tokens that the language model got."""
    got, see = [], LanguageModel.see

    def seen(self, before, embeddings, room, **images):
        got.append(embeddings.copy())
        return see(self, before, embeddings, room, **images)

    with patch.context() as inner, VideoQA.load(folder, threads=2) as qa:
        inner.setattr(LanguageModel, "see", seen)
        answer = qa.ask(qa.open(clip), QUESTION)
    return answer, got[0]


def test_answers_are_the_same_bit_for_bit(folder, clip, overlapping, monkeypatch):
    found = []
    for overlap in (SERIAL, Overlap(True, False), Overlap(False, True), BOTH):
        overlapping(overlap)
        found.append(looked(folder, clip, monkeypatch))
    (first, tokens), *others = found
    assert first.plan.frames >= 8 and tokens.shape[1] == EMBEDDING
    for answer, ours in others:
        assert np.array_equal(ours, tokens)
        assert (answer.text, answer.evidence, answer.rejections) == (first.text, first.evidence, first.rejections)
        assert answer.timings.decode > 0 and answer.timings.load > 0


@pytest.mark.parametrize("keep", [0.7, 0.35])
def test_a_clip_cut_short_ends_as_it_does_one_after_the_other(folder, clip, tmp_path, overlapping, keep):
    cut, ended = cut_short(clip, tmp_path / "cut.mp4", keep), []
    for overlap in (SERIAL, BOTH):
        overlapping(overlap)
        with VideoQA.load(folder, threads=2) as qa:
            try:
                answer = qa.ask(qa.open(cut), QUESTION)
                ended.append((answer.text, answer.plan.timestamps_seconds, answer.rejections))
            except VideoError as error:
                ended.append(str(error))
    assert ended[0] == ended[1]
    assert isinstance(ended[0], str) == (keep < 0.5)


def test_a_language_model_that_is_refused_is_refused_by_the_same_name(tmp_path, clip, overlapping):
    folder, said = make_tiny_bundle(tmp_path / "tiny", language_width=EMBEDDING + 8), []
    for overlap in (SERIAL, BOTH):
        overlapping(overlap)
        with VideoQA.load(folder, threads=2) as qa, pytest.raises(BundleError) as caught:
            qa.ask(qa.open(clip), QUESTION)
        said.append((caught.value.field, str(caught.value)))
    assert said[0] == said[1]


@pytest.mark.parametrize("stage", [None, "vision", "strategy", "prefill", "generate"])
def test_an_interrupt_leaves_no_thread_and_a_session_that_answers(folder, clip, overlapping, monkeypatch, stage):
    overlapping(BOTH)
    entered, original = [], StageClock.stage

    def interrupted(self, name):
        entered.append(name)
        if name == stage and entered.count(stage) == 2 - (stage in ("strategy", "prefill")):
            raise KeyboardInterrupt
        return original(self, name)

    with VideoQA.load(folder, threads=2) as qa:
        video = qa.open(clip)
        with monkeypatch.context() as patch:
            patch.setattr(StageClock, "stage", interrupted)
            with pytest.raises(KeyboardInterrupt):
                qa.ask(video, QUESTION)
            assert not [one for one in threading.enumerate() if one.name == "tam-edge-ahead"]
        again = qa.ask(video, QUESTION).text
    with VideoQA.load(folder, threads=2) as qa:
        assert qa.ask(qa.open(clip), QUESTION).text == again


def test_an_abandoned_stream_leaves_no_thread(folder, clip, overlapping):
    overlapping(BOTH)
    qa = VideoQA.load(folder, threads=2)
    stream = qa.stream(qa.open(clip), QUESTION)
    next(stream)
    del stream
    assert not [one for one in threading.enumerate() if one.name == "tam-edge-ahead"]
    qa.close()


def test_a_device_is_measured_where_there_is_more_than_one_core(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(specimen, "_ENCODERS", {"mpeg4": specimen._ENCODERS["mpeg4"]})
    told = []
    with closing(Parts(load_bundle(folder), threads=2, device="auto")) as parts:
        assert measure_beside(parts, 1, tmp_path, lambda case, thrift: True, told.append) == {}
        assert measure_beside(parts, 2, tmp_path, lambda case, thrift: False, told.append) == {}
        found = measure_beside(parts, 2, tmp_path, lambda case, thrift: True, told.append)
        assert parts.open_roles == frozenset()
    assert set(found) == {"decode", "language"} and all(1 <= value < 100 for value in found.values())
    assert len(told) == 2
