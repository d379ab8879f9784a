"""Small JPEGs of the frames a plan looks at, made one at a time so that memory does not grow with their number."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass

from tam_edge.runtime.frames import FrameBatch, Video
from tam_edge.runtime.plan import Plan

WIDTH_PX = 320
QUALITY = 80


@dataclass(frozen=True, slots=True)
class Thumbnail:
    """One frame as a small JPEG."""

    source: str
    """File it came from."""
    time_seconds: float
    """Its presentation time, in seconds."""
    width_px: int
    """Width in pixels."""
    height_px: int
    """Height in pixels."""
    jpeg: bytes
    """The file's bytes."""


def thumbnails(video: Video, plan: Plan) -> Iterator[Thumbnail]:
    """Decode the frames of `plan` once more and shrink them; frames that do not decode are missing."""
    for batch in video.frames(plan.timestamps_seconds, 1):
        yield from _shrunk(batch)


def _shrunk(batch: FrameBatch) -> Iterator[Thumbnail]:
    from PIL import Image

    for pixels, seconds, source in zip(batch.pixels, batch.timestamps_seconds, batch.sources, strict=True):
        picture = Image.fromarray(pixels)
        picture.thumbnail((WIDTH_PX, WIDTH_PX))
        stream = io.BytesIO()
        picture.save(stream, "JPEG", quality=QUALITY, optimize=True)
        yield Thumbnail(source, float(seconds), picture.width, picture.height, stream.getvalue())
