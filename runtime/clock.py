"""The times of one video stream: ticks, as the container stores them, and seconds from the first frame shown."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from av.packet import Packet
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

ROUNDING_SECONDS = 1e-9
"""A time this little before a frame means that frame: i / fps rarely is a binary fraction."""


@dataclass(frozen=True, slots=True)
class Clock:
    """Turns ticks into seconds of the clip and back."""

    time_base: Fraction
    """Seconds per tick."""
    origin_tick: int
    """Presentation time of the first frame shown: second 0."""
    frame_ticks: int
    """Usual distance between frames, for those that carry no duration."""
    from_dts: bool
    """Frames are timed by their decoding stamps, because the container (AVI) stores no others."""
    timed: bool
    """The container times its packets at all; a bare H.264 stream does not."""

    def last_tick_at(self, seconds: float) -> int:
        """Return the latest tick that has begun by the given time of the clip."""
        return self.origin_tick + math.floor(Fraction(seconds + ROUNDING_SECONDS) / self.time_base)

    def seconds_at(self, tick: int) -> float:
        """Return the time of the clip at a tick."""
        return float((tick - self.origin_tick) * self.time_base)

    def ticks(self, seconds: float) -> int:
        """Return how many ticks fill that many seconds."""
        return round(seconds / self.time_base)

    def stamp(self, frame: VideoFrame) -> int | None:
        """Return the tick at which a frame appears; None where the container does not say."""
        return frame.dts if self.from_dts else frame.pts

    def lasts(self, shown: VideoFrame | Packet[VideoStream]) -> int:
        """Return how many ticks a frame stays on screen."""
        return shown.duration or self.frame_ticks
