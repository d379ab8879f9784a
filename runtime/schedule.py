"""Which stages run beside each other, and what that saves: the decision and its prediction. Pure.

Decoding runs ahead of vision by one chunk, and the language model opens while vision runs. Where vision uses every core
already little or nothing is gained, so `tam-edge doctor --calibrate` measures how much two things slow each other down:
1 is not at all, 2 is as slow as one after the other. On a device that is not calibrated decoding runs ahead where there
are two cores, and nothing else is done: by `make bench-overlap`, on two cores, the one was no slower where decoding is
cheap and a fifth faster at 1080p; the other made no difference.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

WORTHWHILE_SLOWDOWN = 1.7
"""Above this what could be gained is within what measurements are off by."""
NO_GAIN = 2.0
LEAST_THREADS = 2


@dataclass(frozen=True, slots=True)
class Work:
    """What there is to do until visual tokens are there, in milliseconds of one thing after the other."""

    decode_ms: float
    """All frames."""
    vision_ms: float
    """All frames."""
    chunks: int
    """Chunks that they come in, of about one size."""
    opening_ms: float
    """Opening the encoder, while the first chunk may be decoded."""
    language_ms: float
    """Opening the language model; 0 where it is open."""


@dataclass(frozen=True, slots=True)
class Overlap:
    """What runs beside vision."""

    decode_ahead: bool = False
    """Whether the next chunk is decoded while one is encoded."""
    language_beside: bool = False
    """Whether the language model is opened."""


def worthwhile(slowdowns: Mapping[str, float] | None, *, threads: int, decoded: bool) -> Overlap:
    """What is faster, by measured slowdowns, or by the number of threads where the device is not calibrated (None).

    `threads` are those of the engines, no more than there are cores; `decoded`: frames come out of a video file.
    """
    if threads < LEAST_THREADS:
        return Overlap()
    if slowdowns is None:
        return Overlap(decode_ahead=decoded)
    ahead = slowdowns.get("decode", NO_GAIN) <= WORTHWHILE_SLOWDOWN
    return Overlap(decoded and ahead, slowdowns.get("language", NO_GAIN) <= WORTHWHILE_SLOWDOWN)


def slowdown(alone_ms: float, other_ms: float, together_ms: float) -> float:
    """How much two things slow each other down that take so long by themselves, and so long when begun at once."""
    shorter, longer = sorted((alone_ms, other_ms))
    return max(1.0, (together_ms - (longer - shorter)) / max(shorter, 1e-3))


def saved_ms(work: Work, overlap: Overlap, slowdowns: Mapping[str, float]) -> float:
    """How many milliseconds sooner the visual tokens are there and the language model is open.

    The shorter of two things that run beside each other is hidden behind the longer, but for what it slows that down.
    The language model, opened beside both, hides behind what decoding and vision still take: no more than that.
    """
    saved = 0.0
    if overlap.decode_ahead and work.chunks:
        decode, vision = work.decode_ms / work.chunks, work.vision_ms / work.chunks
        hidden = min(decode, work.opening_ms) + (work.chunks - 1) * min(decode, vision)
        saved += hidden * _share_saved(slowdowns.get("decode", NO_GAIN))
    if overlap.language_beside:
        left = max(0.0, work.opening_ms + work.decode_ms + work.vision_ms - 2 * saved)
        saved += min(left, work.language_ms) * _share_saved(slowdowns.get("language", NO_GAIN))
    return saved


def _share_saved(slowdown: float) -> float:
    """Of the time that the shorter thing takes by itself."""
    return min(1.0, max(0.0, NO_GAIN - slowdown))
