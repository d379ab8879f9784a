"""Draws the visitor: somebody's head and shoulders close to the camera, with an expression and a gaze."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from tam_edge.models.street.layout import Placed
from tam_edge.models.street.world import Visitor

Image = NDArray[np.uint8]
Colour = tuple[int, int, int]
SKIN: Colour = (236, 192, 158)
INK: Colour = (25, 20, 20)
PUPILS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1), "camera": (0, 0)}


def draw_visitor(image: Image, placed: Placed, visitor: Visitor, shirt: Colour) -> None:
    """Head and shoulders in the box of `placed`, in place."""
    size = image.shape[0]
    x, top = int(placed.x * size), int((placed.bottom - placed.height) * size)
    radius = int(0.105 * size)
    centre = (x, top + radius + 4)
    cv2.ellipse(image, (x, size), (int(0.135 * size), int(0.12 * size)), 0, 180, 360, shirt, -1)
    cv2.circle(image, centre, radius, SKIN, -1)
    cv2.ellipse(image, (x, centre[1] - radius // 3), (radius, int(radius * 0.75)), 0, 180, 360, (80, 50, 30), -1)
    for side in (-1, 1):
        _eye(image, x + side * int(0.4 * radius), centre[1] + radius // 12, radius, visitor.gaze)
        _brow(image, x + side * int(0.4 * radius), centre[1] - radius // 3, radius, side, visitor.expression)
    _mouth(image, x, centre[1] + int(0.58 * radius), radius, visitor.expression)


def _eye(image: Image, x: int, y: int, radius: int, gaze: str) -> None:
    width, height = int(0.25 * radius), int(0.20 * radius)
    if gaze == "closed":
        cv2.line(image, (x - width, y), (x + width, y), INK, 2)
        return
    cv2.ellipse(image, (x, y), (width, height), 0, 0, 360, (255, 255, 255), -1)
    across, down = PUPILS[gaze]
    cv2.circle(image, (x + across * width * 2 // 3, y + down * height * 2 // 3), max(3, int(0.12 * radius)), INK, -1)


def _brow(image: Image, x: int, y: int, radius: int, side: int, expression: str) -> None:
    tilt = {"angry": 5, "sad": -5}.get(expression, 0)
    lift = {"surprised": -4, "bored": 3}.get(expression, 0)
    inner, outer = x - side * radius // 4, x + side * radius // 4
    cv2.line(image, (inner, y + tilt + lift), (outer, y - tilt + lift), INK, 3)


def _mouth(image: Image, x: int, y: int, radius: int, expression: str) -> None:
    wide, high = int(0.42 * radius), int(0.26 * radius)
    if expression == "happy":
        cv2.ellipse(image, (x, y - high // 2), (wide, high), 0, 0, 180, (190, 40, 40), -1)
    elif expression == "sad":
        cv2.ellipse(image, (x, y + high // 2), (wide, high), 0, 180, 360, INK, 3)
    elif expression == "angry":
        cv2.rectangle(image, (x - wide, y - 4), (x + wide, y + 4), (255, 255, 255), -1)
        cv2.rectangle(image, (x - wide, y - 4), (x + wide, y + 4), INK, 2)
    elif expression == "surprised":
        cv2.ellipse(image, (x, y), (wide // 2, high), 0, 0, 360, (120, 20, 20), -1)
    elif expression == "sleepy":
        cv2.ellipse(image, (x + wide // 2, y), (wide // 3, high // 2), 0, 0, 360, (120, 20, 20), -1)
        cv2.putText(image, "z", (x + radius, y - radius), cv2.FONT_HERSHEY_SIMPLEX, 0.7, (40, 60, 200), 2)
    else:
        cv2.line(image, (x - wide, y), (x + wide, y), INK, 3)
