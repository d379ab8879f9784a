"""The bench of deadlines itself: every run is answered or refused with what would do; what it says of them is true."""

from contextlib import closing

import pytest
from bench_deadline import Bench, Run, describe, random_runs, summary
from make_clips import steady, write_clip
from test_calibration import calibrated  # noqa: F401  a fixture
from tiny_bundle import make_tiny_bundle

from tam_edge.runtime.bundle import load_bundle


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return load_bundle(make_tiny_bundle(tmp_path_factory.mktemp("tiny")))


def test_random_deadlines_are_answered_or_named(bundle, calibrated, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setenv("TAM_EDGE_CACHE", str(calibrated[0]))
    clip = write_clip(tmp_path / "clip.mp4", steady(40, every_ms=250), size_px=(320, 240))
    with closing(Bench(str(bundle.path), 1)) as bench:
        runs = list(random_runs(bench, 4, [str(clip)], seed=1))
    facts = summary(runs)
    assert (facts["runs"], facts["other_failures"]) == (4, 0)
    for first, _ in runs:
        assert first.named_seconds or first.measured_seconds, describe(first)
        if first.predicted_seconds is not None:  # the decision itself, which does not depend on a busy machine
            assert first.predicted_seconds <= first.asked_seconds
        elif first.named_seconds:
            assert first.named_seconds > first.asked_seconds


def test_the_summary_counts_what_it_says():
    def one(asked, measured, tokens=10, limited=True):
        return Run("v", "q", True, asked, measured, None if measured is None else 1.0, tokens, limited, None)

    facts = summary([(one(2.0, 1.0), None), (one(1.0, 2.0, 20), None), (one(1.0, None), one(2.0, 1.0))])
    assert (facts["runs"], facts["answered"], facts["refused"]) == (3, 3, 1)
    assert facts["kept_share"] == pytest.approx(2 / 3)
    assert facts["used_median_where_limited"] == 0.5
    assert facts["fewer_tokens_with_more_time"] == 2  # both runs with 2 s saw less than the one with 1 s
