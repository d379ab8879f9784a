"""What is let go of: memory is bounded, the newest stay, spacing grows with age at most, every age stays covered."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tam_edge.runtime.live.thinning import let_go, past, worst_share
from tam_edge.runtime.live.window import Window, WindowVideo
from tam_edge.runtime.routing import choose_times, spread_times

GAPS = st.lists(st.one_of(st.floats(1.0, 1.5), st.floats(1.0, 40.0)), min_size=1, max_size=400)


def kept_after(gaps, most, horizon):
    """Times of the kept frames of a stream with such `gaps` between frames, and every time there was."""
    times, everything, now = [], [], 0.0
    for gap in gaps:
        now += gap
        everything.append(now)
        times.append(now)
        del times[: past(times, now, horizon)]
        if len(times) > most:
            del times[let_go(times, now)]
        check(times, everything, most, horizon, now)
    return times


def check(times, everything, most, horizon, now):
    assert len(times) <= most
    assert times[-1] == now
    assert all(now - time < horizon for time in times[1:])
    between = dict(pairwise(everything))  # what the source itself left between a frame and the next
    share = worst_share(most + 1, now - times[0], min(1.0, now))
    for earlier, later in pairwise(times):
        assert later - earlier <= max(between[earlier], share * (now - earlier)) + 1e-9
    if everything[0] > now - horizon:
        assert times[0] == everything[0]  # nothing that may be asked about is lost at the far end
    else:
        assert times[0] <= now - horizon + max(between.get(times[0], 0), share * (now - times[0])) + 1e-9


@given(GAPS, st.integers(4, 40), st.floats(5.0, 600.0))
def test_any_stream_stays_covered_in_bounded_memory(gaps, most, horizon):
    kept_after(gaps, most, horizon)


def test_spacing_is_proportional_to_age_in_the_long_run():
    times = kept_after([1.0] * 4000, 60, 3600.0)
    ages = [4000.0 - time for time in times]
    share = worst_share(61, 3601.0, 1.0)
    assert share < 0.25
    assert ages[0] >= 3600.0 * (1 - share)
    assert [age for age in ages if age <= 4] == [4, 3, 2, 1, 0]
    assert all(a - b <= max(1.0, share * a) for a, b in pairwise(ages))


def test_what_fits_is_all_kept():
    assert kept_after([1.0] * 500, 602, 600.0) == [float(i) for i in range(1, 501)]


@given(st.lists(st.floats(0.01, 50.0), min_size=1, max_size=200), st.integers(1, 130))
def test_times_that_are_spread_are_distinct_and_span_all(gaps, frames):
    candidates = tuple(float(time) for time in np.cumsum(gaps))
    frames = min(frames, len(candidates))
    times = spread_times(candidates, frames)
    assert len(times) == frames
    assert set(times) <= set(candidates)
    assert all(a < b for a, b in pairwise(times))
    if frames > 1:
        assert (times[0], times[-1]) == (candidates[0], candidates[-1])


@pytest.mark.parametrize("frames", [1, 2, 9, 27, 60])
def test_even_candidates_are_spread_as_those_of_a_file(frames):
    candidates = tuple(float(i) for i in range(60))
    spread, chosen = spread_times(candidates, frames), choose_times(candidates, frames)
    assert all(abs(a - b) <= 1 for a, b in zip(spread, chosen, strict=True))


# ---- the window


@pytest.fixture
def window():
    return Window(8, 60.0, (4, 3), "eye")


def fill(window, count):
    for at in range(count):
        window.add(float(at), np.full((4, 3), at, np.float32), f"picture {at}".encode())


def test_every_time_has_its_own_features_and_picture(window):
    fill(window, 100)
    times = window.times()
    assert len(times) <= 8
    assert times[-1] == 99
    for time in times:
        assert window.features(time).shape == (1, 4, 3)
        assert (window.features(time) == time).all()
        assert window.picture(time) == f"picture {time:.0f}".encode()
    gone = next(time for time in map(float, range(40, 99)) if time not in times)
    with pytest.raises(KeyError):
        window.picture(gone)


def test_a_window_as_a_video_brings_its_features_and_only_its_times(window):
    fill(window, 30)
    video = WindowVideo(window, "camera 0", 5.0, 29.5, (240, 320))
    times = window.times(5.0)
    assert video.info.times_seconds == times
    assert (video.info.start_seconds, video.info.duration_seconds) == (5.0, 24.5)
    found = video.features.get(video.info.identity, times[2], "eye")
    assert (found.values == times[2]).all()
    assert (found.sources, found.timestamps_seconds.tolist()) == (("camera 0",), [times[2]])
    assert video.features.get(video.info.identity, times[2], "clip") is None


def test_two_windows_are_never_taken_for_the_same_video(window):
    fill(window, 3)
    first, second = (WindowVideo(window, "camera 0", 0.0, 3.0, (1, 1)) for _ in range(2))
    assert first.info.identity != second.info.identity
