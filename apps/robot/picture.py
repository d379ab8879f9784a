"""One message of a camera topic -> one RGB frame: JPEG bytes, or a ROS 2 message.

Sizes are checked before memory is taken.
"""

from __future__ import annotations

from io import BytesIO

import numpy as np
from numpy.typing import NDArray

from tam_edge.apps.robot.cdr import NotThisError, RosImage, is_cdr, read_message
from tam_edge.runtime.container import MAX_FRAME_PIXELS

CHANNELS = {"rgb8": 3, "bgr8": 3, "mono8": 1}
"""Encodings of sensor_msgs/Image that are read."""
_JPEG, _PNG = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"


class PictureError(Exception):
    """A message that is no picture we read; one line says why."""


class LargerError(PictureError):
    """A picture with more pixels than were allowed."""


def read_picture(message: bytes, most_pixels: int = MAX_FRAME_PIXELS) -> NDArray[np.uint8]:
    """[H, W, 3] uint8 RGB, with at most so many pixels.

    Raises: PictureError.
    """
    if message.startswith(_JPEG):
        return _decoded(message, most_pixels)
    if not is_cdr(message):
        raise PictureError("it is neither JPEG nor a ROS 2 message in CDR")
    try:
        read = read_message(message)
    except NotThisError:
        raise PictureError("it is neither sensor_msgs/Image nor sensor_msgs/CompressedImage") from None
    if isinstance(read, RosImage):
        return _pixels(read, most_pixels)
    data = bytes(read.data)
    if not data.startswith((_JPEG, _PNG)):
        raise PictureError(f"its format is {read.format!r}: JPEG and PNG are read")
    return _decoded(data, most_pixels)


def _pixels(image: RosImage, most_pixels: int) -> NDArray[np.uint8]:
    channels = CHANNELS.get(image.encoding)
    if channels is None:
        raise PictureError(f"its encoding is {image.encoding!r}: {', '.join(CHANNELS)} are read")
    _check_size(image.width_px, image.height_px, most_pixels)
    row = image.width_px * channels
    if image.step_bytes < row:
        raise PictureError(f"its rows have {image.step_bytes} bytes, too few for {image.width_px} pixels")
    rows = np.frombuffer(image.data, np.uint8).reshape(image.height_px, image.step_bytes)[:, :row]
    pixels = rows.reshape(image.height_px, image.width_px, channels)
    if image.encoding == "bgr8":
        pixels = pixels[..., ::-1]
    return np.ascontiguousarray(np.broadcast_to(pixels, (image.height_px, image.width_px, 3)))


def _decoded(data: bytes, most_pixels: int) -> NDArray[np.uint8]:
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(BytesIO(data), formats=("JPEG", "PNG")) as image:
            _check_size(*image.size, most_pixels)
            return np.asarray(image.convert("RGB"))
    except (UnidentifiedImageError, Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise PictureError("its picture cannot be read, or is too large") from None
    except (OSError, SyntaxError, ValueError) as error:
        raise PictureError(f"its picture is damaged ({error})") from None


def _check_size(width_px: int, height_px: int, most_pixels: int) -> None:
    if not 0 < width_px * height_px <= MAX_FRAME_PIXELS:
        raise PictureError(f"{width_px}x{height_px} pixels is no size of frames")
    if width_px * height_px > most_pixels:
        raise LargerError
