"""How fast two bundles are, side by side: in turns on the same frames and prompt, so a busy machine slows both."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

from tam_edge.quant.chain import Chain
from tam_edge.quant.samples import Sample

ROUNDS = 7
"""How often each is measured, after one round that is not counted."""
NEW_TOKENS = 16
"""Tokens whose generation is timed."""


def compare_speed(old: Chain, new: Chain, sample: Sample, rounds: int = ROUNDS) -> dict[str, Any]:
    """Median milliseconds per frame and tokens per second of both, and how many times faster the new one is.

    Wall time decides for a person, CPU time says what a busy machine hides; both are given.
    """
    frames, prompt = sample.plan.frames, sample.prompt
    tokens = old.tokens(old.features(sample), sample)
    entered = len(prompt.before) + len(tokens) + len(prompt.after)
    stages: dict[str, tuple[Callable[[Chain], object], int]] = {
        "vision": (lambda chain: chain.features(sample), frames),
        "prefill": (lambda chain: chain.enter(tokens, sample), entered),
        "decode": (lambda chain: _decode(chain, prompt.after[-1]), NEW_TOKENS),
    }
    times: dict[str, dict[str, list[tuple[float, float]]]] = {name: {"old": [], "new": []} for name in stages}
    for turn in range(rounds + 1):
        for name, (work, count) in stages.items():
            for who, chain in (("old", old), ("new", new)):
                wall, cpu = time.perf_counter(), time.process_time()
                work(chain)
                spent = ((time.perf_counter() - wall) / count, (time.process_time() - cpu) / count)
                if turn:
                    times[name][who].append(spent)
    return {
        "rounds": rounds,
        "frames": frames,
        "prompt_tokens": entered,
        "vision_ms_per_frame": _both(times["vision"], lambda seconds: 1000 * seconds),
        "prefill_tokens_per_second": _both(times["prefill"], lambda seconds: 1 / seconds),
        "decode_tokens_per_second": _both(times["decode"], lambda seconds: 1 / seconds),
    }


def _decode(chain: Chain, token: int) -> None:
    for _ in range(NEW_TOKENS):
        chain.append(token)
    chain.shorten(NEW_TOKENS)


def _both(times: dict[str, list[tuple[float, float]]], unit: Callable[[float], float]) -> dict[str, float]:
    wall = {who: [one[0] for one in some] for who, some in times.items()}
    cpu = {who: statistics.median(one[1] for one in some) for who, some in times.items()}
    return {
        "old": _rounded(unit(statistics.median(wall["old"]))),
        "new": _rounded(unit(statistics.median(wall["new"]))),
        "faster": _rounded(_median_ratio(wall["old"], wall["new"])),
        "faster_cpu": _rounded(cpu["old"] / max(cpu["new"], 1e-9)),
    }


def _median_ratio(old: Sequence[float], new: Sequence[float]) -> float:
    return statistics.median(a / b for a, b in zip(old, new, strict=True))


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")
