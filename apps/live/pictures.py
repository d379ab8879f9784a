"""JPEGs: as they come from a visitor, and as they go to the page."""

from __future__ import annotations

from io import BytesIO
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from tam_edge.apps.live.limits import VIEW_PX
from tam_edge.apps.web.problem import ServeError
from tam_edge.runtime.live.session import Live

_QUALITY = 80


def pixels_of(data: bytes, most_pixels: int) -> NDArray[np.uint8]:
    """A JPEG as [H, W, 3] uint8 RGB; its size is read before any of it is decoded.

    Raises: ServeError 413 if it has more pixels, 422 if it is no JPEG or a damaged one.
    """
    from PIL.JpegImagePlugin import JpegImageFile

    try:
        image = JpegImageFile(BytesIO(data))  # not Image.open, which would take other formats
        width, height = image.size
        if width * height > most_pixels:
            text = f"a frame of {width}x{height} pixels is too large: {most_pixels:,} pixels are the most"
            raise ServeError(413, text, code="too_large")
        return np.asarray(image.convert("RGB"))
    except (OSError, SyntaxError, ValueError, IndexError, TypeError, EOFError):  # Pillow's words for damaged files
        raise ServeError(422, "a frame is no JPEG, or a damaged one", code="no_jpeg") from None


class View:
    """The newest frame of a session as a JPEG, made once for everybody who looks."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._time_seconds = 0.0
        self._jpeg = b""

    def newer(self, live: Live, than_seconds: float) -> tuple[float, bytes] | None:
        """Its time, as `time.time()` counts, and the JPEG; None where there is no newer one."""
        with self._lock:
            newest = live.picture()
            if newest.time_seconds <= than_seconds:
                return None
            if newest.time_seconds != self._time_seconds:
                self._jpeg = newest.jpeg(longer_px=VIEW_PX, quality=_QUALITY)
                self._time_seconds = newest.time_seconds
            return self._time_seconds, self._jpeg
