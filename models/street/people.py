"""Draws pedestrians and cyclists: the pose is the whole message, so each pose has its own bones."""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.typing import NDArray

from tam_edge.models.street.layout import Placed

Image = NDArray[np.uint8]
Colour = tuple[int, int, int]
Point = tuple[float, float]
SKIN: Colour = (232, 186, 150)
TROUSERS: Colour = (60, 60, 95)

# Hands of each pose: (left, right) as (across, up) in body heights from the shoulders' middle.
HANDS: dict[str, tuple[Point, Point]] = {
    "raised": ((-0.17, 0.34), (0.17, 0.34)),
    "stretched": ((-0.36, 0.0), (0.36, 0.0)),
    "hanging": ((-0.17, -0.32), (0.17, -0.32)),
    "waving": ((-0.15, -0.30), (0.26, 0.30)),
    "dancing": ((-0.30, 0.26), (0.30, -0.22)),
    "walking": ((-0.16, -0.26), (0.16, -0.26)),
    "running": ((-0.26, -0.10), (0.26, -0.05)),
    "jumping": ((-0.30, 0.20), (0.30, 0.20)),
    "sweeping": ((0.14, -0.2), (0.2, -0.26)),
    "digging": ((-0.14, -0.2), (-0.2, -0.26)),
    "held": ((-0.15, -0.30), (0.22, -0.10)),
    "umbrella": ((-0.15, -0.30), (0.14, 0.02)),
}


def draw_person(image: Image, placed: Placed, shirt: Colour, seconds: float) -> None:
    """A pedestrian in its box, in place; `placed.doing` is an action, a pose of the arms, a held thing, or None."""
    size = image.shape[0]
    tall = placed.height * size
    x, feet = placed.x * size, placed.bottom * size
    doing = placed.doing or ("walking" if placed.moving else "hanging")
    lean = 0.10 * tall if doing == "running" else 0.0
    hip, neck = (x, feet - 0.44 * tall), (x + lean, feet - 0.80 * tall)
    _legs(image, hip, feet, tall, doing, seconds)
    thick = max(3, int(0.25 * tall))
    cv2.line(image, _whole((hip[0], hip[1] - 0.06 * tall)), _whole((neck[0], neck[1] + 0.12 * tall)), shirt, thick)
    _arms(image, neck, tall, doing, shirt)
    cv2.circle(image, _whole((neck[0], neck[1] - 0.10 * tall)), max(3, int(0.105 * tall)), SKIN, -1)
    cv2.ellipse(
        image,
        _whole((neck[0], neck[1] - 0.14 * tall)),
        (max(3, int(0.105 * tall)), int(0.07 * tall)),
        0,
        180,
        360,
        (70, 45, 30),
        -1,
    )
    draw = _TOOLS.get(doing)
    if draw:
        draw(image, x, feet, tall)


def draw_cyclist(image: Image, placed: Placed, shirt: Colour, seconds: float) -> None:
    """A cyclist in its box, facing the way it moves."""
    size = image.shape[0]
    x, ground, tall = placed.x * size, placed.bottom * size, placed.height * size
    way, wheel = placed.moving, 0.22 * tall
    for shift in (-0.26, 0.26):
        cv2.circle(image, _whole((x + shift * tall, ground - wheel)), int(wheel), (20, 20, 20), 3)
    saddle, bar = (x - 0.12 * way * tall, ground - 0.48 * tall), (x + 0.2 * way * tall, ground - 0.52 * tall)
    pedal = (x + 4 * math.cos(9 * seconds), ground - wheel + 4 * math.sin(9 * seconds))
    for a, b in (
        (saddle, pedal),
        (pedal, (x - 0.26 * way * tall, ground - wheel)),
        (saddle, bar),
        (bar, (x + 0.26 * way * tall, ground - wheel)),
    ):
        cv2.line(image, _whole(a), _whole(b), (30, 30, 30), 2)
    neck = (x + 0.06 * way * tall, ground - 0.80 * tall)
    cv2.line(image, _whole(saddle), _whole(pedal), TROUSERS, 5)
    cv2.line(image, _whole(saddle), _whole(neck), shirt, max(4, int(0.18 * tall)))
    cv2.line(image, _whole(neck), _whole(bar), shirt, 4)
    cv2.circle(image, _whole((neck[0], neck[1] - 0.10 * tall)), int(0.10 * tall), SKIN, -1)


