"""Before a deadline: which plan is taken, what is refused, and that more time never gives fewer visual tokens."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from known_rates import known_rates
from test_costs import ACCESS, VIDEO
from test_footprint import with_memory
from tiny_bundle import make_tiny_bundle

from tam_edge.runtime.budget import MIB, MemoryLimit
from tam_edge.runtime.bundle import load_bundle
from tam_edge.runtime.calibration import Calibrated
from tam_edge.runtime.ceiling import Setting, admit
from tam_edge.runtime.costs import State, predict
from tam_edge.runtime.deadline import Option, best_in_time, checked_deadline, smaller_plans
from tam_edge.runtime.duration import duration_seconds, duration_text
from tam_edge.runtime.errors import DeadlineError, MemoryLimitError
from tam_edge.runtime.footprint import Case, Thrift
from tam_edge.runtime.inductor import TaskEstimate
from tam_edge.runtime.plan import Limits, make_plan
from tam_edge.runtime.standing import Standing

QUESTION = "how many people?"
SPENT_MS = 50.0
LONG = replace(VIDEO, duration_seconds=600.0, frame_count=15000)


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    def change(values):
        with_memory(values)
        values["language"]["context"] = 1_000_000
        values["routing"] |= {"max_visual_tokens": 1_000, "max_frames": 60}

    return load_bundle(make_tiny_bundle(tmp_path_factory.mktemp("tiny"), change=change)).manifest


class Asked:
    """One question about one clip below one ceiling, as `admission.py` puts it to the decision."""

    def __init__(self, manifest, info=LONG, task="summary", mib=10_000, rates=None, **wishes):
        self.manifest, self.info, self.rates = manifest, info, rates or known_rates()
        self.estimate, self.wishes = TaskEstimate(QUESTION, task, 0.9, {task: 0.9}), Limits(**wishes)
        held = Standing(100 * MIB, peak_bytes=101 * MIB, threads=2)
        self.setting = Setting(manifest, held, info, MemoryLimit(int(mib * MIB), "as given"))

    def plan(self, tokens=None, frames=None):
        limits = replace(self.wishes, visual_tokens=tokens, most_frames=frames)
        return make_plan(self.estimate, self.info, self.manifest, limits)

    @staticmethod
    def case(plan):
        return Case(plan.visual_tokens, plan.frames, plan.grid, before_tokens=5, room_tokens=56)

    def option(self, plan_within, least):
        found = admit(self.setting, plan_within, self.case, least, Thrift())
        state = State(frozenset(), found.plan.timestamps_seconds, 40)
        case = self.case(found.plan)
        return Option(found, predict(self.rates, self.manifest, self.info, found.plan, case, found.thrift, state))

    def wanted(self):
        return self.option(self.plan, self.manifest.least_visual_tokens)

    def others(self, wanted):
        by_hand = self.wishes.frames is not None or self.wishes.grid is not None
        least = self.manifest.least_visual_tokens
        plans = smaller_plans(wanted.plan, lambda t, f: (self.plan(t, f),), least, by_hand=by_hand)
        for plan in plans:
            try:
                yield self.option(lambda _, plan=plan: plan, plan.visual_tokens)
            except MemoryLimitError:
                continue

    def within(self, seconds):
        wanted = self.wanted()
        return best_in_time(seconds, lambda: SPENT_MS, wanted, self.others(wanted))

    def range_seconds(self):
        """From a little less than the quickest plan takes to a little more than the whole one does."""
        wanted = self.wanted()
        quickest = min(option.prediction.safe_ms for option in (wanted, *self.others(wanted)))
        return 0.9 * (SPENT_MS + quickest) / 1000, 1.1 * (SPENT_MS + wanted.prediction.safe_ms) / 1000


tasks = st.sampled_from(["summary", "static attributes", "reasoning"])
clips = st.sampled_from([(10.0, 250), (60.0, 1500), (600.0, 15000), (7200.0, 180000)])
slow_text, slow_eye = (
    {"prefill": {"call_ms": 1.0, "token_ms": 20.0, "pair_ms": 0.01}},
    {"encoding": {"eye": [{"frames": 1, "ms": 900.0}]}},
)
speeds = st.sampled_from([{}, slow_text, slow_eye])


@settings(max_examples=40)
@given(tasks, clips, speeds, st.floats(0, 1), st.floats(0, 1), st.sampled_from([10_000, 190, 165]), st.booleans())
def test_more_time_never_gives_fewer_visual_tokens(manifest, task, clip, speed, low, high, mib, seekable):
    seconds, count = clip
    video = replace(LONG, duration_seconds=seconds, frame_count=count, access=replace(ACCESS, seekable=seekable))
    rates = known_rates().model_validate({**known_rates().model_dump(), **speed})
    asked = Asked(manifest, video, task, mib, rates)
    least, most = asked.range_seconds()
    found = []
    for share in sorted((low, high)):
        deadline = least * (most / least) ** share
        try:
            option = asked.within(deadline)
        except DeadlineError as error:
            assert not found, f"{deadline} s are refused, less is not"
            assert error.needed_seconds > deadline
            continue
        assert SPENT_MS + option.prediction.safe_ms <= 1000 * deadline
        assert max(option.plan.predicted_bytes.values()) <= mib * MIB
        found.append(option.plan)
    if len(found) == 2:
        assert found[0].visual_tokens <= found[1].visual_tokens


@settings(max_examples=20)
@given(tasks, clips, speeds)
def test_the_deadline_that_a_refusal_names_is_enough_and_hardly_more(manifest, task, clip, speed):
    seconds, count = clip
    rates = known_rates().model_validate({**known_rates().model_dump(), **speed})
    asked = Asked(manifest, replace(LONG, duration_seconds=seconds, frame_count=count), task, rates=rates)
    with pytest.raises(DeadlineError) as caught:
        asked.within(0.001)
    named = caught.value.needed_seconds
    assert str(caught.value).endswith(f"allow at least {duration_text(named)}")
    asked.within(duration_seconds(duration_text(named), "a deadline"))
    with pytest.raises(DeadlineError):
        asked.within(0.8 * named)


def test_with_plenty_of_time_nothing_is_given_up(manifest):
    asked = Asked(manifest)
    assert asked.within(1000) == asked.wanted()


def test_what_was_given_up_is_said_with_the_time_it_would_have_needed(manifest):
    asked = Asked(manifest)
    _, most = asked.range_seconds()
    plan, whole = asked.within(0.5 * most).plan, asked.wanted()
    [said] = [rejection for rejection in plan.rejections if rejection.needed_ms is not None]
    assert said.what == f"{whole.plan.visual_tokens:,} visual tokens of {whole.plan.frames} frames"
    assert said.needed_ms == pytest.approx(SPENT_MS + whole.prediction.safe_ms, abs=0.01)
    assert f"{plan.visual_tokens:,} visual tokens of {plan.frames} frames fit into" in said.reason


def test_frames_go_where_frames_cost_and_detail_where_tokens_do(manifest):
    """Half the time: on a device that is slow at vision fewer frames, each as closely as the budget allows."""
    found = {}
    for name, speed in (("eye", slow_eye), ("text", slow_text)):
        rates = known_rates().model_validate({**known_rates().model_dump(), **speed})
        asked = Asked(manifest, replace(LONG, duration_seconds=60.0, frame_count=1500), "reasoning", rates=rates)
        _, most = asked.range_seconds()
        found[name] = asked.within(0.5 * most).plan
    assert found["eye"].frames < found["text"].frames or found["eye"].visual_tokens > found["text"].visual_tokens


def test_frames_by_hand_are_followed_as_far_as_time_allows(manifest):
    asked = Asked(manifest, frames=8, grid=4)
    _, most = asked.range_seconds()
    plan = asked.within(0.6 * most).plan
    assert plan.grid == 4 and 1 <= plan.frames < 8


def test_a_given_plan_is_kept_or_refused(manifest):
    wanted = Asked(manifest).wanted()
    with pytest.raises(DeadlineError, match="allow at least"):
        best_in_time(0.01, lambda: 0.0, wanted, [])
    assert best_in_time(1000, lambda: 0.0, wanted, []) is wanted


def test_without_a_calibration_a_deadline_is_refused_with_the_command_to_run():
    assert checked_deadline(None, Calibrated(None)) is None
    with pytest.raises(DeadlineError, match="run tam-edge doctor --calibrate once") as caught:
        checked_deadline("3s", Calibrated(None))
    assert (caught.value.exit_code, caught.value.needed_seconds) == (1, None)
    with pytest.raises(DeadlineError, match="it is odd"):
        checked_deadline("3s", Calibrated(None, "it is odd"))
