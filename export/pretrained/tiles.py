"""How a checkpoint cuts a single still image into tiles (anyres), from config.json."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from tam_edge.export.pretrained.config import Section

MOST_TILES_A_SIDE = 64
"""A picture of more tiles a side is no picture: 24,576 pixels of SigLIP-so400m."""
ONEVISION_TILES_A_SIDE = 6
"""LLaVA-OneVision's own, where config.json does not say."""


@dataclass(frozen=True, slots=True)
class Tiles:
    """What a single image is cut into."""

    resolutions: tuple[tuple[int, int], ...] = ()
    """(height, width) in pixels that it may be fitted into; empty: it is seen whole."""
    most: int = 1
    """An image of more tokens than so many tiles have is scaled down."""
    notes: tuple[str, ...] = ()
    """What the bundle does otherwise than config.json says."""


def read_tiles(config: Section, image_px: int) -> Tiles:
    """The tiles of an encoder that takes `image_px` pixels a side.

    Raises:
        CheckpointError: resolutions that are no multiples of the encoder's input, or nonsense.
    """
    aspect = str(config.get("vision_aspect_ratio") or config.get("image_aspect_ratio") or "anyres_max_9")
    found = re.fullmatch(r"anyres_max_([1-9]\d{0,3})", aspect)
    if found is None:
        whole = f"A single image is seen whole, without tiles; config.json says {aspect}."
        return Tiles(notes=(whole,) if aspect.startswith("anyres") else ())
    most = MOST_TILES_A_SIDE * image_px
    resolutions: list[tuple[int, int]] = []
    for pair in _points(config, image_px):
        if not isinstance(pair, list | tuple) or len(pair) != 2 or not all(type(side) is int for side in pair):
            raise config.error("image_grid_pinpoints is no list of [height, width]")
        if any(not image_px <= side <= most or side % image_px for side in pair):
            raise config.error(f"image_grid_pinpoints must be multiples of the encoder's {image_px} px, up to {most}")
        resolutions.append((pair[0], pair[1]))
    return Tiles(tuple(resolutions), int(found[1]))


def _points(config: Section, image_px: int) -> list[Any]:
    """Pairs as they are listed, or all between the ends of LLaVA-NeXT's "(1x1),...,(6x6)", which counts tiles."""
    said = config.get("image_grid_pinpoints")
    if isinstance(said, list):
        return said
    ends = [(1, 1), (ONEVISION_TILES_A_SIDE,) * 2]
    if said is not None:
        found = re.findall(r"\((\d{1,2})x(\d{1,2})\)", str(said))
        if not found or not isinstance(said, str):
            raise config.error('image_grid_pinpoints is neither a list of [height, width] nor "(1x1),...,(6x6)"')
        ends = [(int(high), int(wide)) for high, wide in (found[0], found[-1])]
    (first_high, first_wide), (last_high, last_wide) = ends
    return [
        [high * image_px, wide * image_px]
        for high in range(first_high, last_high + 1)
        for wide in range(first_wide, last_wide + 1)
    ]