def _whole(point: Point) -> tuple[int, int]:
    return int(point[0]), int(point[1])


def _legs(image: Image, hip: Point, feet: float, tall: float, doing: str, seconds: float) -> None:
    spread = {"walking": 0.13, "running": 0.27, "dancing": 0.16, "jumping": 0.18}.get(doing, 0.06)
    if doing in ("walking", "running"):
        spread *= 0.75 + 0.25 * abs(math.sin(5 * seconds))
    thick = max(2, int(0.085 * tall))
    for side in (-1, 1):
        foot = (hip[0] + side * spread * tall, feet)
        if doing == "running" and side < 0:
            foot = (foot[0], feet - 0.14 * tall)
        knee = (hip[0] + side * spread * tall * (1.2 if doing == "jumping" else 0.5), (hip[1] + foot[1]) / 2)
        if doing == "jumping":
            foot = (hip[0] + side * 0.06 * tall, feet - 0.02 * tall)
        cv2.line(image, _whole(hip), _whole(knee), TROUSERS, thick)
        cv2.line(image, _whole(knee), _whole(foot), TROUSERS, thick)


def _arms(image: Image, neck: Point, tall: float, doing: str, shirt: Colour) -> None:
    thick = max(2, int(0.07 * tall))
    if doing == "behind":
        return
    if doing == "crossed":
        for side in (-1, 1):
            a, b = (
                (neck[0] - side * 0.15 * tall, neck[1] + 0.10 * tall),
                (neck[0] + side * 0.11 * tall, neck[1] + 0.24 * tall),
            )
            cv2.line(image, _whole(a), _whole(b), SKIN, thick)
        return
    if doing == "hips":
        for side in (-1, 1):
            elbow = (neck[0] + side * 0.29 * tall, neck[1] + 0.20 * tall)
            cv2.line(image, _whole((neck[0] + side * 0.1 * tall, neck[1] + 0.05 * tall)), _whole(elbow), SKIN, thick)
            cv2.line(image, _whole(elbow), _whole((neck[0] + side * 0.11 * tall, neck[1] + 0.34 * tall)), SKIN, thick)
        return
    hands = HANDS.get(doing, HANDS["held"])
    for side, (across, up) in zip((-1, 1), hands, strict=True):
        shoulder = (neck[0] + side * 0.11 * tall, neck[1] + 0.05 * tall)
        cv2.line(image, _whole(shoulder), _whole((neck[0] + across * tall, neck[1] - up * tall)), SKIN, thick)


def _umbrella(image: Image, x: float, feet: float, tall: float) -> None:
    top = (x + 0.10 * tall, feet - 1.02 * tall)
    cv2.line(image, _whole((x + 0.14 * tall, feet - 0.75 * tall)), _whole(top), (40, 40, 40), 2)
    cv2.ellipse(
        image,
        _whole((top[0], top[1] + 0.06 * tall)),
        (int(0.32 * tall), int(0.16 * tall)),
        0,
        180,
        360,
        (60, 190, 200),
        -1,
    )


def _bag(image: Image, x: float, feet: float, tall: float) -> None:
    cv2.rectangle(
        image,
        _whole((x + 0.13 * tall, feet - 0.52 * tall)),
        _whole((x + 0.36 * tall, feet - 0.28 * tall)),
        (120, 75, 35),
        -1,
    )
    cv2.ellipse(
        image,
        _whole((x + 0.245 * tall, feet - 0.52 * tall)),
        (int(0.07 * tall), int(0.09 * tall)),
        0,
        180,
        360,
        (120, 75, 35),
        2,
    )


