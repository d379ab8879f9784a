"""How one still image is cut into tiles, and how many visual tokens that makes (LLaVA-OneVision's anyres_max_n).

The image is fitted into the best of some resolutions and padded; its tiles go through the encoder beside the squashed
whole. The rows of tokens that show padding are left out, and what is still too much is scaled down.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from tam_edge.runtime.frames import VideoInfo
from tam_edge.runtime.manifest import Manifest

Way = Literal["tiles", "whole"]
"""How still images are seen: in tiles, or each as a whole."""
SPARE_RATIO = 1.1
"""A tiled image may be wider and higher than the most tiles by this factor before it is scaled down."""


@dataclass(frozen=True, slots=True)
class TileLayout:
    """One image in tiles; heights and widths of tokens count those of all tiles side by side."""

    canvas_px: tuple[int, int]
    """Height and width of the padded image, multiples of the tile."""
    fitted_px: tuple[int, int]
    """Height and width of the image inside it."""
    tiles: tuple[int, int]
    """Rows and columns of tiles."""
    cut_tokens: tuple[int, int]
    """Rows left out above and below, columns left out left and right."""
    kept_tokens: tuple[int, int]
    """Rows and columns that show the image."""
    shown_tokens: tuple[int, int]
    """Rows and columns after scaling down."""
    whole_tokens: int
    """Tokens of the squashed whole image, which come first."""
    line_break: bool
    """Whether a row of the tiled image ends with one more token."""

    @property
    def tokens(self) -> int:
        """Visual tokens of the image."""
        rows, columns = self.shown_tokens
        return self.whole_tokens + rows * (columns + self.line_break)


def tile_layout(
    size_px: tuple[int, int],
    resolutions: Sequence[tuple[int, int]],
    tile_px: int,
    side: int,
    max_tiles: int,
    *,
    line_break: bool = True,
) -> TileLayout:
    """Lay out an image of `size_px` (height, width).

    Args:
        size_px: height and width of the image.
        resolutions: heights and widths to choose from, multiples of `tile_px`.
        tile_px: side of a tile, which is the encoder's input.
        side: tokens per side of a tile.
        max_tiles: about as many tiles' tokens are kept at most.
        line_break: whether rows end with one more token.
    """
    canvas = best_resolution(size_px, resolutions)
    tiles = canvas[0] // tile_px, canvas[1] // tile_px
    cut = _padding_tokens(size_px, (tiles[0] * side, tiles[1] * side))
    kept = tiles[0] * side - 2 * cut[0], tiles[1] * side - 2 * cut[1]
    ratio = math.sqrt(kept[0] * kept[1] / (max_tiles * side**2))
    shown = (int(kept[0] // ratio), int(kept[1] // ratio)) if ratio > SPARE_RATIO else kept
    return TileLayout(canvas, _fitted(size_px, canvas), tiles, cut, kept, shown, side**2, line_break)


def ways_to_see(info: VideoInfo, manifest: Manifest) -> tuple[Way, ...]:
    """How a source may be seen as still images, the finest first; none where it is, or has to be, a video."""
    if manifest.images is None or not info.still_sizes_px:
        return ()
    return ("tiles", "whole") if len(info.still_sizes_px) == 1 and manifest.images.resolutions_px else ("whole",)


def still_tokens(info: VideoInfo, manifest: Manifest, way: Way) -> tuple[int, ...]:
    """Visual tokens of each image of a source, in a bundle that says how images are seen."""
    if way == "tiles":
        return tuple(layout_of(size, manifest).tokens for size in info.still_sizes_px)
    assert manifest.images is not None
    side, line_break = manifest.encoders[manifest.images.encoder].grid_side, manifest.images.newline is not None
    return (side**2 + line_break,) * len(info.still_sizes_px)


def layout_of(size_px: tuple[int, int], manifest: Manifest) -> TileLayout:
    """How a bundle that tiles images cuts one of `size_px` (height, width)."""
    images = manifest.images
    assert images is not None
    encoder = manifest.encoders[images.encoder]
    return tile_layout(
        size_px,
        images.resolutions_px,
        encoder.image_px,
        encoder.grid_side,
        images.max_tiles,
        line_break=images.newline is not None,
    )


def best_resolution(size_px: tuple[int, int], resolutions: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """The resolution (height, width) that shows most of an image's pixels and, of equal ones, wastes the least."""
    height, width = size_px

    def merit(resolution: tuple[int, int]) -> tuple[int, int]:
        scale = min(resolution[1] / width, resolution[0] / height)
        shown = min(int(width * scale) * int(height * scale), width * height)
        return shown, shown - resolution[0] * resolution[1]

    return max(resolutions, key=merit)


def _fitted(size_px: tuple[int, int], canvas: tuple[int, int]) -> tuple[int, int]:
    (height, width), (canvas_height, canvas_width) = size_px, canvas
    by_width, by_height = canvas_width / width, canvas_height / height
    if by_width < by_height:
        return min(math.ceil(height * by_width), canvas_height), canvas_width
    return canvas_height, min(math.ceil(width * by_height), canvas_width)


def _padding_tokens(size_px: tuple[int, int], grid: tuple[int, int]) -> tuple[int, int]:
    """Rows above (and below) and columns left (and right) that show nothing but padding."""
    (height, width), (rows, columns) = size_px, grid
    if width / height > columns / rows:
        return (rows - int(round(height * (columns / width), 7))) // 2, 0
    return 0, (columns - int(round(width * (rows / height), 7))) // 2
