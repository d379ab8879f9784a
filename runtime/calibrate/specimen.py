"""Clips and pictures to decode while a device is measured: small, large, and large with much detail, in every codec."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import NDArray

from tam_edge.runtime.errors import EngineError
from tam_edge.runtime.natives import import_native

FRAMES = 16
"""Frames of a clip, of which only the first is a key frame."""
SIZES_PX = ((320, 180), (768, 432))
"""Width and height."""
_QUIET_X265 = {"x265-params": "log-level=none"}
_FEW, _MANY = {"b": "150k"}, {"b": "12M"}
# Encoder, options of all clips, options of few and of many bytes.
_ENCODERS: dict[str, tuple[dict[str, str], dict[str, str], dict[str, str]]] = {
    "libx264": ({"preset": "veryfast"}, {"crf": "38"}, {"crf": "14"}),
    "libx265": ({"preset": "ultrafast", **_QUIET_X265}, {"crf": "38"}, {"crf": "14"}),
    "libvpx-vp9": ({"deadline": "realtime", "cpu-used": "8"}, _FEW, _MANY),
    "libsvtav1": ({"preset": "12"}, {"crf": "55"}, {"crf": "15"}),
    "mpeg4": ({}, _FEW, _MANY),
}


@dataclass(frozen=True, slots=True)
class Specimen:
    """One clip that can be made."""

    encoder: str
    """FFmpeg's name of what encodes it."""
    size_px: tuple[int, int]
    """Width and height."""
    detailed: bool
    """Whether it gets many bytes."""


def specimens() -> Iterator[Specimen]:
    """The clips that this build of FFmpeg can encode; those of one encoder follow each other.

    Raises: EngineError if it can encode none.
    """
    known = [encoder for encoder in _ENCODERS if encoder in import_native("av").codecs_available]
    if not known:
        raise EngineError("this PyAV encodes nothing, so decoding cannot be measured: install the package av anew")
    small, large = SIZES_PX
    for encoder in known:
        yield Specimen(encoder, small, detailed=False)
        yield Specimen(encoder, large, detailed=False)
        yield Specimen(encoder, large, detailed=True)


def make_specimen(specimen: Specimen, folder: Path) -> Path:
    """Encode a clip into a Matroska file."""
    import av
    from av.video.stream import VideoStream

    common, few, many = _ENCODERS[specimen.encoder]
    options = {**common, **(many if specimen.detailed else few), "g": "1000", "sc_threshold": "0"}
    os.environ.setdefault("SVT_LOG", "-1")  # it would report on stderr
    path = folder / f"{specimen.encoder}-{specimen.size_px[0]}-{specimen.detailed:d}.mkv"
    with av.open(str(path), "w") as container:
        stream = cast("VideoStream", container.add_stream(specimen.encoder, rate=25, options=options))
        stream.width, stream.height = specimen.size_px
        stream.pix_fmt = "yuv420p"
        for pixels in _pictures(specimen):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, "rgb24")))
        container.mux(stream.encode(None))
    return path


def make_still(size_px: tuple[int, int], folder: Path) -> Path:
    """Write a JPEG file."""
    from PIL import Image

    path = folder / f"still-{size_px[0]}.jpg"
    Image.fromarray(next(_pictures(Specimen("", size_px, detailed=True)))).save(path, quality=90)
    return path


def _pictures(specimen: Specimen) -> Iterator[NDArray[np.uint8]]:
    """RGB [height, width, 3]: a ground that a camera pans over, with noise of its own where there is detail."""
    width, height = specimen.size_px
    draw = np.random.default_rng(0)
    y, x = np.mgrid[:height, : 2 * width].astype(np.float32)
    ground = 128 + 50 * np.sin(x / 17 + y / 29) + 30 * np.sin(x / 5 - y / 7)
    if specimen.detailed:
        ground += draw.normal(0, 12, ground.shape)
    shades = np.stack((ground, 0.8 * ground, 255 - ground), axis=-1).clip(0, 255).astype(np.uint8)
    for number in range(FRAMES):
        yield np.ascontiguousarray(shades[:, 3 * number : 3 * number + width])