def _ball(image: Image, x: float, feet: float, tall: float) -> None:
    centre = _whole((x + 0.28 * tall, feet - 0.12 * tall))
    cv2.circle(image, centre, int(0.13 * tall), (250, 250, 250), -1)
    cv2.circle(image, centre, int(0.05 * tall), (10, 10, 10), -1)


def _flag(image: Image, x: float, feet: float, tall: float) -> None:
    pole = x + 0.24 * tall
    cv2.line(image, _whole((pole, feet - 0.35 * tall)), _whole((pole, feet - 1.15 * tall)), (60, 60, 60), 2)
    cv2.rectangle(
        image, _whole((pole, feet - 1.15 * tall)), _whole((pole + 0.3 * tall, feet - 0.93 * tall)), (255, 60, 150), -1
    )


def _balloon(image: Image, x: float, feet: float, tall: float) -> None:
    cv2.line(
        image,
        _whole((x + 0.22 * tall, feet - 0.65 * tall)),
        _whole((x + 0.26 * tall, feet - 1.0 * tall)),
        (70, 70, 70),
        1,
    )
    cv2.circle(image, _whole((x + 0.26 * tall, feet - 1.12 * tall)), int(0.15 * tall), (255, 105, 180), -1)


def _crate(image: Image, x: float, feet: float, tall: float) -> None:
    cv2.rectangle(
        image,
        _whole((x - 0.17 * tall, feet - 0.62 * tall)),
        _whole((x + 0.17 * tall, feet - 0.42 * tall)),
        (196, 150, 95),
        -1,
    )
    cv2.line(image, _whole((x, feet - 0.62 * tall)), _whole((x, feet - 0.42 * tall)), (240, 225, 180), 3)


def _guitar(image: Image, x: float, feet: float, tall: float) -> None:
    cv2.circle(image, _whole((x - 0.08 * tall, feet - 0.46 * tall)), int(0.14 * tall), (170, 95, 30), -1)
    cv2.circle(image, _whole((x - 0.08 * tall, feet - 0.46 * tall)), int(0.05 * tall), (40, 20, 10), -1)
    cv2.line(image, _whole((x, feet - 0.5 * tall)), _whole((x + 0.36 * tall, feet - 0.72 * tall)), (110, 60, 20), 4)


def _broom(image: Image, x: float, feet: float, tall: float) -> None:
    cv2.line(
        image,
        _whole((x + 0.12 * tall, feet - 0.72 * tall)),
        _whole((x + 0.34 * tall, feet - 0.08 * tall)),
        (150, 105, 50),
        3,
    )
    points = [[x + 0.30 * tall, feet - 0.12 * tall], [x + 0.22 * tall, feet], [x + 0.50 * tall, feet]]
    cv2.fillConvexPoly(image, np.array(points, np.int32), (235, 195, 80))


def _spade(image: Image, x: float, feet: float, tall: float) -> None:
    cv2.line(
        image,
        _whole((x - 0.12 * tall, feet - 0.72 * tall)),
        _whole((x - 0.34 * tall, feet - 0.1 * tall)),
        (90, 90, 95),
        3,
    )
    cv2.ellipse(
        image,
        _whole((x - 0.38 * tall, feet - 0.02 * tall)),
        (int(0.17 * tall), int(0.13 * tall)),
        0,
        180,
        360,
        (85, 55, 25),
        -1,
    )


_TOOLS = {
    "umbrella": _umbrella,
    "bag": _bag,
    "ball": _ball,
    "flag": _flag,
    "balloon": _balloon,
    "box": _crate,
    "guitar": _guitar,
    "sweeping": _broom,
    "digging": _spade,
}
