"""Draws one frame of a scene: numpy and OpenCV only, about a millisecond a frame at 336 x 336.

`render(scene, seconds)` is what a camera would have seen at that moment. Everything that moves is a function of time,
so frames can be drawn in any order and a clip is never held in memory.
"""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from tam_edge.models.street.backdrop import draw_backdrop
from tam_edge.models.street.figures import draw_placed
from tam_edge.models.street.layout import place_all
from tam_edge.models.street.world import Scene

Image = NDArray[np.uint8]
FRAME_PX = 336
NIGHT = np.array([0.42, 0.45, 0.60], np.float32)  # what is left of each of R, G, B
NOISE_TILES = 8


def render(scene: Scene, seconds: float, size_px: int = FRAME_PX) -> Image:
    """The frame at `seconds`: [size_px, size_px, 3] uint8 RGB."""
    weather, light = scene.weather_at(seconds), scene.light_at(seconds)
    image = _backdrop(scene.place, weather, light, scene.seed % 97).copy()
    for placed in place_all(scene, seconds):
        draw_placed(image, placed, seconds)
    _fall(image, weather, seconds, scene.seed)
    if weather == "foggy":
        cv2.addWeighted(image, 0.62, np.full_like(image, 205), 0.38, 0, dst=image)
    if light == "night":
        cv2.LUT(image, _night_table(), dst=image)
    noise = _noise()[(scene.seed + int(seconds * 30)) % NOISE_TILES]
    cv2.add(image, noise, dst=image, dtype=cv2.CV_8U)
    if size_px == FRAME_PX:
        return image
    return cv2.resize(image, (size_px, size_px), interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False)


@lru_cache(maxsize=64)
def _backdrop(place: str, weather: str, light: str, variant: int) -> Image:
    return draw_backdrop(place, weather, light, variant, FRAME_PX)


@lru_cache(maxsize=1)
def _night_table() -> Image:
    ramp = np.arange(256, dtype=np.float32)[:, None] * NIGHT
    return ramp.round().astype(np.uint8)[None]  # [1, 256, 3]


@lru_cache(maxsize=1)
def _noise() -> NDArray[np.int16]:
    grain = np.random.default_rng(7).normal(0, 4, (NOISE_TILES, FRAME_PX, FRAME_PX, 1))
    return np.repeat(grain.round().astype(np.int16), 3, axis=3)


def _fall(image: Image, weather: str, seconds: float, seed: int) -> None:
    """Rain streaks or snow flakes, everywhere in the frame."""
    if weather not in ("rainy", "snowy", "stormy"):
        return
    rng = np.random.default_rng([seed, int(seconds * 10)])
    points = rng.integers(0, FRAME_PX, (70, 2))
    if weather == "snowy":
        for x, y in points.tolist():
            cv2.circle(image, (x, y), 2, (250, 250, 255), -1)
        return
    for x, y in points.tolist():
        cv2.line(image, (x, y), (x - 4, y + 14), (170, 185, 205), 1)
