"""The types that fit a device: pure, explained, and never coarser for more memory."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tam_edge.quant.target import FIXED_BYTES, Option, ceiling, choose, steps_down
from tam_edge.runtime.budget import MIB
from tam_edge.runtime.errors import MemoryLimitError

GIB = 1024 * MIB


@st.composite
def bundles(draw):
    options = {}
    for part in draw(st.sampled_from([("vision",), ("vision", "language"), ("vision", "projectors", "language")])):
        size, error, some = draw(st.integers(1, 16 * 1024)) * MIB, 0.0, []
        for kind in range(draw(st.integers(1, 6))):
            some.append(Option(part, str(kind), size, error))
            size = max(MIB, int(size * draw(st.floats(0.3, 1.1))))
            error = max(0.0, error + draw(st.floats(-0.01, 0.5)))
        options[part] = some
    return options


def chosen(options, device_bytes):
    try:
        return choose(options, 20 * MIB, device_bytes)
    except MemoryLimitError:
        return None


@given(bundles(), st.integers(1, 64 * 1024), st.integers(1, 64 * 1024))
def test_more_memory_never_gives_coarser_types(options, one, other):
    less, more = (chosen(options, size * MIB) for size in sorted((one, other)))
    if less is None:
        return
    assert more is not None
    for part in options:
        assert int(more.kinds[part]) <= int(less.kinds[part])
    for choice, size in ((less, min(one, other)), (more, max(one, other))):
        assert choice.needed_bytes <= choice.limit_bytes == ceiling(size * MIB)


@given(bundles())
def test_what_is_chosen_is_what_is_needed_and_refused_only_where_nothing_fits(options):
    *_, last = [None, *steps_down(options)]
    least = dict.fromkeys(options)
    for part, some in options.items():
        least[part] = some[0].peak_bytes
    for step in steps_down(options):
        least[step.after.part] = step.after.peak_bytes
    smallest = FIXED_BYTES + 20 * MIB + sum(least.values())
    assert (
        chosen(options, int(smallest / 0.8) - MIB) is None or last is None or smallest <= ceiling(int(smallest / 0.8))
    )
    assert chosen(options, int(smallest / 0.8) + MIB) is not None


OPTIONS = {
    "vision": [Option("vision", "as it is", 1600 * MIB, 0.0), Option("vision", "int8", 500 * MIB, 0.001)],
    "language": [
        Option("language", "as it is", 15 * GIB, 0.0),
        Option("language", "Q8_0", 8 * GIB, 0.0004),
        Option("language", "Q6_K", 6 * GIB, 0.002),
        Option("language", "Q4_K_M", 5 * GIB, 0.03),
        Option("language", "worse and larger", 7 * GIB, 0.5),
    ],
}


@pytest.mark.parametrize(
    ("device", "vision", "language"),
    [
        (24, "as it is", "as it is"),
        (16, "as it is", "Q8_0"),
        (10, "as it is", "Q6_K"),
        (9, "int8", "Q6_K"),
        (8, "int8", "Q4_K_M"),
    ],
)
def test_the_cheapest_error_goes_first(device, vision, language):
    choice = choose(OPTIONS, 20 * MIB, device * GIB)
    assert choice.kinds == {"vision": vision, "language": language}
    assert choice.reasons[0].startswith(f"{device}.00 GiB of memory")
    assert choice.reasons[-1].startswith("fits with")


def test_a_device_that_is_too_small_is_told_what_would_do():
    with pytest.raises(MemoryLimitError, match=r"too small: the smallest types need 5\.\d+ GiB, so at least \d+MiB"):
        choose(OPTIONS, 20 * MIB, 4 * GIB)
