"""The rule set against the paper's four worked examples, and what must hold for every plan."""

import json
import math
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tam_edge.runtime.errors import UsageError
from tam_edge.runtime.frames import VideoInfo
from tam_edge.runtime.inductor import TaskEstimate
from tam_edge.runtime.manifest import Manifest
from tam_edge.runtime.plan import Limits, Plan, check_plan, make_plan
from tam_edge.runtime.routing import (
    TAM_ROUTING,
    Routing,
    Rung,
    candidate_times,
    choose_times,
    frame_cap,
    route,
    route_by_hand,
)

TAM_BUDGET = 21000 - 2048 - 1500
GROUPS = ("high", "balanced", "more")
A_FILE = {"file": "f", "sha256": "0" * 64, "size_bytes": 1}
AN_ENGINE = {**A_FILE, "backend": "onnx", "precision": "fp32"}


def manifest_of(routing=TAM_ROUTING, *, context=21000, max_output_tokens=2048, strategies=("tam",)):
    """A manifest around a rule set; a plan opens no file of it."""
    eye = {
        "image_px": 384,
        "patch_px": 14,
        "grid_side": 27,
        "width": 8,
        "preprocessing": {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)},
        "engines": [{**AN_ENGINE, "peak_bytes": 1002}],
    }
    return Manifest.model_validate(
        {
            "name": "paper",
            "version": "1",
            "license": "Apache-2.0",
            "description": "",
            "created_by": "tests",
            "inductor": {
                "engines": [{**AN_ENGINE, "peak_bytes": 1001}],
                "tokenizer": A_FILE,
                "tasks": [rule.name for rule in routing.tasks],
                "max_tokens": 128,
            },
            "encoders": {"eye": eye},
            "projectors": {
                rung.grid: {"expert": rung.expert, "engines": [{**AN_ENGINE, "peak_bytes": 1000 * rung.grid}]}
                for rung in routing.ladder
            },
            "strategies": [{"name": name, "encoders": ["eye"]} for name in strategies],
            "language": {
                "engines": [{**AN_ENGINE, "backend": "gguf", "peak_bytes": 1004}],
                "tokenizer": A_FILE,
                "embedding_width": 8,
                "context": context,
                "max_output_tokens": max_output_tokens,
            },
            "prompt": {"system": "", "after_visual": "{question}", "metadata": "", "instruction": ""},
            "routing": routing,
        }
    )


def clip(duration_seconds, frame_count=None, *, start_seconds=0.0):
    return VideoInfo(
        source="clip.mp4",
        kind="video" if duration_seconds else "image",
        duration_seconds=duration_seconds,
        frame_count=frame_count,
        width_px=640,
        height_px=480,
        average_fps=None,
        codec=None,
        identity="clip",
        start_seconds=start_seconds,
    )


IMAGE = clip(0.0, 1)


def estimate(task, confidence=0.9):
    return TaskEstimate("?", task, confidence, {task: confidence})


# --- the paper's examples and the vectors that follow from the rules ---


@pytest.mark.parametrize(
    ("duration", "task", "frames", "printed_interval", "grid", "expert", "tokens"),
    [
        (1786.30, "summary", 120, 15.10, 11, 4, 15840),
        (1786.30, "reasoning", 120, 15.10, 11, 4, 15840),
        (77.43, "summary", 78, 1.00, 14, 3, 16380),
        (77.43, "fine-grained attributes", 51, 1.51, 18, 2, 17442),
    ],
)
def test_the_papers_worked_examples(duration, task, frames, printed_interval, grid, expert, tokens):
    plan = make_plan(estimate(task), clip(duration, math.ceil(duration * 30)), manifest_of())
    assert (plan.frames, plan.grid, plan.expert, plan.visual_tokens) == (frames, grid, expert, tokens)
    assert plan.interval_seconds == pytest.approx(printed_interval, rel=0.03)
    assert plan.token_budget == TAM_BUDGET == 17452


