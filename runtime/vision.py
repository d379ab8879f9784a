"""Vision: frames -> patch features, the same for every grid and so the thing worth keeping.

`preprocess` is also what training uses, so a model sees the very pixels it was trained on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from tam_edge.runtime.manifest import EncoderSpec


def preprocess(pixels: NDArray[np.uint8], spec: EncoderSpec) -> NDArray[np.float32]:
    """Resize, rescale and normalise frames the way the encoder was trained.

    pixels: [N, H, W, 3] uint8 RGB. Returns [N, 3, image_px, image_px] float32. The frame is squeezed to
    the square without keeping its aspect, as SigLIP's own processor does; PIL's bicubic is the reference,
    OpenCV's differs by up to 13/255.
    """
    from PIL import Image

    side = spec.image_px
    images = np.empty((len(pixels), 3, side, side), np.float32)
    for image, frame in zip(images, pixels, strict=True):
        resized = Image.fromarray(frame).resize((side, side), Image.Resampling.BICUBIC)
        image[:] = np.asarray(resized).transpose(2, 0, 1)  # [H, W, 3] -> [3, H, W]
    images *= np.float32(spec.preprocessing.rescale)
    images -= np.asarray(spec.preprocessing.mean, np.float32).reshape(1, 3, 1, 1)
    images /= np.asarray(spec.preprocessing.std, np.float32).reshape(1, 3, 1, 1)
    return images
