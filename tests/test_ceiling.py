"""Under the ceiling: what is given up and in which order, what is refused, and that more memory is never worse."""

import json
import math
import subprocess
import sys
from dataclasses import replace

import pytest
from bench_ceiling import run
from hypothesis import given, settings
from hypothesis import strategies as st
from make_clips import steady, write_clip
from test_footprint import info as short
from test_footprint import with_memory
from tiny_bundle import make_tiny_bundle

from tam_edge.runtime.budget import MIB, MemoryLimit
from tam_edge.runtime.bundle import default_bundle_path, load_bundle
from tam_edge.runtime.ceiling import Setting, admit, check_least
from tam_edge.runtime.errors import MemoryLimitError
from tam_edge.runtime.footprint import Case, Thrift
from tam_edge.runtime.inductor import TaskEstimate
from tam_edge.runtime.plan import Limits, make_plan
from tam_edge.runtime.standing import Standing

HELD = Standing(100 * MIB, peak_bytes=101 * MIB, threads=2)
QUESTION = "how many people?"


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    def change(values):
        """Room for so many visual tokens that they matter beside the rest."""
        with_memory(values)
        values["language"]["context"] = 1_000_000
        values["routing"] |= {"max_visual_tokens": 3_000, "max_frames": 120}

    return load_bundle(make_tiny_bundle(tmp_path_factory.mktemp("tiny"), change=change)).manifest


def info(width=640, height=360):
    return replace(short(width, height), duration_seconds=200.0, frame_count=5000)


def admission(manifest, limit_mib, task="summary", video=None, held=HELD, settled_mib=0, **wishes):
    video = video or info()
    estimate = TaskEstimate(QUESTION, task, 0.9, {task: 0.9})

    def plan_within(tokens):
        return make_plan(estimate, video, manifest, Limits(visual_tokens=tokens, **wishes))

    def case_of(plan):
        return Case(plan.visual_tokens, plan.frames, plan.grid, before_tokens=5, room_tokens=40)

    setting = Setting(manifest, held, video, MemoryLimit(int(limit_mib * MIB), "as given"))
    return admit(setting, plan_within, case_of, manifest.least_visual_tokens, Thrift(), settled_mib * MIB)


def refused(manifest, limit_mib, **options):
    with pytest.raises(MemoryLimitError) as caught:
        admission(manifest, limit_mib, **options)
    return caught.value


def test_with_plenty_nothing_is_given_up(manifest):
    found = admission(manifest, 10_000)
    assert found.thrift == Thrift()
    assert (found.attention, found.plan.rejections) == ("plain", ())
    assert list(found.plan.predicted_bytes) == ["inductor", "vision", "language"]


tasks = st.sampled_from(["summary", "static attributes", "reasoning"])
sizes = st.sampled_from([(64, 64), (640, 360), (1920, 1080)])


@settings(max_examples=60)
@given(st.floats(100, 300), st.floats(0, 60), tasks, sizes)
def test_more_memory_never_gives_fewer_tokens_or_a_smaller_chunk(manifest, low, more, task, size):
    found = []
    for limit in (low, low + more):
        try:
            found.append(admission(manifest, limit, task, info(*size)))
        except MemoryLimitError:
            assert not found, f"{limit} MiB are refused, {low} MiB are not"
    for one in found:
        assert (
            max(one.plan.predicted_bytes.values()) <= (low if len(found) == 2 and one is found[0] else low + more) * MIB
        )
    if len(found) == 2:
        poor, rich = found
        assert poor.plan.visual_tokens <= rich.plan.visual_tokens
        assert poor.thrift.chunk_frames <= rich.thrift.chunk_frames
        assert poor.thrift.features_bytes <= rich.thrift.features_bytes


@settings(max_examples=30)
@given(tasks, sizes, st.integers(80, 200))
def test_the_ceiling_that_a_refusal_names_is_enough_and_hardly_more(manifest, task, size, resident_mib):
    held = Standing(resident_mib * MIB, threads=2)
    error = refused(manifest, resident_mib + 1, task=task, video=info(*size), held=held)
    named = error.needed_bytes // MIB
    assert str(error).endswith(f"allow at least {named}MiB")
    admission(manifest, named, task, info(*size), held)
    refused(manifest, named - 2, task=task, video=info(*size), held=held)  # 1 MiB is for the next process


def test_a_refusal_says_which_stage_needs_most_and_what_of(manifest):
    error = refused(manifest, 120, video=info(3840, 2160))
    assert "120.0 MiB of memory (as given) is too little: vision needs" in str(error)
    assert "decoder" in str(error) and "frames" in str(error)
    held = Standing(100 * MIB, peak_bytes=5000 * MIB, threads=2)
    assert "this process has held 4.88 GiB already" in str(refused(manifest, 400, held=held))


def test_what_is_given_up_is_said_with_what_it_would_have_needed(manifest):
    found = [one for half in range(2 * 120, 2 * 240) if (one := try_admission(manifest, half / 2))]
    for one in found:
        needs = [rejection.needed_bytes for rejection in one.plan.rejections if rejection.needed_bytes]
        assert needs == sorted(needs, reverse=True)
    most = max(found, key=lambda one: len(one.plan.rejections)).plan.rejections
    names = [rejection.what for rejection in most if rejection.needed_bytes]
    assert names[-1].endswith("visual tokens")
    assert {f"{count} frames at once" for count in (8, 4, 2)} < set(names)
    assert {"vision and language model open at once", "cells for longer questions", "16-bit key-value cells"} < set(
        names
    )
    assert "are allowed: one after the other" in next(one.reason for one in most if one.what.startswith("vision"))