@pytest.mark.parametrize(
    ("duration", "high", "balanced", "more"),
    [
        (10, (10, 27, 1), (10, 27, 1), (10, 27, 1)),
        (24, (23, 27, 1), (24, 18, 2), (24, 18, 2)),
        (29.9, (23, 27, 1), (30, 18, 2), (30, 18, 2)),
        (30, (30, 18, 2), (30, 18, 2), (30, 18, 2)),
        (51, (51, 18, 2), (51, 18, 2), (51, 18, 2)),
        (52, (51, 18, 2), (52, 14, 3), (52, 14, 3)),
        (77.43, (51, 18, 2), (78, 14, 3), (78, 14, 3)),
        (84, (51, 18, 2), (83, 14, 3), (84, 11, 4)),
        (300, (51, 18, 2), (83, 14, 3), (120, 11, 4)),
        (765, (51, 18, 2), (83, 14, 3), (120, 11, 4)),
        (766, (83, 14, 3), (83, 14, 3), (120, 11, 4)),
        (1246, (120, 11, 4), (120, 11, 4), (120, 11, 4)),
        (1786.3, (120, 11, 4), (120, 11, 4), (120, 11, 4)),
        (5400, (120, 11, 4), (120, 11, 4), (120, 11, 4)),
    ],
)
def test_the_vectors_of_the_rule_set(duration, high, balanced, more):
    available = len(candidate_times(duration, None, TAM_ROUTING))
    got = [tuple(route(group, duration, available, TAM_BUDGET, TAM_ROUTING)) for group in GROUPS]
    assert got == [high, balanced, more]


def test_the_caps_of_the_papers_ladder():
    caps = {rung.grid: frame_cap(rung, TAM_BUDGET, TAM_ROUTING) for rung in TAM_ROUTING.ladder}
    assert caps == {27: 23, 18: 51, 14: 83, 11: 120}
    few = TAM_ROUTING.model_copy(update={"max_frames": 40})
    assert [frame_cap(rung, TAM_BUDGET, few) for rung in few.ladder] == [23, 40, 40, 40]


@pytest.mark.parametrize("group", GROUPS)
def test_an_image_is_one_frame_at_the_largest_grid_that_fits(group):
    assert tuple(route(group, 0.0, 1, TAM_BUDGET, TAM_ROUTING)) == (1, 27, 1)
    assert tuple(route(group, 0.0, 1, 755, TAM_ROUTING)) == (1, 18, 2)
    assert tuple(route(group, 0.0, 1, 132, TAM_ROUTING)) == (1, 11, 4)


# --- the clip's one list of times ---


def test_a_clip_of_whole_seconds_has_one_time_a_second():
    assert candidate_times(10.0, 300, TAM_ROUTING) == tuple(map(float, range(10)))
    assert candidate_times(10.0000000001, None, TAM_ROUTING) == tuple(map(float, range(10)))


def test_a_long_clip_has_the_most_times_there_may_be_up_to_its_last_frame():
    times = candidate_times(1000.0, 25000, TAM_ROUTING)
    assert (len(times), times[0], times[-1]) == (120, 0.0, pytest.approx(999.96))


def test_a_time_lapse_gets_the_middle_of_each_of_its_frames():
    assert candidate_times(100.0, 5, TAM_ROUTING) == pytest.approx((10, 30, 50, 70, 90))


def test_times_are_chosen_evenly_and_a_single_one_from_the_middle():
    candidates = tuple(map(float, range(10)))
    assert choose_times(candidates, 10) == candidates
    assert choose_times(candidates, 4) == (0, 3, 6, 9)
    assert choose_times(candidates, 1) == (4,)


durations = st.floats(0, 20_000)
frame_counts = st.none() | st.integers(1, 2_000_000)


@given(duration=durations, frame_count=frame_counts, data=st.data())
def test_times_are_a_rising_subset_inside_the_clip(duration, frame_count, data):
    candidates = candidate_times(duration, frame_count, TAM_ROUTING)
    assert 1 <= len(candidates) <= TAM_ROUTING.max_frames
    assert candidates[0] >= 0
    assert candidates[-1] < duration or candidates == (0.0,)
    frames = data.draw(st.integers(1, len(candidates)))
    times = choose_times(candidates, frames)
    assert len(times) == frames
    assert set(times) <= set(candidates)
    assert all(b > a for a, b in pairwise(times))
    if frames > 1:
        assert (times[0], times[-1]) == (candidates[0], candidates[-1])


# --- every rule set ---


