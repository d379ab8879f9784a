"""Numbers and texts as a person reads them, on a terminal and in a report alike."""

from __future__ import annotations

from collections.abc import Mapping


def milliseconds_text(milliseconds: float) -> str:
    """Milliseconds as "0.4 ms", "35 ms", "1.24 s"."""
    if milliseconds < 10:
        return f"{milliseconds:.1f} ms"
    return f"{milliseconds:.0f} ms" if milliseconds < 1000 else f"{milliseconds / 1000:.2f} s"


def clock_text(seconds: float) -> str:
    """Seconds from the start of a clip as "0:07.50", "1:02:03.25"."""
    hundredths = round(seconds * 100)
    minutes, rest = divmod(hundredths, 6000)
    hours, minutes = divmod(minutes, 60)
    tail = f"{rest / 100:05.2f}"
    return f"{hours}:{minutes:02d}:{tail}" if hours else f"{minutes}:{tail}"


def reused_text(frames: int, cache: Mapping[str, int]) -> str:
    """What an earlier question had left, as "9 of 9 frames, 577 tokens of the prompt"; empty where that is nothing.

    `cache` is the answer's.
    """
    seen, read = cache["patch_features_reused"], cache["prefix_tokens_reused"]
    parts = [f"{seen} of {frames} frames"] if seen else []
    parts += [f"{read:,} tokens of the prompt"] if read else []
    return ", ".join(parts)
