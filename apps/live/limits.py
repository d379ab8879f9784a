"""How much a page may send, each limit checked before the work it bounds."""

from __future__ import annotations

from dataclasses import dataclass

from tam_edge.runtime.budget import MIB

DECODED_AT_ONCE = 4
"""Frames of a visitor that are decoded, or about to be looked at, at once."""
VIEW_PX = 960
"""Longer side of the picture that the page gets from the device's source."""


@dataclass(frozen=True, slots=True)
class LiveLimits:
    """What the page, or a stranger in its place, may take."""

    body_bytes: int = 2 * MIB
    """Largest body of a request; a frame is one."""
    body_seconds: float = 20.0
    """Longest a body may take to arrive."""
    frame_pixels: int = 1920 * 1080
    """Most pixels of a visitor's frame."""
    silent_seconds: float = 10.0
    """A visitor without a frame for so long has gone."""
    history: int = 64
    """Most earlier questions sent along."""
    waiting: int = 8
    """Most questions that wait while another one is answered."""

    @property
    def bodies_bytes(self) -> int:
        """Bodies in memory at once."""
        return 4 * self.body_bytes

    @property
    def reserve_bytes(self) -> int:
        """Memory kept free below the ceiling: bodies, and frames as RGB."""
        return self.bodies_bytes + DECODED_AT_ONCE * 3 * self.frame_pixels