@st.composite
def routings(draw):
    """Any ladder of up to five grids whose frames get cheaper, with any preferred grids and limits."""
    rungs = draw(st.integers(1, 5))
    grids = sorted(draw(st.sets(st.integers(1, 40), min_size=rungs, max_size=rungs)), reverse=True)
    costs = sorted(draw(st.sets(st.integers(1, 900), min_size=rungs, max_size=rungs)), reverse=True)
    ladder = tuple(
        Rung(grid=grid, expert=index, tokens_per_frame=cost)
        for index, (grid, cost) in enumerate(zip(grids, costs, strict=True), start=1)
    )
    preferred = {
        field: draw(st.sampled_from(grids))
        for field in ("balanced_grid", "high_grid_short", "high_grid_long", "more_grid")
    }
    numbers = {
        "max_frames": draw(st.integers(1, 150)),
        "frames_per_second": draw(st.floats(0.1, 4)),
        "short_seconds": draw(st.floats(1, 100)),
        "fallback_seconds_per_frame": draw(st.floats(0.5, 60)),
    }
    return TAM_ROUTING.model_copy(update={"ladder": ladder, **preferred, **numbers})


def cost_of(routing: Routing, grid: int) -> int:
    return routing.rung(grid).tokens_per_frame


@given(routing=routings(), group=st.sampled_from(GROUPS), duration=durations, data=st.data())
def test_tokens_fit_and_more_budget_never_gives_fewer(routing, group, duration, data):
    available = len(candidate_times(duration, None, routing))
    budgets = st.integers(routing.ladder[-1].tokens_per_frame, 20_000)
    less, more = sorted((data.draw(budgets), data.draw(budgets)))
    hands = {
        "frames": data.draw(st.none() | st.integers(1, 150)),
        "grid": data.draw(st.none() | st.sampled_from([rung.grid for rung in routing.ladder])),
    }

    def tokens(budget, by_hand):
        if by_hand:
            got = route_by_hand(group, duration, available, budget, routing, **hands)
        else:
            got = route(group, duration, available, budget, routing)
        assert 1 <= got.frames <= min(available, routing.max_frames)
        assert got.expert == routing.rung(got.grid).expert
        return got.frames * cost_of(routing, got.grid)

    for by_hand in (False, True):
        assert tokens(less, by_hand) <= tokens(more, by_hand) <= more
        assert tokens(less, by_hand) <= less


@given(budget=st.integers(132, 30_000), duration=durations, group=st.sampled_from(GROUPS))
def test_one_token_more_never_costs_one(budget, duration, group):
    available = len(candidate_times(duration, None, TAM_ROUTING))
    now, then = (route(group, duration, available, b, TAM_ROUTING) for b in (budget, budget + 1))
    assert now.frames * cost_of(TAM_ROUTING, now.grid) <= then.frames * cost_of(TAM_ROUTING, then.grid)


@given(routing=routings(), duration=durations, frame_count=frame_counts, task=st.integers(0, 7), data=st.data())
def test_every_plan_keeps_its_promises(routing, duration, frame_count, task, data):
    smallest = routing.ladder[-1].tokens_per_frame
    context = data.draw(st.integers(smallest, 30_000))
    limit = data.draw(st.none() | st.integers(smallest, 30_000))
    start = data.draw(st.sampled_from((0.0, 12.5)))
    manifest = manifest_of(routing, context=context + 1500 + 64, max_output_tokens=64)
    info = clip(duration, frame_count, start_seconds=start)
    plan = make_plan(estimate(routing.tasks[task].name), info, manifest, Limits(visual_tokens=limit))
    listed = {start + t for t in candidate_times(duration, frame_count, routing)}
    assert set(plan.timestamps_seconds) <= listed
    assert all(b > a for a, b in pairwise(plan.timestamps_seconds))
    assert plan.visual_tokens == plan.frames * cost_of(routing, plan.grid)
    assert plan.visual_tokens <= plan.token_budget == min(context, limit or context)
    check_plan(plan, info, manifest)
    assert Plan.from_json(json.loads(json.dumps(plan.to_json()))) == plan


# --- what a plan says ---


def nano_like(**changes):
    """The ladder and budget of a nano bundle: 12, 8, 6, 5 and about 600 tokens."""
    ladder = tuple(Rung(grid=g, expert=i, tokens_per_frame=g * g) for i, g in enumerate((12, 8, 6, 5), start=1))
    update = {"ladder": ladder, "balanced_grid": 8, "high_grid_short": 12, "high_grid_long": 12, "more_grid": 5}
    routing = TAM_ROUTING.model_copy(update={**update, "max_visual_tokens": 600, **changes})
    return manifest_of(routing, context=4096, max_output_tokens=64)


def test_reasons_read_like_a_person_explaining():
    plan = make_plan(estimate("OCR and cross-modal"), clip(12.0, 360), nano_like())
    assert plan.reasons == (
        "The question asks what is written, so few frames at fine detail: "
        "4 of 12 possible frames at 12x12 tokens each.",
        "That makes 576 visual tokens; 600 is the most this model was trained on.",
        "One frame every 3.67 s, from 0.00 s to 11.00 s; the clip goes from 0.00 s to 12.00 s.",
    )
    assert plan.rejections == ()


