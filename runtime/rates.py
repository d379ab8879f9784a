"""What work costs on one device, in milliseconds: the figures that a calibration keeps, and how each is read. Pure.

Kept beside them: what engines hold there, which `figures.py` reads.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

from pydantic import Field, PositiveInt

from tam_edge.runtime.access import FrameAccess, Reach
from tam_edge.runtime.schema import Attention, EngineMemory, Entry, Name, RelativeFile

SCHEMA_VERSION: Literal[2] = 2
PREFILL_CHUNK_TOKENS = 256
"""Tokens that enter a language model per call."""
LEAST_SPREAD = 0.05
"""Margin where repeated measurements agree better than this: they were taken within seconds of each other."""

Milliseconds = Annotated[float, Field(ge=0)]
Slowdown = Annotated[float, Field(ge=0)]


class Line(Entry):
    """A cost that grows with a size."""

    fixed_ms: Milliseconds
    """What it takes at size 0."""
    each_ms: Milliseconds
    """What each unit adds."""

    def at(self, size: float) -> float:
        """Milliseconds at a size."""
        return self.fixed_ms + self.each_ms * size


class ChunkCost(Entry):
    """One run of an encoder."""

    frames: PositiveInt
    """Frames that ran at once."""
    ms: Milliseconds
    """What the run took, all frames together."""


class DecoderCost(Entry):
    """One frame of a codec, decoded."""

    frame_ms: Milliseconds
    """What a frame takes however small it is."""
    megapixel_ms: Milliseconds
    """What a million pixels add."""
    kilobyte_ms: Milliseconds
    """What a thousand bytes of its packet add."""

    def at(self, pixels: float, stored_bytes: float) -> float:
        """Milliseconds for a frame of so many pixels, stored in so many bytes."""
        return self.frame_ms + self.megapixel_ms * pixels / 1e6 + self.kilobyte_ms * stored_bytes / 1e3


class PrefillCost(Entry):
    """Tokens entered into the language model: each attends to all before it, so the cost is not linear."""

    call_ms: Milliseconds
    """What a call takes, of at most 256 tokens."""
    token_ms: Milliseconds
    """What a token adds."""
    pair_ms: Milliseconds
    """What a token adds for each token that stands before it."""

    def at(self, tokens: int, before: int) -> float:
        """Milliseconds for so many tokens behind others."""
        calls = -(-tokens // PREFILL_CHUNK_TOKENS)
        return self.call_ms * calls + self.token_ms * tokens + self.pair_ms * tokens * (before + tokens / 2)


class Rates(Entry):
    """A calibration: one bundle on one device with one number of threads."""

    schema_version: Literal[2] = SCHEMA_VERSION
    """Version of this file."""
    bundle: Name
    """Fingerprint of the bundle."""
    device: Name
    """The machine, its processors and GPUs, and the threads and device that engines were given."""
    made_with: Name
    """Versions of the programs whose speed was measured."""
    measured_at: Name
    """When, as ISO 8601."""
    opening_ms: dict[Name, Milliseconds]
    """Opening an engine, by the manifest field that names it."""
    first_run_ms: dict[Name, Milliseconds]
    """What the first run after opening takes beyond a later one, by the same field."""
    inductor_ms: Milliseconds
    """Task type of one question."""
    resizing: Line
    """One frame made an encoder's input, by millions of pixels."""
    encoding: dict[Name, Annotated[tuple[ChunkCost, ...], Field(min_length=1)]]
    """An encoder's runs by its name, with ever more frames at once."""
    projecting_ms: dict[Name, Milliseconds]
    """Patch features of one frame to visual tokens, by grid; "images" for a crop of a still image."""
    decoding: dict[Name, DecoderCost]
    """Decoding by codec; "image" for still images."""
    converting: Line
    """A decoded frame turned to RGB, by millions of pixels."""
    file_ms: Milliseconds
    """Opening a video file again."""
    packet_ms: Milliseconds
    """Reading a packet that is not decoded."""
    prefill: PrefillCost
    """Tokens into the language model."""
    attending: dict[Name, Milliseconds]
    """How many times longer prefill takes with a way to attend that the model does not choose itself."""
    token: Line
    """One token of the answer, by the tokens that stand before it."""
    beside: dict[Name, Slowdown] = Field(default_factory=dict)
    """How much vision and another thing slow each other down, by that: "decode" or "language". See `schedule.py`."""
    overhead_ms: Milliseconds = 0.0
    """What whole answers took beyond the sum of their stages."""
    spread: dict[Name, Annotated[float, Field(ge=0)]]
    """By how much of the figure measurements exceeded it, by stage; "whole" for whole answers."""
    memory: dict[RelativeFile, EngineMemory] = Field(default_factory=dict)
    """What engines hold on this device, by their file, as the manifest says it of where the bundle was made; those that
    are missing could not be measured."""

    def encoding_ms(self, encoder: str, frames: int, chunk: int) -> float:
        """Milliseconds of an encoder for `frames`, at most `chunk` at once."""
        whole, rest = divmod(frames, chunk)
        curve = self.encoding[encoder]
        return whole * _run_ms(curve, chunk) + (_run_ms(curve, rest) if rest else 0.0)

    def decoding_ms(self, codec: str | None, access: FrameAccess, pixels: float, found: Reach) -> float:
        """Milliseconds until frames are decoded; of a codec that was not measured, the dearest that was."""
        known = self.decoding.get(codec or "")
        costs = [known] if known else [cost for name, cost in self.decoding.items() if name != "image"]
        each = max((cost.at(pixels, access.frame_bytes) for cost in costs), default=0.0)
        return each * found.decoded_frames + self.packet_ms * found.packets

    def attending_factor(self, way: Attention, own: Attention) -> float:
        """How many times longer prefill takes attending in a `way` than in the model's `own`."""
        return 1.0 if way == own else max(1.0, self.attending.get(way, 1.0))

    def margin_ms(self, stages_ms: Mapping[str, float]) -> float:
        """By how much the sum of some stages may be exceeded, by as much as measurements exceeded their figures.

        What single stages are off by is chance, and adds up as such; whole answers show what is off in all of them.
        """
        whole = max(LEAST_SPREAD, self.spread.get("whole", 0.0)) * sum(stages_ms.values())
        return max(whole, math.hypot(*(self.spread.get(name, 0.0) * ms for name, ms in stages_ms.items())))


def _run_ms(curve: Sequence[ChunkCost], frames: int) -> float:
    """Between two measured chunks their chord, beyond them the share of the nearest."""
    above = next((i for i, point in enumerate(curve) if point.frames >= frames), len(curve))
    if above == len(curve):
        return curve[-1].ms * frames / curve[-1].frames
    if above == 0 or curve[above].frames == frames:
        return curve[above].ms
    low, high = curve[above - 1], curve[above]
    return low.ms + (high.ms - low.ms) * (frames - low.frames) / (high.frames - low.frames)
