"""What was looked at before is preferred only where the rules leave a choice and nothing is lost by it."""

from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tam_edge.runtime.bundle import default_bundle_path
from tam_edge.runtime.frames import VideoInfo
from tam_edge.runtime.inductor import TaskEstimate
from tam_edge.runtime.manifest import Manifest
from tam_edge.runtime.plan import Limits, make_plan
from tam_edge.runtime.preference import PLANS_REMEMBERED, SeenPlans, prefer_seen
from tam_edge.runtime.routing import TAM_ROUTING

NANO = Manifest.model_validate_json(Path(default_bundle_path(), "manifest.json").read_text(encoding="utf-8"))
TASKS = [rule.name for rule in NANO.routing.tasks]
FREE = Limits()
BALANCED, MORE, HIGH = "reasoning", "summary", "OCR and cross-modal"


LANGUAGE = NANO.language.model_copy(update={"context": 21000, "max_output_tokens": 2048})
PROJECTORS = dict.fromkeys((rung.grid for rung in TAM_ROUTING.ladder), NANO.projectors[12])
TAM = NANO.model_copy(update={"routing": TAM_ROUTING, "language": LANGUAGE, "projectors": PROJECTORS})
MANIFESTS = {"nano": NANO, "tam": TAM}


def estimate(task, confidence=0.9):
    others = (1 - confidence) / (len(TASKS) - 1)
    return TaskEstimate("q", task, confidence, {name: confidence if name == task else others for name in TASKS})


def clip(seconds):
    return VideoInfo("v", "video", float(seconds), int(seconds * 8), 336, 336, 8.0, "h264", "id")


def plan(task, seconds, *, confidence=0.9, limits=FREE):
    return make_plan(estimate(task, confidence), clip(seconds), NANO, limits)


def prefer(task, seconds, seen, *, confidence=0.9, limits=FREE, **options):
    ruled = plan(task, seconds, confidence=confidence, limits=limits)
    found = prefer_seen(ruled, estimate(task, confidence), clip(seconds), NANO, limits, seen, **options)
    return ruled, found


def longest_gap(plan):
    end = plan.start_seconds + plan.duration_seconds
    return max(b - a for a, b in pairwise((plan.start_seconds, *plan.timestamps_seconds, end)))


# ---- what is preferred


def test_a_balanced_plan_takes_its_frames_from_many_that_were_looked_at():
    summary = plan(MORE, 100)
    ruled, found = prefer(BALANCED, 100, [summary])
    assert not set(ruled.timestamps_seconds) <= set(summary.timestamps_seconds)
    assert set(found.timestamps_seconds) <= set(summary.timestamps_seconds)
    assert (found.frames, found.grid, found.visual_tokens) == (ruled.frames, ruled.grid, ruled.visual_tokens)
    assert longest_gap(found) <= longest_gap(ruled)
    assert "taken from those of an earlier question" in found.reasons[1]
    assert (found.reasons[0], len(found.reasons)) == (ruled.reasons[0], 4)


def test_the_rules_own_frames_are_taken_where_each_of_them_was_looked_at():
    own = plan(BALANCED, 100)
    ruled, found = prefer(BALANCED, 100, [plan(MORE, 100), own])
    assert (found is ruled, found.timestamps_seconds) == (True, own.timestamps_seconds)


def test_frames_that_would_be_worse_spread_are_not_taken():
    """24 of 32 seconds: eight steps of three seconds and one look at every fourth would leave four unseen."""
    ruled, found = prefer(BALANCED, 32, [plan(MORE, 32)])
    assert found is ruled


def test_an_unsure_question_takes_the_plan_of_the_closest_task_type():
    signs = plan(HIGH, 100)
    ruled, found = prefer(HIGH, 100, [plan(MORE, 100), signs], confidence=0.5)
    assert ruled.grid != signs.grid
    assert (found.timestamps_seconds, found.grid, found.phrase) == (signs.timestamps_seconds, signs.grid, signs.phrase)
    assert (found.task, found.confidence, found.probabilities) == (ruled.task, 0.5, ruled.probabilities)
    assert "closest task type asks for" in found.reasons[1]