def test_reasons_say_where_detail_gave_way_or_was_free():
    far = make_plan(estimate("OCR and cross-modal"), clip(766.0), manifest_of())
    assert "detail gives way so that enough of the clip is seen: 83 of 120" in far.reasons[0]
    assert [(r.what, r.reason) for r in far.rejections] == [
        ("grid 18", "only 51 frames of it fit into 17452 visual tokens")
    ]
    near = make_plan(estimate("summary"), clip(10.0), manifest_of())
    assert "finer detail costs no frame here: all 10 possible frames at 27x27" in near.reasons[0]


def test_an_image_is_said_to_be_one():
    plan = make_plan(estimate("summary"), IMAGE, manifest_of())
    assert (plan.timestamps_seconds, plan.grid, plan.interval_seconds) == ((0.0,), 27, 0.0)
    assert plan.reasons[-1] == "An image is a clip of one frame."


def test_an_unsure_estimate_takes_the_balanced_row_and_says_so():
    info = clip(300.0)
    sure = make_plan(estimate("summary", 0.2), info, manifest_of())
    unsure = make_plan(estimate("summary", 0.19), info, manifest_of())
    balanced = make_plan(estimate("reasoning"), info, manifest_of())
    assert (sure.frames, sure.grid) == (120, 11)
    assert (unsure.frames, unsure.grid) == (balanced.frames, balanced.grid) == (83, 14)
    assert unsure.phrase == balanced.phrase == "balanced frames and resolution"
    assert unsure.task == "summary"
    assert "fits no task type well (closest: summary, 19%)" in unsure.reasons[0]


def test_a_question_that_was_too_long_to_be_read_whole_is_said_to_be():
    long = TaskEstimate("?", "summary", 0.9, {"summary": 0.9}, unread_tokens=37)
    assert "37 tokens of its middle" in make_plan(long, IMAGE, manifest_of()).reasons[-1]


def test_the_smallest_limit_sets_the_budget_and_is_named():
    assert make_plan(estimate("summary"), IMAGE, manifest_of(), Limits(visual_tokens=2000)).token_budget == 2000
    by_run = make_plan(estimate("summary"), IMAGE, nano_like(), Limits(visual_tokens=500))
    assert "500 is what the limits of this run leave" in by_run.reasons[1]
    by_context = make_plan(estimate("summary"), IMAGE, nano_like(max_visual_tokens=None))
    assert "2,532 is what the context leaves beside text and answer" in by_context.reasons[1]


def test_a_plan_is_the_same_whatever_a_process_predicts_for_it():
    plan = make_plan(estimate("summary"), clip(300.0), manifest_of())
    assert plan.predicted_bytes is None
    told = replace(plan, predicted_bytes={"vision": 1})
    assert told == plan
    assert Plan.from_json(told.to_json()).predicted_bytes == {"vision": 1}


def test_a_window_keeps_the_times_of_its_source():
    info = clip(10.0, start_seconds=60.0)
    plan = make_plan(estimate("summary"), info, manifest_of())
    assert plan.timestamps_seconds == tuple(60.0 + i for i in range(10))
    assert plan.start_seconds == 60.0
    assert plan.reasons[-1].endswith("from 60.00 s to 69.00 s; the clip goes from 60.00 s to 70.00 s.")
    with pytest.raises(UsageError, match=r"60\.00 to 69\.00 s, the clip is 0\.00 to 69\.00 s"):
        check_plan(plan, clip(68.999), manifest_of())
    with pytest.raises(UsageError, match=r"the clip is 61\.00 to 71\.00 s"):
        check_plan(plan, clip(10.0, start_seconds=61.0), manifest_of())


# --- by hand ---