def test_visual_tokens_go_last_and_use_what_is_left(manifest):
    full = admission(manifest, 10_000).plan
    limited = [one for mib in range(120, 240) if (one := try_admission(manifest, mib)) and fewer(one, full)]
    assert len({one.plan.visual_tokens for one in limited}) >= 3
    for one in limited:
        assert one.thrift.chunk_frames == 1 and one.thrift.in_turn and one.thrift.no_spare_cells
        assert one.attention == "q8_0"
        assert max(one.plan.predicted_bytes.values()) > 0.9 * 120 * MIB


@pytest.mark.parametrize("wishes", [{}, {"frames": 2, "grid": 2}])
def test_what_fitted_before_the_inductor_was_asked_still_fits(manifest, wishes):
    """A process holds a little more by then; the smallest plan may use a part of what is spared, no other plan may."""
    least = math.floor(refused(manifest, 101, **wishes).needed_bytes / MIB)
    below = least - 2  # a refusal names a little more than is needed
    with pytest.raises(MemoryLimitError):
        admission(manifest, below, **wishes)
    smallest, settled = admission(manifest, least, **wishes), admission(manifest, below, settled_mib=2, **wishes)
    assert settled.plan.visual_tokens <= smallest.plan.visual_tokens
    assert max(settled.plan.predicted_bytes.values()) <= below * MIB  # without what is spared it is below the ceiling
    assert admission(manifest, least, settled_mib=2, **wishes).plan == smallest.plan
    with pytest.raises(MemoryLimitError):
        admission(manifest, below - 2, settled_mib=2, **wishes)


def test_what_later_questions_may_prefer_says_nothing_of_memory(manifest):
    for mib in (150, 10_000):
        found = admission(manifest, mib)
        again = admit(
            Setting(manifest, HELD, info(), MemoryLimit(10_000 * MIB, "as given")),
            lambda _, found=found: found.plan,
            lambda plan: Case(plan.visual_tokens, plan.frames, plan.grid),
            found.plan.visual_tokens,
            Thrift(),
        )
        for one in (found, again):
            assert one.decided.predicted_bytes is None
            assert all(rejection.needed_bytes is None for rejection in one.decided.rejections)
            assert one.decided.timestamps_seconds == one.plan.timestamps_seconds


def fewer(found, full):
    return found.plan.visual_tokens < full.visual_tokens


def try_admission(manifest, mib):
    try:
        return admission(manifest, mib)
    except MemoryLimitError:
        return None


def test_a_given_plan_is_kept_or_refused(manifest):
    plan = admission(manifest, 10_000).plan
    setting = Setting(manifest, HELD, info(), MemoryLimit(130 * MIB, "as given"))
    case = Case(plan.visual_tokens, plan.frames, plan.grid)
    with pytest.raises(MemoryLimitError):
        admit(setting, lambda _: plan, lambda _: case, plan.visual_tokens, Thrift())
    with pytest.raises(MemoryLimitError):
        check_least(setting, case, Thrift())


def test_gpu_memory_counts_too(manifest):
    host, gpu = (
        admission(manifest, 10_000, held=Standing(100 * MIB, threads=2, gpu=on)).plan.predicted_bytes
        for on in (False, True)
    )
    assert all(gpu[stage] > host[stage] + 400 * MIB for stage in host)


# ---- real processes


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    small = write_clip(folder / "small.mp4", steady(40, every_ms=250), size_px=(320, 240))
    large = write_clip(
        folder / "large.mp4", steady(8, every_ms=500), size_px=(1280, 720), options={"preset": "ultrafast"}
    )
    return str(small), str(large)


def test_the_shipped_bundle_keeps_its_ceiling(clips):
    """Refused before any work; at the ceiling that was named it answers below it, and as much below as promised."""
    for clip in clips:
        no = run(clip, QUESTION, 130 * MIB)
        assert not no.breached and no.answer is None and no.named_bytes, no.error
        yes = run(clip, QUESTION, no.named_bytes)
        assert not yes.breached and yes.answer is not None, yes.error
        assert no.named_bytes <= 1.15 * yes.peak_bytes
        assert 0.95 * yes.peak_bytes <= yes.predicted_bytes <= 1.15 * yes.peak_bytes


def test_the_shipped_bundle_needs_little_at_its_default_plan(clips):
    found = run(clips[1], QUESTION, 2000 * MIB)
    assert found.answer is not None, found.error
    assert not [rejection for rejection in found.answer["rejections"] if rejection["needed_bytes"]]
    assert found.peak_bytes <= 350 * MIB
    assert 0.95 * found.peak_bytes <= found.predicted_bytes <= 1.15 * found.peak_bytes


def test_a_second_question_stays_below_the_ceiling_too(clips):
    """Every engine closed and opened again, in one process."""
    code = f"""
import json
from tam_edge.runtime import VideoQA
from tam_edge.runtime.budget import peak_resident_bytes
with VideoQA.load(memory="165MiB", threads=2) as qa:
    asked = ("how many people?", "summarize") * 2
    answers = [qa.ask(qa.open({clips[0]!r}), question) for question in asked]
    print(json.dumps([peak_resident_bytes(), [[gone.what for gone in a.plan.rejections] for a in answers]]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    peak, given_up = json.loads(done.stdout)
    assert peak <= 165 * MIB
    first, *others = ("engines open from the question before" in gone for gone in given_up)
    assert not first and any(others)


def test_the_shipped_bundle_is_measured():
    manifest = load_bundle(default_bundle_path()).manifest
    engines = [manifest.inductor.engines, *(spec.engines for spec in manifest.encoders.values())]
    engines += [spec.engines for spec in manifest.projectors.values()] + [manifest.language.engines]
    assert all(spec.memory is not None for specs in engines for spec in specs)
