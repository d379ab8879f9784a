"""How one still image is cut into tiles, and how many visual tokens that makes (LLaVA-OneVision's anyres_max_n).

The image is fitted into the best of some resolutions and padded; its tiles go through the encoder beside the squashed
whole. The rows of tokens that show padding are left out, and what is still too much is scaled down.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

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
