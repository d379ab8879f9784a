"""How many frames a live session may keep below the memory ceiling, predicted before it takes any memory for them.

Vision and language model stay open side by side, since frames are looked at between the pieces of an answer. Gives way,
in this order: frames kept, down to 16; then visual tokens, question by question; then the session is refused.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from tam_edge.runtime.admission import setting_of
from tam_edge.runtime.budget import MIB, MemoryLimit, size_text
from tam_edge.runtime.ceiling import NAMED_SPARE_BYTES, Setting
from tam_edge.runtime.errors import MemoryLimitError
from tam_edge.runtime.footprint import SPARE_SHARE, Case, Thrift, stage_bytes
from tam_edge.runtime.frames import VideoInfo
from tam_edge.runtime.live.pictures import PICTURE_BYTES
from tam_edge.runtime.live.thinning import worst_share
from tam_edge.runtime.manifest import Manifest
from tam_edge.runtime.parts import Parts
from tam_edge.runtime.plan import Rejection
from tam_edge.runtime.standing import import_libraries

FEWEST_FRAMES = 16
"""A window of fewer is refused."""
WINDOW_BYTES = 128 * MIB
"""A window of this size is always fine; a larger one takes a quarter of the ceiling at most."""
READER_FRAMES = 4
"""Frames that the reader holds as RGB beside those that are counted with vision."""


@dataclass(frozen=True, slots=True)
class WindowRoom:
    """What the ceiling leaves for the window."""

    frames: int
    """Frames that are kept."""
    window_bytes: int
    """What they take."""
    predicted_bytes: int
    """Predicted peak of the process."""
    given_up: tuple[Rejection, ...]
    """What there was no room for."""


def frame_bytes(manifest: Manifest) -> int:
    """What one kept frame takes: features and picture."""
    encoder = manifest.encoders[manifest.strategies[0].encoders[0]]
    return 4 * encoder.grid_side**2 * encoder.width + PICTURE_BYTES


def window_room(parts: Parts, limit: MemoryLimit, info: VideoInfo, wanted: int) -> WindowRoom:
    """Fit a window of `wanted` frames of a source below the ceiling.

    Raises: MemoryLimitError naming the smallest ceiling that would do.
    """
    import_libraries()
    parts.load_tokenizers()
    manifest, allowed = parts.bundle.manifest, limit.limit_bytes
    setting = setting_of(parts, 0, 0, limit, info)
    each, rgb = frame_bytes(manifest), 3 * info.width_px * info.height_px
    whole, least = _cases(manifest)

    def peak(case: Case, frames: int) -> int:
        return _peak(setting, case, round((frames * each + READER_FRAMES * rgb) * (1 + SPARE_SHARE)))

    most = max(FEWEST_FRAMES, min(wanted, max(WINDOW_BYTES, allowed // 4) // each))
    for frames in _fewer(most):
        if peak(whole, frames) <= allowed:
            given = _given_up(wanted, frames, peak(whole, wanted), limit)
            return WindowRoom(frames, frames * each, peak(whole, frames), given)
    needed = peak(least, FEWEST_FRAMES)
    if needed <= allowed:
        given = _given_up(wanted, FEWEST_FRAMES, peak(whole, wanted), limit)
        tokens = Rejection(f"{whole.visual_tokens:,} visual tokens", "fewer fit beside the window", peak(whole, 16))
        return WindowRoom(FEWEST_FRAMES, FEWEST_FRAMES * each, needed, (*given, tokens))
    smallest = math.ceil((needed + NAMED_SPARE_BYTES) / MIB)
    raise MemoryLimitError(
        allowed,
        smallest * MIB,
        f"{size_text(allowed)} of memory ({limit.source}) is too little for a live session: vision and language model "
        f"are open side by side, and with {FEWEST_FRAMES} kept frames that needs {size_text(needed)}; "
        f"allow at least {smallest}MiB",
    )


def _cases(manifest: Manifest) -> tuple[Case, Case]:
    """The question with the most visual tokens there can be, and the one with the fewest."""
    tokens = manifest.context_visual_tokens
    if manifest.routing.max_visual_tokens is not None:
        tokens = min(tokens, manifest.routing.max_visual_tokens)
    text = manifest.routing.context_reserve_tokens + manifest.language.max_output_tokens
    return Case(visual_tokens=tokens, room_tokens=text), Case(
        visual_tokens=manifest.least_visual_tokens, room_tokens=text
    )


def _peak(setting: Setting, case: Case, more_bytes: int) -> int:
    thrift = Thrift(chunk_frames=1, stays_open=True, features_bytes=0)
    stages = stage_bytes(setting.needs(case, thrift))
    beside = max(stages["vision"] + _language_bytes(setting, case, thrift), stages["language"], stages["inductor"])
    return max(setting.standing.peak_bytes, beside + more_bytes)


def _language_bytes(setting: Setting, case: Case, thrift: Thrift) -> int:
    """The language model with its cells, while a frame is looked at; where it is open already it is counted."""
    if "language" in setting.standing.open_bytes:
        return 0
    return setting.needs(case, thrift)["language"]["language"]


def _fewer(most: int) -> Iterator[int]:
    frames = most
    while frames > FEWEST_FRAMES:
        yield frames
        frames = max(FEWEST_FRAMES, frames * 3 // 4)
    yield FEWEST_FRAMES


def _given_up(wanted: int, frames: int, needed: int, limit: MemoryLimit) -> tuple[Rejection, ...]:
    if frames >= wanted:
        return ()
    apart = worst_share(frames + 1, wanted, 1)  # in looks, of which there is one for each wanted frame
    reason = f"{frames} are below {size_text(limit.limit_bytes)}: older ones lie up to {apart:.0%} of their age apart"
    return (Rejection(f"{wanted} kept frames", reason, needed),)
