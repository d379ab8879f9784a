"""Sizes, ceilings and refusals in bytes."""

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tam_edge.runtime.budget import (
    MIB,
    default_limit,
    give_back,
    parse_size,
    peak_resident_bytes,
    resident_bytes,
    size_text,
)
from tam_edge.runtime.device import DeviceProfile
from tam_edge.runtime.errors import UsageError


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("1B", 1),
        ("2KB", 2000),
        ("2KiB", 2048),
        ("900MB", 900_000_000),
        ("900MiB", 900 * 1024**2),
        (" 2 GiB ", 2 * 1024**3),
        ("1.5GB", 1_500_000_000),
        ("2gib", 2 * 1024**3),
        ("0.5KiB", 512),
    ],
)
def test_sizes_are_read_with_their_unit(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text",
    [
        "",
        "900",
        "MiB",
        "-1GiB",
        "0MiB",
        "0.1B",
        "1TiB",
        "1G",
        "1 Gi B",
        "1e3MiB",
        "nanMiB",
        "1,5GiB",
        "٣GiB",
        "9" * 99 + "B",
    ],
)
def test_what_is_no_size_is_a_usage_error(text):
    with pytest.raises(UsageError, match="is no memory size: write a number and a unit"):
        parse_size(text)


@given(st.integers(1, 10**15 - 1))
def test_every_number_of_bytes_is_a_size(count):
    assert parse_size(f"{count}B") == count


def test_without_a_ceiling_it_is_most_of_what_could_be_had_and_says_so():
    device = DeviceProfile("board", 2, memory_total_bytes=8 << 30, memory_free_bytes=4 << 30, gpus=())
    limit = default_limit(device)
    held = limit.limit_bytes / 0.8 - (4 << 30)
    assert held == pytest.approx(resident_bytes(), rel=0.2)
    assert limit.source == f"80% of the {size_text((4 << 30) + int(held))} that are free now or already held"


def test_the_peak_remembers_what_was_given_back():
    code = """if True:
        from tam_edge.runtime.budget import peak_resident_bytes, resident_bytes
        before = peak_resident_bytes()
        block = b"x" * (96 << 20)
        held = resident_bytes()
        del block
        print(before, held, resident_bytes(), peak_resident_bytes())
    """
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    before, held, after, peak = map(int, run.stdout.split())
    assert held - before > 80 * MIB
    assert held - after > 80 * MIB
    assert peak >= held - 8 * MIB
    assert peak_resident_bytes() >= 8 * MIB


def test_sizes_are_written_as_a_person_would():
    assert [size_text(size) for size in (0, MIB // 2, 900 * MIB, 3 << 29)] == [
        "0.0 MiB",
        "0.5 MiB",
        "900.0 MiB",
        "1.50 GiB",
    ]


def test_freed_memory_is_given_back():
    """In a process of its own: blocks too small to be mapped one by one, and held by a reference cycle."""
    code = """if True:
        from tam_edge.runtime.budget import give_back, resident_bytes
        class Knot: pass
        give_back()
        before = resident_bytes()
        knot = Knot()
        knot.blocks, knot.self = [bytes(50_000) for _ in range(1000)], knot
        pin = [bytes(50_000)]
        held = resident_bytes()
        del knot
        give_back()
        print(before, held, resident_bytes())
    """
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    before, held, after = map(int, run.stdout.split())
    assert held - before > 40 * MIB
    assert after - before < 4 * MIB
    give_back()
