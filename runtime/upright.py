"""Turn decoded frames into RGB pixels that stand upright.

A phone held sideways stores its pictures lying down and a matrix that says how to show them. Sample aspect ratio is
not applied: every encoder squashes frames to a square anyway. HDR colours are converted without tone mapping.

Frames come in full size. Letting swscale make the encoder's size at once would save 8 ms of a 1280x720 frame, and
differs by up to 49/255 from PIL's bicubic, with which encoders are trained; decoding at half size (`lowres`, MJPEG and
MPEG-4) differs by up to 123/255 and saves nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from av.video.frame import VideoFrame


class Orientation(NamedTuple):
    """How stored pixels become shown ones, in this order."""

    lying: bool
    """Swap rows and columns."""
    mirrored: bool
    """Reverse the order of columns."""
    flipped: bool
    """Reverse the order of rows."""


def orientation(frame: VideoFrame) -> Orientation:
    """Read the display matrix of a frame; angles other than quarter turns go to the nearest.

    Ask once per clip: PyAV's side data keeps its frame alive until the next garbage collection.
    """
    from av.buffer import Buffer

    stored = frame.side_data.get("DISPLAYMATRIX")
    if not isinstance(stored, Buffer):
        return Orientation(lying=False, mirrored=False, flipped=False)
    # shown x = a * x + c * y and shown y = b * x + d * y
    a, b, _, c, d = np.frombuffer(bytes(stored), np.int32)[:5].tolist()
    if abs(b) + abs(c) > abs(a) + abs(d):
        return Orientation(lying=True, mirrored=c < 0, flipped=b < 0)
    return Orientation(lying=False, mirrored=a < 0, flipped=d < 0)


class UprightRgb:
    """Turns frames of one stream into RGB; keeps what the conversion sets up, which takes longer than a small frame."""

    def __init__(self, turned: Orientation) -> None:
        """Frames will be turned in this way."""
        from av.video.reformatter import VideoReformatter

        self._turned = turned
        self._reformatter = VideoReformatter()

    @property
    def lying(self) -> bool:
        """Whether rows and columns change places."""
        return self._turned.lying

    def __call__(self, frame: VideoFrame) -> NDArray[np.uint8]:
        """Return [H, W, 3] RGB as shown, whatever pixel format the codec uses."""
        # One thread: starting others takes longer than the conversion, and rows do not depend on who makes them.
        rgb = self._reformatter.reformat(frame, format="rgb24", threads=1)
        pixels: NDArray[np.uint8] = rgb.to_ndarray().astype(np.uint8, copy=False)
        if self._turned.lying:
            pixels = pixels.transpose(1, 0, 2)
        return pixels[:: -1 if self._turned.flipped else 1, :: -1 if self._turned.mirrored else 1]
