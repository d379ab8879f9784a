"""A decoder's pictures as live frames that stand upright."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from typing import TYPE_CHECKING

from tam_edge.runtime.live.sources import LiveFrame
from tam_edge.runtime.upright import UprightRgb, orientation

if TYPE_CHECKING:
    from av.video.frame import VideoFrame


def decoded(frames: Iterable[VideoFrame]) -> Iterator[tuple[float, LiveFrame]]:
    """Each frame of one stream, with its presentation time in seconds; 0 where it has none."""
    upright: UprightRgb | None = None
    for frame in frames:
        upright = upright or UprightRgb(orientation(frame))
        height, width = (frame.width, frame.height) if upright.lying else (frame.height, frame.width)
        yield frame.time or 0.0, LiveFrame(partial(upright, frame), height, width)
