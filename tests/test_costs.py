"""The time of every stage follows from the calibration and from what is left to do; what was left before is free."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from known_rates import known_rates
from tiny_bundle import make_tiny_bundle

from tam_edge.runtime.access import FrameAccess
from tam_edge.runtime.bundle import load_bundle
from tam_edge.runtime.calibrate.fitting import PrefillSample, line, prefill_cost
from tam_edge.runtime.costs import STAGES, State, predict
from tam_edge.runtime.footprint import Case, Thrift
from tam_edge.runtime.frames import VideoInfo
from tam_edge.runtime.inductor import TaskEstimate
from tam_edge.runtime.plan import Limits, make_plan

ACCESS = FrameAccess(25.0, 1000.0, 2.0, seekable=True, indexed=True)
VIDEO = VideoInfo("v", "video", 60.0, 1500, 1000, 500, 25.0, "h264", "id", access=ACCESS)
RATES = known_rates()
ALL_OPEN = frozenset(RATES.opening_ms)


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    return load_bundle(make_tiny_bundle(tmp_path_factory.mktemp("tiny"))).manifest


ALL = Thrift()


def prediction(manifest, frames=4, grid=4, info=VIDEO, rates=RATES, thrift=ALL, seen=False, fresh=None, opened=()):
    estimate = TaskEstimate("how many?", "summary", 0.9, {"summary": 0.9})
    plan = make_plan(estimate, info, manifest, Limits(frames=frames, grid=grid))
    case = Case(plan.visual_tokens, plan.frames, plan.grid, before_tokens=10, room_tokens=56, seen=seen)
    times = plan.timestamps_seconds
    state = State(frozenset(opened), times if fresh is None else times[:fresh], 40)
    return predict(rates, manifest, info, plan, case, thrift, state)


def test_every_stage_by_hand(manifest):
    found = prediction(manifest, frames=1, info=replace(VIDEO, access=replace(ACCESS, seekable=False)))
    stages = found.stages_ms
    assert list(stages) == list(STAGES)
    assert stages["load"] == 30  # projector, encoder, language model
    [time] = make_plan(
        TaskEstimate("how many?", "summary", 0.9, {"summary": 0.9}), VIDEO, manifest, Limits(frames=1, grid=4)
    ).timestamps_seconds
    frames = time * 25 + 1
    assert stages["decode"] == pytest.approx(3 + frames * (0.1 + 0.5 + 0.01) + 0.1 + 0.5)
    assert stages["vision"] == pytest.approx(1 + 5 + 50 + 1)  # resized, run, run for the first time
    assert stages["strategy"] == 4 + 1
    before = 10 + 16
    assert stages["prefill"] == pytest.approx(
        (1 + 0.5 * before + 0.001 * before * before / 2) + (1 + 0.5 * 40 + 0.001 * 40 * (before + 20)) + 1
    )
    assert stages["generate"] == pytest.approx(4 + 0.001 * (before + 40))
    assert found.first_token_ms == pytest.approx(sum(stages.values()) + 5)
    assert found.safe_ms == pytest.approx(found.first_token_ms + 0.1 * sum(stages.values()))


def test_what_is_open_kept_or_in_the_model_costs_nothing(manifest):
    whole = prediction(manifest).stages_ms
    warm = prediction(manifest, opened=ALL_OPEN).stages_ms
    assert warm["load"] == 0 and warm["vision"] == whole["vision"] - 1
    kept = prediction(manifest, opened=ALL_OPEN, fresh=0).stages_ms
    assert (kept["decode"], kept["vision"], kept["strategy"]) == (0, 0, whole["strategy"] - 1)
    some = prediction(manifest, opened=ALL_OPEN, fresh=2).stages_ms
    assert 0 < some["vision"] < warm["vision"]
    seen = prediction(manifest, opened=ALL_OPEN, seen=True).stages_ms
    assert {stage for stage, ms in seen.items() if ms} == {"prefill", "generate"}
    assert seen["prefill"] < kept["prefill"] / 1.5


def test_a_model_that_gives_way_to_vision_is_opened_again(manifest):
    assert prediction(manifest, opened=ALL_OPEN, thrift=Thrift(in_turn=True)).stages_ms["load"] == 10


def test_smaller_chunks_take_longer_where_they_do(manifest):
    together = prediction(manifest, frames=8).stages_ms["vision"]
    assert prediction(manifest, frames=8, thrift=Thrift(chunk_frames=1)).stages_ms["vision"] == together + 7 * 20


def test_prefill_is_not_linear():
    cost = RATES.prefill
    assert cost.at(1000, 0) > 2.2 * cost.at(500, 0)
    assert cost.at(500, 0) + cost.at(500, 500) == pytest.approx(cost.at(1000, 0), rel=0.01)


def test_a_codec_that_was_not_measured_counts_as_the_dearest(manifest):
    known, dearest, odd = (
        prediction(manifest, info=replace(VIDEO, codec=codec)).stages_ms["decode"] for codec in ("h264", "hevc", "vc1")
    )
    assert known < dearest == odd


def test_frames_in_memory_and_images_are_not_decoded_as_video(manifest):
    assert prediction(manifest, info=replace(VIDEO, kind="frames", access=None)).stages_ms["decode"] == 0
    unknown = prediction(manifest, info=replace(VIDEO, kind="sequence", codec=None, access=None))
    assert unknown.stages_ms["decode"] > 0
    still = replace(
        VIDEO, kind="image", codec="jpeg", duration_seconds=0.0, frame_count=1, still_sizes_px=((500, 1000),)
    )
    assert prediction(manifest, frames=1, info=still).stages_ms["decode"] == 1 + 10 * 0.5


@given(st.integers(1, 9), st.sampled_from([2, 3]), st.integers(1, 8))
def test_more_frames_never_take_less(frames, grid, chunk):
    manifest = test_more_frames_never_take_less.manifest
    fewer, more = (
        prediction(manifest, count, grid, thrift=Thrift(chunk_frames=chunk)) for count in (frames, frames + 1)
    )
    assert fewer.safe_ms < more.safe_ms


@pytest.fixture(scope="module", autouse=True)
def _given_the_manifest(manifest):
    test_more_frames_never_take_less.manifest = manifest


def test_costs_are_found_in_measurements_and_are_never_negative():
    true = known_rates().prefill
    draw = np.random.default_rng(0)
    samples = [
        PrefillSample(tokens, before, true.at(tokens, before) * (1 + draw.normal(0, 0.01)))
        for tokens, before in [(32, 0), (96, 0), (288, 0), (864, 0), (2000, 0), (48, 32), (48, 864), (48, 2000)] * 3
    ]
    found = prefill_cost(samples)
    for tokens, before in ((100, 0), (600, 0), (40, 600), (5000, 0)):
        assert found.at(tokens, before) == pytest.approx(true.at(tokens, before), rel=0.1)
    falling = line([(1.0, 10.0), (2.0, 8.0)])
    assert (falling.each_ms, falling.fixed_ms) == (0, pytest.approx(8.8, abs=0.5))


def test_margin_is_what_measurements_exceeded_their_figures_by():
    stages = {"vision": 100.0, "prefill": 100.0}
    assert known_rates(spread={}).margin_ms(stages) == pytest.approx(10)  # never none
    assert known_rates(spread={"whole": 0.3}).margin_ms(stages) == pytest.approx(60)
    assert known_rates(spread={"vision": 0.3, "prefill": 0.4}).margin_ms(stages) == pytest.approx(50)
