"""Shares and paired differences with bootstrap intervals over videos."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tam_edge.models.evaluate.intervals import count, difference, share

OUTCOMES = st.lists(st.tuples(st.integers(0, 7), st.booleans()), min_size=1, max_size=60)


@given(OUTCOMES)
def test_a_share_lies_in_its_interval_and_is_found_again(outcomes: list[tuple[int, bool]]) -> None:
    found = share(count(outcomes, 8))
    low, high = found["ci95"]
    assert found["questions"] == len(outcomes)
    assert found["share"] == pytest.approx(np.mean([hit for _, hit in outcomes]), abs=1e-4)
    assert 0 <= low <= found["share"] + 1e-4 and found["share"] - 1e-4 <= high <= 1
    assert found == share(count(outcomes, 8))


def test_nothing_to_hit_has_no_share() -> None:
    assert share(count([], 3)) == {"share": None, "ci95": None, "questions": 0}
    some = count([(0, True)], 3)
    assert difference(some, count([], 3)) == {"difference": None, "difference_ci95": None, "counts": False}


def test_questions_of_one_video_go_together() -> None:
    """Ten videos, each all right or all wrong, say as little as ten questions do."""
    together = count([(video, video % 2 == 0) for video in range(10) for _ in range(20)], 10)
    alone = count([(video, video % 2 == 0) for video in range(200)], 200)
    (low, high), (lower, higher) = share(together)["ci95"], share(alone)["ci95"]
    assert high - low > 3 * (higher - lower)


def test_an_interval_covers_the_truth_19_times_of_20() -> None:
    rng, covered = np.random.default_rng(5), 0
    for _ in range(100):
        chance = rng.beta(6, 4, 60)  # of a right answer, video by video; 60% over all
        counts = np.stack([rng.binomial(25, chance), np.full(60, 25)], axis=1).astype(float)
        low, high = share(counts)["ci95"]
        covered += low <= 0.6 <= high
    assert 88 <= covered <= 100


def test_a_single_video_says_nothing_about_others() -> None:
    right, wrong = count([(3, True)] * 9, 5), count([(3, False)] * 9, 5)
    assert difference(right, wrong) == {"difference": 1.0, "difference_ci95": [1.0, 1.0], "counts": False}
    right, wrong = right + count([(1, True)], 5), wrong + count([(1, False)], 5)
    assert difference(right, wrong)["counts"]


def test_equal_arms_do_not_differ() -> None:
    counts = count([(video, (video * 7 + k) % 3 > 0) for video in range(30) for k in range(9)], 30)
    assert difference(counts, counts) == {"difference": 0.0, "difference_ci95": [0.0, 0.0], "counts": False}


def test_a_paired_difference_shows_what_two_intervals_hide() -> None:
    """Videos differ far more among themselves than the arms do, which lose one answer in every third video."""
    rng = np.random.default_rng(1)
    right = rng.integers(2, 20, 60)
    before = np.stack([right, np.full(60, 20)], axis=1).astype(float)
    after = before - np.stack([np.arange(60) % 3 == 0, np.zeros(60)], axis=1)
    found = difference(after, before)
    low, high = found["difference_ci95"]
    assert found["difference"] == pytest.approx(-20 / 1200, abs=1e-4)
    assert low < found["difference"] < high < 0 and found["counts"]
    assert share(after)["ci95"][1] > share(before)["ci95"][0]
    reverse = difference(before, after)
    assert reverse["difference_ci95"] == [pytest.approx(-high, abs=1e-4), pytest.approx(-low, abs=1e-4)]


def test_a_video_without_such_a_question_takes_no_part() -> None:
    few = count([(2, True), (5, False), (5, True)], 9)
    found = share(few)
    assert found["share"] == pytest.approx(2 / 3, abs=1e-4)
    assert found["ci95"][0] >= 0.5 and found["ci95"][1] == 1.0
