import pytest
from hypothesis import given
from hypothesis import strategies as st

from tam_edge.runtime.duration import duration_seconds, duration_text
from tam_edge.runtime.errors import UsageError


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("3s", 3), ("800ms", 0.8), (" 1.5 S ", 1.5), ("2min", 120), ("1.5 h", 5400), (0.25, 0.25), (7, 7)],
)
def test_lengths_of_time_are_read(text, seconds):
    assert duration_seconds(text, "last") == pytest.approx(seconds)


@pytest.mark.parametrize(
    "text", ["", "3", "s", "-1s", "0s", "1d", "soon", "nan", "3s3s", 0, -1.0, float("inf"), float("nan")]
)
def test_what_is_none_is_refused_with_an_example(text):
    with pytest.raises(UsageError, match=r"^a deadline cannot be .*: write a number and a unit, such as 3s or 800ms$"):
        duration_seconds(text, "a deadline", "3s or 800ms")


@given(st.integers(1, 10**9).map(lambda ms: ms / 1000))
def test_what_is_written_is_read_again(seconds):
    assert duration_seconds(duration_text(seconds), "last") == pytest.approx(seconds, rel=1e-5)
