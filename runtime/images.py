"""Still images as one-frame videos: EXIF orientation applied, transparency over white, 16 bits scaled to 8."""

from __future__ import annotations

import warnings
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tam_edge.runtime.container import MAX_FRAME_PIXELS
from tam_edge.runtime.errors import TooLargeError, VideoError
from tam_edge.runtime.frames import OpenedVideo, Picture, VideoInfo

if TYPE_CHECKING:
    from PIL.Image import Image

_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF")
_MOVING_FORMATS = frozenset({"PNG", "WEBP", "GIF"})  # an MPO is a photo with a preview, not a film
_MOTION_JPEG_SUFFIXES = frozenset({".mjpeg", ".mjpg"})  # begin like a JPEG
_EXIF_ORIENTATION = 0x0112
_LYING_ORIENTATIONS = frozenset({5, 6, 7, 8})


class ImageFile(OpenedVideo):
    """One image; its only frame appears at 0 s and is decoded when it is asked for."""

    def __init__(self, path: Path, source: str, image: Image) -> None:
        """Take what the header says from an `image` opened but not loaded.

        Raises:
            VideoError: the image is too large.
        """
        width, height = image.size
        if width * height > MAX_FRAME_PIXELS:
            raise TooLargeError(source, f"an image of {width}x{height} pixels is too large: scale it down")
        if image.getexif().get(_EXIF_ORIENTATION) in _LYING_ORIENTATIONS:
            width, height = height, width
        about = path.stat()
        self._path = path
        super().__init__(
            VideoInfo(
                source=source,
                kind="image",
                duration_seconds=0.0,
                frame_count=1,
                width_px=width,
                height_px=height,
                average_fps=None,
                codec=str(image.format).lower(),
                still_sizes_px=((height, width),),
                identity=f"{path.resolve()}:{about.st_size}:{about.st_mtime_ns}",
            )
        )

    def pictures(self, times: Sequence[float]) -> Generator[Picture, None, None]:
        """Yield the image once per time.

        Raises:
            VideoError: the image is damaged.
        """
        from PIL import Image, ImageOps

        try:
            with _quietly(), Image.open(self._path, formats=_FORMATS) as image:
                pixels = _rgb(ImageOps.exif_transpose(image))
        except (OSError, SyntaxError, ValueError) as error:  # Pillow's words for damaged files, by format
            raise VideoError(self.info.source, f"cannot be decoded ({error}): save the image again") from None
        for _ in times:
            yield Picture(pixels, 0.0, self.info.source)


def open_image(path: Path, source: str) -> ImageFile | None:
    """Return the image in `path`, None if it holds no image or an animated one that is a video.

    Raises:
        VideoError: the image is too large, or an animation that cannot be decoded.
    """
    from PIL import Image, UnidentifiedImageError

    if path.suffix.lower() in _MOTION_JPEG_SUFFIXES:
        return None
    try:
        with _quietly():
            image = Image.open(path, formats=_FORMATS)
    except UnidentifiedImageError:
        return None
    except Image.DecompressionBombError:
        raise TooLargeError(source, "the image is too large: scale it down") from None
    with _quietly(), image:
        if image.format not in _MOVING_FORMATS or not getattr(image, "is_animated", False):
            return ImageFile(path, source, image)
        if image.format == "WEBP":
            raise VideoError(source, "animated WebP is not supported: convert it to mp4 or gif")
        return None


@contextmanager
def _quietly() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of odd metadata, and of sizes for which there is an own limit
        yield


def _rgb(image: Image) -> NDArray[np.uint8]:
    """Return [H, W, 3]."""
    from PIL import Image as Pillow

    if image.mode.startswith("I"):  # 16 bits in 16 or 32; Pillow's own conversion would cut, not scale
        grey = np.rint(np.asarray(image).clip(0, 65535) / 257).astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=2)
    if image.has_transparency_data:
        over_white = Pillow.new("RGBA", image.size, "white")
        over_white.alpha_composite(image.convert("RGBA"))
        image = over_white
    return np.asarray(image.convert("RGB"))
