"""Which types fit a device: the least measured error per byte saved, and never a coarser type for more memory.

Pure. The steps down are put in one order that does not depend on the memory; how many of them are taken does.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from tam_edge.runtime.budget import DEFAULT_SHARE, MIB, size_text
from tam_edge.runtime.errors import MemoryLimitError

FIXED_BYTES = 250 * MIB
"""What a process holds beside its engines: Python with the runtime's libraries 150 MiB, decoding Full HD 100 MiB."""


@dataclass(frozen=True, slots=True)
class Option:
    """One way to store one part of a bundle."""

    part: str
    """The part: vision, projectors or language."""
    kind: str
    """The type."""
    peak_bytes: int
    """Memory it takes while it runs."""
    error: float
    """Divergence of the next token's probabilities from the original's with only this part changed, in nats."""


@dataclass(frozen=True, slots=True)
class Choice:
    """The types that fit and why."""

    kinds: dict[str, str]
    """Type of every part."""
    needed_bytes: int
    """Predicted peak."""
    limit_bytes: int
    """What it must stay within."""
    reasons: tuple[str, ...]
    """Every step in plain English."""


@dataclass(frozen=True, slots=True)
class Step:
    """From one option of a part to a smaller one."""

    before: Option
    after: Option

    @property
    def saved_bytes(self) -> int:
        """Memory the step saves."""
        return self.before.peak_bytes - self.after.peak_bytes

    @property
    def error(self) -> float:
        """Divergence it adds; noise in the measurement may make it negative."""
        return self.after.error - self.before.error


def ceiling(device_bytes: int) -> int:
    """What a process may take of a device's memory; the rest is the system's."""
    return int(DEFAULT_SHARE * device_bytes)


def choose(options: Mapping[str, Sequence[Option]], other_bytes: int, device_bytes: int) -> Choice:
    """The finest types within `device_bytes`; each part's options go from fine to coarse.

    `other_bytes` is what the parts without a choice take.

    Raises:
        MemoryLimitError: the smallest types do not fit either.
    """
    at = {part: some[0] for part, some in options.items()}
    limit, fixed = ceiling(device_bytes), FIXED_BYTES + other_bytes
    whole = size_text(device_bytes)
    reasons = [f"{whole} of memory, {DEFAULT_SHARE:.0%} of it for this process: {size_text(limit)}"]
    left = steps_down(options)
    while (needed := fixed + sum(option.peak_bytes for option in at.values())) > limit:
        step = next(left, None)
        if step is None:
            message = f"a device with {whole} is too small: the smallest types need {size_text(needed)}, "
            raise MemoryLimitError(limit, needed, message + f"so at least {math.ceil(needed / DEFAULT_SHARE / MIB)}MiB")
        at[step.after.part] = step.after
        reasons.append(
            f"{step.after.part}: {step.before.kind} to {step.after.kind} saves {size_text(step.saved_bytes)} "
            f"for {step.error:+.4f} nats"
        )
    reasons.append(f"fits with {size_text(needed)}")
    return Choice({part: option.kind for part, option in at.items()}, needed, limit, tuple(reasons))


def steps_down(options: Mapping[str, Sequence[Option]]) -> Iterator[Step]:
    """Steps from every part's finest option on, the one with the least error per byte saved first."""
    at = {part: 0 for part in options}
    while True:
        possible = [
            (step.error / step.saved_bytes, -step.saved_bytes, part, index, step)
            for part, some in options.items()
            for index in range(at[part] + 1, len(some))
            if (step := Step(some[at[part]], some[index])).saved_bytes > 0
        ]
        if not possible:
            return
        _, _, part, index, step = min(possible, key=lambda one: one[:4])
        at[part] = index
        yield step
