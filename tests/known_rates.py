"""A calibration with small, telling figures for `tiny_bundle`, so that predictions can be worked out by hand."""

from __future__ import annotations

from tiny_bundle import LADDER

from tam_edge.runtime.rates import ChunkCost, DecoderCost, Line, PrefillCost, Rates


def known_rates(**changes) -> Rates:
    """Every role, grid and codec that a tiny bundle can need."""
    roles = ["inductor.engines", "encoders.eye.engines", "language.engines"]
    roles += [f"projectors.{grid}.engines" for grid in LADDER]
    figures = {
        "bundle": "b",
        "device": "d",
        "made_with": "m",
        "measured_at": "2026-01-01T00:00:00+00:00",
        "opening_ms": dict.fromkeys(roles, 10.0),
        "first_run_ms": dict.fromkeys(roles, 1.0),
        "inductor_ms": 2.0,
        "resizing": Line(fixed_ms=1.0, each_ms=10.0),
        "encoding": {"eye": tuple(ChunkCost(frames=n, ms=20.0 + 30.0 * n) for n in (1, 2, 4, 8))},
        "projecting_ms": {str(grid): float(grid) for grid in LADDER},
        "decoding": {
            "h264": DecoderCost(frame_ms=0.1, megapixel_ms=1.0, kilobyte_ms=0.01),
            "hevc": DecoderCost(frame_ms=0.2, megapixel_ms=2.0, kilobyte_ms=0.02),
            "image": DecoderCost(frame_ms=1.0, megapixel_ms=10.0, kilobyte_ms=0.0),
        },
        "converting": Line(fixed_ms=0.1, each_ms=1.0),
        "file_ms": 3.0,
        "packet_ms": 0.01,
        "prefill": PrefillCost(call_ms=1.0, token_ms=0.5, pair_ms=0.001),
        "attending": {"flash": 1.2, "q8_0": 1.5},
        "token": Line(fixed_ms=4.0, each_ms=0.001),
        "overhead_ms": 5.0,
        "spread": {"vision": 0.1, "prefill": 0.1, "whole": 0.1},
    }
    return Rates(**{**figures, **changes})
