"""Still images are one-frame videos, upright and in RGB whatever they are stored as."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from make_clips import paint
from PIL import Image, ImageOps

from tam_edge.runtime.video import open_video


def pixels_of(path: Path) -> np.ndarray:
    (batch,) = open_video(path).frames([0.0], 1)
    assert batch.timestamps_seconds.tolist() == [0.0]
    return batch.pixels[0]


@pytest.mark.parametrize(
    ("suffix", "codec", "exact"),
    [("png", "png", True), ("jpg", "jpeg", False), ("webp", "webp", False), ("bmp", "bmp", True), ("gif", "gif", True)],
)
def test_formats(suffix: str, codec: str, exact: bool, tmp_path: Path) -> None:
    path = tmp_path / f"photo.{suffix}"
    shown = paint(12345, 64, 96)
    Image.fromarray(shown).save(path)
    info = open_video(path).info
    assert (info.kind, info.codec, info.duration_seconds, info.frame_count) == ("image", codec, 0.0, 1)
    assert (info.width_px, info.height_px, info.average_fps) == (96, 64, None)
    assert np.abs(pixels_of(path).astype(int) - shown).max() <= (0 if exact else 40)


def test_the_name_does_not_matter(tmp_path: Path) -> None:
    path = tmp_path / "photo.mp4"
    Image.fromarray(paint(1)).save(path, format="PNG")
    assert open_video(path).info.kind == "image"


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(orientation: int, tmp_path: Path) -> None:
    path = tmp_path / "photo.png"
    stored = Image.fromarray(paint(21, 64, 96))
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(path, exif=exif)
    with Image.open(path) as image:
        shown = np.asarray(ImageOps.exif_transpose(image))
    info = open_video(path).info
    assert (info.height_px, info.width_px) == shown.shape[:2] == ((96, 64) if orientation > 4 else (64, 96))
    assert np.array_equal(pixels_of(path), shown)


def test_transparency_is_over_white(tmp_path: Path) -> None:
    rgba = np.zeros((4, 4, 4), np.uint8)
    rgba[:2, :, 0], rgba[:2, :, 3] = 200, 255  # above opaque red, below transparent black
    Image.fromarray(rgba).save(tmp_path / "rgba.png")
    Image.fromarray(rgba).quantize(8).save(tmp_path / "palette.png")
    Image.fromarray(rgba).convert("LA").save(tmp_path / "grey.png")
    for name in ("rgba.png", "palette.png"):
        assert pixels_of(tmp_path / name)[0, 0].tolist() == [200, 0, 0]
        assert pixels_of(tmp_path / name)[3, 3].tolist() == [255, 255, 255]
    assert pixels_of(tmp_path / "grey.png")[3, 3].tolist() == [255, 255, 255]


def test_sixteen_bits_are_scaled(tmp_path: Path) -> None:
    grey = np.array([[0, 257, 33096, 65535]], np.uint16)
    Image.fromarray(grey).save(tmp_path / "deep.png")
    assert pixels_of(tmp_path / "deep.png")[0].tolist() == [[0] * 3, [1] * 3, [129] * 3, [255] * 3]


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "YCbCr"])
def test_colour_modes(mode: str, tmp_path: Path) -> None:
    path = tmp_path / ("photo.jpg" if mode in ("CMYK", "YCbCr") else "photo.png")
    Image.fromarray(paint(7)).convert(mode).save(path)
    pixels = pixels_of(path)
    assert pixels.shape == (64, 64, 3)
    assert np.abs(pixels[:, :63].astype(int) - paint(7)[:, :63]).mean() < 8


def test_the_same_image_for_every_time(tmp_path: Path) -> None:
    path = tmp_path / "photo.png"
    Image.fromarray(paint(9)).save(path)
    batches = list(open_video(path).frames([0.0, 1.0, 5.0], 2))
    assert [len(batch.pixels) for batch in batches] == [2, 1]
    assert np.concatenate([batch.timestamps_seconds for batch in batches]).tolist() == [0.0, 0.0, 0.0]