def test_a_plan_beyond_the_budget_is_taken_only_while_it_is_in_the_language_model():
    whole, tight = plan(BALANCED, 100), Limits(visual_tokens=300)
    ruled, found = prefer(BALANCED, 100, [whole], limits=tight, last_in_model=True)
    assert found.visual_tokens == whole.visual_tokens > 300 >= ruled.visual_tokens
    assert "no fewer frames, and none coarser" in found.reasons[1]
    _, elsewhere = prefer(BALANCED, 100, [plan(MORE, 100), whole], limits=tight, last_in_model=True)
    assert elsewhere.visual_tokens <= 300
    _, gone = prefer(BALANCED, 100, [whole], limits=tight)
    assert gone.visual_tokens <= 300


def test_a_sure_question_with_a_row_of_its_own_has_no_choice_unless_it_follows_up():
    """The rules' own plan of a smaller budget against the larger one that is there: finer and with as many frames."""
    whole, tight = plan(MORE, 100), Limits(visual_tokens=300)
    ruled, found = prefer(MORE, 100, [whole], limits=tight, last_in_model=True)
    assert found is ruled
    ruled, found = prefer(MORE, 100, [whole], limits=tight, last_in_model=True, follow_up=True)
    assert (found.timestamps_seconds, found.frames > ruled.frames) == (whole.timestamps_seconds, True)


@pytest.mark.parametrize("limits", [Limits(frames=9), Limits(grid=8), Limits(frames=24, grid=5)])
def test_what_is_given_by_hand_is_never_replaced(limits):
    for task in TASKS:
        for confidence in (0.3, 0.9):
            ruled, found = prefer(task, 100, [plan(MORE, 100), plan(HIGH, 100)], confidence=confidence, limits=limits)
            assert found is ruled


def test_another_part_of_the_clip_or_another_strategy_is_no_earlier_plan():
    ruled = plan(BALANCED, 100)
    for seen in (plan(MORE, 101), make_plan(estimate(MORE), clip(100), NANO)):
        other = seen if seen.duration_seconds == 101 else type(seen).from_json({**seen.to_json(), "strategy": "other"})
        assert prefer_seen(ruled, estimate(BALANCED), clip(100), NANO, Limits(), [other]) is ruled


# ---- for all questions


questions = st.tuples(st.sampled_from(TASKS), st.sampled_from((0.15, 0.3, 0.5, 0.68, 0.69, 0.95)))


@given(
    st.floats(0.5, 900),
    st.lists(questions, min_size=1, max_size=12),
    st.sampled_from(sorted(MANIFESTS)),
    st.lists(st.sampled_from((None, 250, 400, 1000, 9000)), min_size=12, max_size=12),
)
def test_what_is_preferred_is_as_good_and_the_same_every_time(seconds, asked, bundle, budgets):
    manifest = MANIFESTS[bundle]

    def converse():
        seen = SeenPlans()
        for (task, confidence), tokens in zip(asked, budgets, strict=False):
            info, limits, guess = clip(seconds), Limits(visual_tokens=tokens), estimate(task, confidence)
            ruled = make_plan(guess, info, manifest, limits)
            earlier = seen.of("id")
            found = prefer_seen(ruled, guess, info, manifest, limits, earlier, last_in_model=bool(earlier))
            seen.add("id", found)
            yield ruled, found, earlier, guess

    for ruled, found, earlier, guess in converse():
        if found is ruled:
            continue
        rule, sure = manifest.routing.rule(guess.task), guess.confidence >= manifest.routing.confidence_threshold
        assert rule.group == "balanced" or not sure
        assert any(set(found.timestamps_seconds) <= set(plan.timestamps_seconds) for plan in earlier)
        assert found.visual_tokens <= ruled.token_budget or found.timestamps_seconds == earlier[0].timestamps_seconds
        assert (found.task, found.confidence) == (ruled.task, ruled.confidence)
        if not sure and "closest task type" in found.reasons[1]:
            continue
        assert found.frames >= ruled.frames
        assert found.grid >= ruled.grid
        assert found.visual_tokens >= ruled.visual_tokens
        assert longest_gap(found) <= longest_gap(ruled) + 1e-6
    assert [found for _, found, _, _ in converse()] == [found for _, found, _, _ in converse()]


def test_plans_are_remembered_once_the_last_first_and_not_forever():
    seen = SeenPlans()
    first, second = plan(MORE, 100), plan(HIGH, 100)
    for one in (first, second, first):
        seen.add("a", one)
    seen.add("b", second)
    assert (seen.of("a"), seen.of("b"), seen.of("c")) == ([first, second], [second], [])
    for seconds in range(100, 100 + PLANS_REMEMBERED):
        seen.add("c", plan(MORE, seconds))
    assert (seen.of("a"), len(seen.of("c"))) == ([], PLANS_REMEMBERED)
