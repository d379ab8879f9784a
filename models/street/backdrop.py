"""The still part of a frame: sky, the place behind the road, the road itself, weather and light in the sky."""

from __future__ import annotations

import random

import cv2
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]
Colour = tuple[int, int, int]
SKY: dict[str, Colour] = {
    "clear": (135, 195, 240),
    "cloudy": (165, 175, 188),
    "rainy": (125, 138, 155),
    "snowy": (200, 208, 218),
    "foggy": (200, 202, 205),
    "stormy": (72, 78, 98),
}
GROUND: dict[str, Colour] = {
    "park": (120, 170, 95),
    "market": (185, 165, 140),
    "beach": (226, 205, 150),
    "harbour": (150, 150, 155),
    "school": (175, 145, 125),
    "station": (140, 130, 150),
    "farm": (165, 150, 85),
}
HORIZON, ROAD_TOP, ROAD_BOTTOM = 0.40, 0.60, 0.765  # fractions of the frame's height


def draw_backdrop(place: str, weather: str, light: str, variant: int, size_px: int) -> Image:
    """[size_px, size_px, 3] uint8 RGB; `variant` moves and tints things a little, so that no two streets are alike."""
    rng = random.Random(f"backdrop-{place}-{variant}")
    image = np.empty((size_px, size_px, 3), np.uint8)
    image[:] = SKY[weather]
    ground = tuple(max(0, min(255, value + rng.randrange(-14, 15))) for value in GROUND[place])
    if weather == "snowy":
        ground = tuple((value + 2 * 235) // 3 for value in ground)
    image[int(HORIZON * size_px) :] = ground
    _PLACES[place](image, size_px, rng)
    _sky_marks(image, weather, light, size_px, rng)
    grey = rng.randrange(84, 104)
    cv2.rectangle(
        image, (0, int(ROAD_TOP * size_px)), (size_px, int(ROAD_BOTTOM * size_px)), (grey, grey, grey + 4), -1
    )
    for x in range(rng.randrange(0, 40), size_px, 56):
        cv2.rectangle(image, (x, int(0.685 * size_px)), (x + 26, int(0.692 * size_px)), (225, 225, 205), -1)
    return image


def _box(image: Image, x0: float, y0: float, x1: float, y1: float, colour: Colour) -> None:
    size = image.shape[0]
    cv2.rectangle(image, (int(x0 * size), int(y0 * size)), (int(x1 * size), int(y1 * size)), colour, -1)


def _disc(image: Image, x: float, y: float, radius: float, colour: Colour) -> None:
    size = image.shape[0]
    cv2.circle(image, (int(x * size), int(y * size)), int(radius * size), colour, -1)


def _triangle(image: Image, points: list[tuple[float, float]], colour: Colour) -> None:
    size = image.shape[0]
    cv2.fillConvexPoly(image, np.array([[int(x * size), int(y * size)] for x, y in points], np.int32), colour)


def _sky_marks(image: Image, weather: str, light: str, size_px: int, rng: random.Random) -> None:
    if weather == "clear" and light == "day":
        _disc(image, rng.choice((0.05, 0.95)), 0.06, 0.05, (255, 225, 90))
    if weather == "clear" and light == "night":
        _disc(image, rng.choice((0.05, 0.95)), 0.06, 0.04, (255, 255, 235))
        for _ in range(25):
            _disc(image, rng.random(), 0.28 * rng.random(), 0.005, (255, 255, 255))
    if weather in ("cloudy", "rainy", "stormy"):
        colour: Colour = (
            (225, 228, 232) if weather == "cloudy" else ((95, 100, 112) if weather == "rainy" else (45, 48, 60))
        )
        for _ in range(7):
            x, y = rng.random(), 0.03 + 0.10 * rng.random()
            for shift in (-0.05, 0.0, 0.05):
                _disc(image, x + shift, y, 0.045, colour)
    if weather == "stormy":
        x = rng.choice((0.37, 0.64))
        points = [(x, 0.02), (x - 0.03, 0.12), (x, 0.12), (x - 0.03, 0.24)]
        line = np.array([[int(a * size_px), int(b * size_px)] for a, b in points], np.int32)
        cv2.polylines(image, [line], False, (255, 250, 150), 4)


def _park(image: Image, size_px: int, rng: random.Random) -> None:
    for i in range(7):
        x = 0.07 + 0.145 * i + 0.03 * rng.random()
        _box(image, x - 0.008, 0.32, x + 0.008, 0.41, (105, 75, 45))
        _disc(image, x, 0.30, 0.055, (45, 120 + rng.randrange(30), 50))


def _market(image: Image, size_px: int, rng: random.Random) -> None:
    for i in range(5):
        x = 0.02 + 0.2 * i
        _box(image, x, 0.33, x + 0.16, 0.41, (130, 95, 65))
        for stripe in range(8):
            colour: Colour = (200, 60, 60) if stripe % 2 else (240, 240, 230)
            _box(image, x + stripe * 0.02, 0.27, x + (stripe + 1) * 0.02, 0.33, colour)


def _beach(image: Image, size_px: int, rng: random.Random) -> None:
    _box(image, 0, 0.29, 1, 0.41, (40, 130, 190))
    for _ in range(12):
        x, y = rng.random(), 0.30 + 0.10 * rng.random()
        _box(image, x, y, x + 0.06, y + 0.006, (225, 240, 245))


def _harbour(image: Image, size_px: int, rng: random.Random) -> None:
    _box(image, 0, 0.36, 1, 0.41, (50, 95, 130))
    for i in range(4):
        x = 0.12 + 0.25 * i + 0.04 * rng.random()
        _triangle(image, [(x, 0.24), (x, 0.35), (x + 0.07, 0.35)], (240, 240, 235))
        _triangle(image, [(x - 0.06, 0.36), (x + 0.08, 0.36), (x + 0.01, 0.40)], (120, 60, 40))


def _school(image: Image, size_px: int, rng: random.Random) -> None:
    _box(image, 0.05, 0.25, 0.95, 0.41, (190, 105, 80))
    for i in range(9):
        for y in (0.275, 0.345):
            _box(image, 0.08 + 0.097 * i, y, 0.13 + 0.097 * i, y + 0.04, (215, 230, 240))


def _station(image: Image, size_px: int, rng: random.Random) -> None:
    _box(image, 0, 0.29, 1, 0.385, (60, 75, 140))
    _box(image, 0, 0.26, 1, 0.29, (170, 170, 175))
    for i in range(9):
        _box(image, 0.03 + 0.11 * i, 0.305, 0.10 + 0.11 * i, 0.345, (235, 235, 190))


def _farm(image: Image, size_px: int, rng: random.Random) -> None:
    for i in range(3):
        x = 0.16 + 0.34 * i + 0.04 * rng.random()
        _box(image, x - 0.08, 0.31, x + 0.08, 0.41, (150, 45, 40))
        _triangle(image, [(x - 0.10, 0.31), (x + 0.10, 0.31), (x, 0.24)], (90, 60, 50))
        _box(image, x - 0.02, 0.35, x + 0.02, 0.41, (240, 235, 220))
    for i in range(18):
        _box(image, 0.055 * i, 0.41, 0.055 * i + 0.012, 0.45, (200, 190, 165))


_PLACES = {
    "park": _park,
    "market": _market,
    "beach": _beach,
    "harbour": _harbour,
    "school": _school,
    "station": _station,
    "farm": _farm,
}
