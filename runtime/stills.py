"""Still images, looked at: one as a whole and in tiles, several each as a whole (LLaVA-OneVision).

Tokens are not pooled: a question about nothing but images has the room for all of them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tam_edge.runtime.errors import BundleError, VideoError
from tam_edge.runtime.frames import FrameBatch, Video
from tam_edge.runtime.manifest import ImagesSpec
from tam_edge.runtime.parts import Parts
from tam_edge.runtime.plan import Plan
from tam_edge.runtime.strategies import VisualTokens
from tam_edge.runtime.tiles import TileLayout, layout_of
from tam_edge.runtime.vision import encode


@dataclass(frozen=True, slots=True)
class Stills:
    """What was seen."""

    tokens: VisualTokens
    """Visual tokens, image after image."""
    shown: tuple[tuple[str, float], ...]
    """Source and time of each image."""


def look_at_stills(video: Video, plan: Plan, parts: Parts, chunk_frames: int) -> Stills:
    """Decode, cut, encode and project the plan's images, one at a time and `chunk_frames` crops of it at once.

    Raises: VideoError if an image cannot be decoded; BundleError, EngineError.
    """
    spec = parts.bundle.manifest.images
    assert spec is not None
    newline = _newline(parts, spec)
    blocks, shown = list[NDArray[np.float32]](), list[tuple[str, float]]()
    for batch in video.frames(plan.timestamps_seconds, 1):
        for pixels, seconds, source in zip(batch.pixels, batch.timestamps_seconds, batch.sources, strict=True):
            blocks.append(_tokens(pixels, plan, parts, spec, newline, chunk_frames))
            shown.append((source, float(seconds)))
    if len(shown) < plan.frames:
        raise VideoError(video.info.source, f"only {len(shown)} of {plan.frames} images can be decoded")
    counts = tuple(len(block) for block in blocks)
    if sum(counts) != plan.visual_tokens:
        message = f"images give {sum(counts)} visual tokens, the plan has {plan.visual_tokens}"
        raise BundleError(parts.bundle.path, "images", message)
    return Stills(VisualTokens(np.concatenate(blocks), counts, None, None, exact=True), tuple(shown))


def crops(pixels: NDArray[np.uint8], layout: TileLayout, side_px: int) -> NDArray[np.uint8]:
    """The whole image, squashed, and its tiles, row by row: [H, W, 3] -> [1 + tiles, side_px, side_px, 3]."""
    from PIL import Image

    image = Image.fromarray(pixels)
    (height, width), (rows, columns) = layout.fitted_px, layout.tiles
    canvas = np.zeros((*layout.canvas_px, 3), np.uint8)
    top, left = (layout.canvas_px[0] - height) // 2, (layout.canvas_px[1] - width) // 2
    fitted = image.resize((width, height), Image.Resampling.BICUBIC)
    canvas[top : top + height, left : left + width] = np.asarray(fitted)
    tiles = canvas.reshape(rows, side_px, columns, side_px, 3).swapaxes(1, 2).reshape(-1, side_px, side_px, 3)
    whole = np.asarray(image.resize((side_px, side_px), Image.Resampling.BICUBIC))
    return np.concatenate((whole[None], tiles))


def in_a_square(pixels: NDArray[np.uint8], mean: tuple[float, float, float]) -> NDArray[np.uint8]:
    """The image in the middle of a square of the encoder's mean colour: [H, W, 3] -> [longer, longer, 3]."""
    height, width, _ = pixels.shape
    side = max(height, width)
    square = np.empty((side, side, 3), np.uint8)
    square[:] = [int(value * 255) for value in mean]
    top, left = (side - height) // 2, (side - width) // 2
    square[top : top + height, left : left + width] = pixels
    return square


def arranged(
    whole: NDArray[np.float32], tiles: NDArray[np.float32], layout: TileLayout, newline: NDArray[np.float32] | None
) -> NDArray[np.float32]:
    """Tokens [T, d] of a tiled image: the whole [S*S, d], then the tiles [n, S*S, d] as one picture, row by row."""
    rows, columns = layout.tiles
    side, width = math.isqrt(tiles.shape[1]), tiles.shape[2]
    picture = tiles.reshape(rows, columns, side, side, width).swapaxes(1, 2).reshape(rows * side, columns * side, width)
    (above, left), (height, across) = layout.cut_tokens, layout.kept_tokens
    picture = picture[above : above + height, left : left + across]
    if layout.shown_tokens != layout.kept_tokens:
        picture = _resized(_resized(picture, layout.shown_tokens[0], 0), layout.shown_tokens[1], 1)
    if newline is not None:
        picture = np.concatenate((picture, np.broadcast_to(newline, (len(picture), 1, width))), axis=1)
    return np.concatenate((whole, picture.reshape(-1, width)))


def _tokens(
    pixels: NDArray[np.uint8],
    plan: Plan,
    parts: Parts,
    spec: ImagesSpec,
    newline: NDArray[np.float32] | None,
    chunk_frames: int,
) -> NDArray[np.float32]:
    encoder = parts.bundle.manifest.encoders[spec.encoder]
    if plan.images == "whole":
        [tokens] = _projected(in_a_square(pixels, encoder.preprocessing.mean)[None], plan, parts, 1)
        return tokens if newline is None else np.concatenate((tokens, newline[None]))
    layout = layout_of((pixels.shape[0], pixels.shape[1]), parts.bundle.manifest)
    projected = _projected(crops(pixels, layout, encoder.image_px), plan, parts, chunk_frames)
    return arranged(projected[0], projected[1:], layout, newline)


def _projected(pictures: NDArray[np.uint8], plan: Plan, parts: Parts, chunk_frames: int) -> NDArray[np.float32]:
    """[N, H, W, 3] -> [N, S*S, d], a chunk at a time."""
    return np.concatenate(list(_chunks(pictures, plan, parts, chunk_frames)))


def _chunks(pictures: NDArray[np.uint8], plan: Plan, parts: Parts, chunk_frames: int) -> Iterator[NDArray[np.float32]]:
    encoder, projector = parts.encoder(plan), parts.image_projector()
    for start in range(0, len(pictures), chunk_frames):
        some = pictures[start : start + chunk_frames]
        batch = FrameBatch(some, np.zeros(len(some)), ("image",) * len(some))
        tokens = projector.run({"features": encode(batch, encoder).values})[0]
        wanted = (len(some), encoder.spec.grid_side**2, parts.bundle.manifest.language.embedding_width)
        if tokens.shape != wanted:
            raise BundleError(parts.bundle.path, "images.projector", f"gives {tokens.shape}, not {wanted}")
        yield tokens


def _newline(parts: Parts, spec: ImagesSpec) -> NDArray[np.float32] | None:
    return None if spec.newline is None else np.fromfile(parts.bundle.file(spec.newline), "<f4")


def _resized(picture: NDArray[np.float32], size: int, axis: int) -> NDArray[np.float32]:
    """Bilinear along one axis, half-pixel centres, no antialias, as PyTorch's interpolate."""
    length = picture.shape[axis]
    at = np.maximum((np.arange(size, dtype=np.float32) + np.float32(0.5)) * np.float32(length / size) - 0.5, 0)
    low = at.astype(np.int64)
    high = np.minimum(low + 1, length - 1)
    part = (at - low).astype(np.float32).reshape([-1 if index == axis else 1 for index in range(picture.ndim)])
    mixed: NDArray[np.float32] = picture.take(low, axis) * (1 - part) + picture.take(high, axis) * part
    return mixed
