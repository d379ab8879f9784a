"""How much a stranger may ask for: every limit of the server in one place, each checked before the work it bounds."""

from __future__ import annotations

from dataclasses import dataclass

from tam_edge.runtime.budget import MIB

BODIES_AT_ONCE = 2
"""Bodies of the greatest size that may be in memory while they arrive; smaller ones share that room."""
MOST_HOPS = 5
"""Redirects that are followed."""


@dataclass(frozen=True, slots=True)
class ServeLimits:
    """What one request, or all of them together, may take."""

    body_bytes: int = 32 * MIB
    """Largest body of a request."""
    body_seconds: float = 60.0
    """Longest a body may take to arrive."""
    stored_bytes: int = 512 * MIB
    """Pictures and videos kept on the disk, all together; a single one may be half of it."""
    download_seconds: float = 30.0
    """Longest a download may take, redirects included."""
    duration_seconds: float = 4 * 3600.0
    """Longest video."""
    sources: int = 64
    """Most pictures and videos of a conversation."""
    waiting: int = 16
    """Most questions that wait while another one is answered."""

    @property
    def bodies_bytes(self) -> int:
        """Bodies in memory at once."""
        return BODIES_AT_ONCE * self.body_bytes

    @property
    def reserve_bytes(self) -> int:
        """Memory kept free below the ceiling: bodies as they arrive, and the one that is being read."""
        return self.bodies_bytes + self.body_bytes

    @property
    def file_bytes(self) -> int:
        """Largest single picture or video that is stored."""
        return self.stored_bytes // 2
