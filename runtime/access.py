"""What finding frames in a video file takes: frames decoded on the way, packets read, and packets passed over. Pure.

`seeking.py` decides by the same constants; here the same decisions are counted before a packet is read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

SEEK_PACKETS = 24
"""Reading about this many packets takes as long as a seek."""
RESTART_FRAMES = 4
"""Decoding so few costs less than what a decoder with threads loses when it starts anew."""
UNINDEXED_GAP_SECONDS = 10
"""Without an index a seek may land before where we are: only try far ahead."""
ASSUMED_KEY_SECONDS = 10.0
"""Distance between key frames where nothing tells: 250 frames, the usual most of encoders."""


@dataclass(frozen=True, slots=True)
class FrameAccess:
    """How a file's frames can be reached."""

    fps: float
    """Mean frames per second."""
    frame_bytes: float
    """Mean size of a stored frame."""
    key_seconds: float | None
    """Distance between the key frames around a moment of the clip, on average; None where no index tells."""
    seekable: bool
    """Whether decoding may start in the middle; if not, everything before a frame is decoded."""
    indexed: bool
    """Whether an index tells where key frames are."""


@dataclass(frozen=True, slots=True)
class Reach:
    """What reaching some frames takes."""

    decoded_frames: float = 0.0
    """Frames that are decoded, those asked for among them."""
    packets: float = 0.0
    """Packets that are read and not decoded; a seek counts as `SEEK_PACKETS`."""


def reach(times: Sequence[float], access: FrameAccess) -> Reach:
    """Count what the frames at rising `times` (seconds of the file) take; key frames are taken to be evenly spread."""
    frames, packets, at = 0.0, 0.0, 0.0
    for time in times:
        decoded, passed = _to(time, at, access)
        frames, packets, at = frames + decoded, packets + passed, max(at, time)
    return Reach(frames, packets)


def _to(time: float, at: float, access: FrameAccess) -> tuple[float, float]:
    """Frames decoded and packets passed over from `at` to `time`."""
    gap = max(0.0, time - at) * access.fps
    if not access.seekable:
        return gap + 1, 0.0
    key = access.key_seconds or ASSUMED_KEY_SECONDS
    from_key = (time % key) * access.fps
    if from_key + RESTART_FRAMES >= gap:  # no key frame between them, or one that is not worth it
        return gap + 1, 0.0
    passed = gap - from_key
    may_seek = access.indexed or time - at > UNINDEXED_GAP_SECONDS
    return from_key + 1, min(passed, SEEK_PACKETS) if may_seek else passed
