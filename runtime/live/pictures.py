"""Small JPEGs: what a person sees of the frames an answer rests on."""

from __future__ import annotations

from dataclasses import dataclass
from io import BytesIO

import numpy as np
from numpy.typing import NDArray

PICTURE_PX = 448
"""Longer side of a kept picture; smaller frames keep their size."""
PICTURE_BYTES = 32 * 1024
"""Most bytes of one; the quality gives way."""
_QUALITIES = (85, 70, 50, 30, 10)


@dataclass(frozen=True, slots=True, eq=False)
class LivePicture:
    """A frame of a live source."""

    pixels: NDArray[np.uint8]
    """[H, W, 3] uint8 RGB, not to be written to."""
    time_seconds: float
    """When it appeared, as `time.time()` counts."""

    def jpeg(self, *, longer_px: int | None = None, quality: int = 85) -> bytes:
        """The frame as a JPEG, its longer side no longer than that."""
        return jpeg(self.pixels, longer_px or max(self.pixels.shape[:2]), quality)


def small_jpeg(pixels: NDArray[np.uint8]) -> bytes:
    """A JPEG of at most `PICTURE_BYTES`."""
    side = PICTURE_PX
    while True:
        for quality in _QUALITIES:
            data = jpeg(pixels, side, quality)
            if len(data) <= PICTURE_BYTES:
                return data
        side //= 2


def jpeg(pixels: NDArray[np.uint8], longer_px: int, quality: int) -> bytes:
    """[H, W, 3] RGB as a JPEG whose longer side is at most `longer_px`."""
    from PIL import Image

    image, out = Image.fromarray(pixels), BytesIO()
    image.thumbnail((longer_px, longer_px), Image.Resampling.BILINEAR)
    image.save(out, "JPEG", quality=quality)
    return out.getvalue()