@pytest.mark.parametrize(
    ("limits", "frames", "grid", "said", "rejected"),
    [
        (Limits(frames=30), 30, 18, "frames given by hand: 30 of 78", []),
        (Limits(frames=60), 60, 14, "frames given by hand", []),
        (Limits(grid=27), 23, 27, "grid given by hand: 23 of 78", []),
        (Limits(frames=5, grid=11), 5, 11, "frames and grid given by hand: 5 of 78", []),
        (Limits(frames=200), 78, 14, "all 78", [("200 frames", "the clip's list has 78 times")]),
        (Limits(frames=40, grid=27), 23, 27, "23", [("40 frames", "17452 visual tokens hold 23 at grid 27")]),
        (
            Limits(grid=27, visual_tokens=700),
            2,
            18,
            "2 of 78",
            [("grid 27", "only 0 frames of it fit into 700 visual tokens")],
        ),
    ],
)
def test_frames_and_grid_by_hand_are_followed_as_far_as_they_go(limits, frames, grid, said, rejected):
    plan = make_plan(estimate("summary"), clip(77.43, 2323), manifest_of(), limits)
    assert (plan.frames, plan.grid) == (frames, grid)
    assert said in plan.reasons[0]
    assert [(r.what, r.reason) for r in plan.rejections] == rejected


def test_frames_by_hand_step_the_grid_down_until_they_fit():
    plan = make_plan(estimate("OCR and cross-modal"), clip(77.43, 2323), manifest_of(), Limits(frames=60))
    assert (plan.frames, plan.grid) == (60, 14)
    assert [r.what for r in plan.rejections] == ["grid 18"]


# --- refusals ---


@pytest.mark.parametrize(
    ("limits", "task", "said"),
    [
        (Limits(frames=0), "summary", "ask for at least 1"),
        (Limits(grid=13), "summary", "choose one of 27, 18, 14, 11"),
        (Limits(strategy="magic"), "summary", "'magic' is unknown to this bundle: choose one of tam, linvt"),
        (Limits(visual_tokens=131), "summary", "131 visual tokens are not enough for one frame: 11x11.*132"),
        (Limits(visual_tokens=-5), "summary", "not enough for one frame"),
        (Limits(), "astrology", "'astrology' is unknown to this bundle: choose one of static attributes, "),
    ],
)
def test_what_cannot_be_planned_is_a_usage_error(limits, task, said):
    with pytest.raises(UsageError, match=said) as caught:
        make_plan(estimate(task), clip(77.43), manifest_of(strategies=("tam", "linvt")), limits)
    assert caught.value.exit_code == 2


def test_the_first_strategy_is_the_default():
    manifest = manifest_of(strategies=("linvt", "tam"))
    assert make_plan(estimate("summary"), IMAGE, manifest).strategy == "linvt"
    assert make_plan(estimate("summary"), IMAGE, manifest, Limits(strategy="tam")).strategy == "tam"


def a_plan_json(**changes):
    return make_plan(estimate("summary"), clip(20.0), manifest_of()).to_json() | changes


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ([], "expected a JSON object"),
        ({}, "schema_version 1"),
        (a_plan_json(schema_version=2), "schema_version 1"),
        (a_plan_json(task=3), "task: "),
        (a_plan_json(visual_tokens="many"), "visual_tokens: "),
        (a_plan_json(timestamps_seconds=[]), "timestamps_seconds"),
        (a_plan_json(timestamps_seconds=[1, 1]), "strictly increasing"),
        (a_plan_json(timestamps_seconds=[-1, 1]), "strictly increasing"),
        (a_plan_json(timestamps_seconds=[0, math.nan]), "strictly increasing"),
        (a_plan_json(timestamps_seconds=[0, math.inf]), "strictly increasing"),
    ],
)
def test_a_file_that_is_no_plan_is_refused(value, said):
    with pytest.raises(UsageError, match=said):
        Plan.from_json(value)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"strategy": "magic"}, "'magic' is unknown"),
        ({"grid": 12}, "grid 12 is not on this bundle's ladder"),
        ({"expert": 4}, "another bundle"),
        ({"visual_tokens": 20 * 343}, "another bundle"),
        ({"timestamps_seconds": [0.0, 20.5]}, "looks at 0.00 to 20.50 s"),
        (
            {"grid": None, "expert": None, "visual_tokens": 17453},
            "has 17453 visual tokens, this bundle has room for 17452",
        ),
    ],
)
def test_a_plan_of_another_clip_or_bundle_is_refused(changes, said):
    plan = Plan.from_json(a_plan_json(**changes))
    with pytest.raises(UsageError, match=said):
        check_plan(plan, clip(20.0), manifest_of())


def test_a_plan_with_more_tokens_than_the_model_was_trained_on_is_refused():
    info = clip(20.0)
    plan = make_plan(estimate("summary"), info, nano_like())
    check_plan(plan, info, nano_like(max_visual_tokens=plan.visual_tokens))
    with pytest.raises(UsageError, match=f"has {plan.visual_tokens} visual tokens"):
        check_plan(plan, info, nano_like(max_visual_tokens=plan.visual_tokens - 1))
