"""Draws what stands on the street: people, the visitor's face, cars, dogs, cyclists, signs, what blocks the road."""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.typing import NDArray

from tam_edge.models.street.faces import draw_visitor
from tam_edge.models.street.layout import Character, Placed
from tam_edge.models.street.people import draw_cyclist, draw_person
from tam_edge.models.street.world import Car, Cyclist, Dog, Person, Sign, Visitor

Image = NDArray[np.uint8]
Colour = tuple[int, int, int]
RGB: dict[str, Colour] = {
    "red": (215, 35, 35),
    "blue": (40, 70, 215),
    "green": (30, 150, 50),
    "yellow": (240, 215, 40),
    "purple": (140, 45, 160),
    "orange": (245, 130, 20),
    "white": (245, 245, 245),
    "black": (25, 25, 28),
}
DOG = (150, 100, 55)
FONT = cv2.FONT_HERSHEY_SIMPLEX


def draw_placed(image: Image, placed: Placed, seconds: float) -> None:
    """Draws one thing in its box, onto `image` [H, W, 3] uint8 RGB, in place."""
    thing = placed.thing
    if isinstance(thing, Person):
        draw_person(image, placed, RGB[thing.colour], seconds)
    elif isinstance(thing, Visitor):
        draw_visitor(image, placed, thing, RGB[thing.colour])
    elif isinstance(thing, Car):
        _draw_car(image, placed, thing)
    elif isinstance(thing, Dog):
        _draw_dog(image, placed, seconds)
    elif isinstance(thing, Cyclist):
        draw_cyclist(image, placed, RGB[thing.colour], seconds)
    elif isinstance(thing, Sign):
        _draw_sign(image, placed)
    else:
        _draw_obstacle(image, placed, thing)


def _pixels(image: Image, placed: Placed) -> tuple[int, int, int, int]:
    size = image.shape[0]
    x0, y0, x1, y1 = placed.box
    return int(x0 * size), int(y0 * size), int(x1 * size), int(y1 * size)


def _draw_characters(image: Image, characters: tuple[Character, ...], ink: Colour) -> None:
    size = image.shape[0]
    for character in characters:
        scale = 0.86 * size / 336
        (width, height), _ = cv2.getTextSize(character.text, FONT, scale, 2)
        at = (int(character.x * size - width / 2), int(character.y * size + height / 2))
        cv2.putText(image, character.text, at, FONT, scale, ink, 2, cv2.LINE_AA)


def _draw_sign(image: Image, placed: Placed) -> None:
    x0, y0, x1, y1 = _pixels(image, placed)
    size = image.shape[0]
    cv2.rectangle(image, ((x0 + x1) // 2 - 3, y1), ((x0 + x1) // 2 + 3, int(0.42 * size)), (70, 70, 75), -1)
    cv2.rectangle(image, (x0, y0), (x1, y1), (250, 250, 240), -1)
    cv2.rectangle(image, (x0, y0), (x1, y1), (30, 60, 130), 2)
    _draw_characters(image, placed.characters, (15, 15, 20))


def _draw_car(image: Image, placed: Placed, car: Car) -> None:
    x0, y0, x1, y1 = _pixels(image, placed)
    width, height = x1 - x0, y1 - y0
    colour = RGB[car.colour]
    roof = np.array(
        [
            [x0 + width // 5, y0 + height // 3],
            [x0 + width // 3, y0],
            [x1 - width // 3, y0],
            [x1 - width // 5, y0 + height // 3],
        ],
        np.int32,
    )
    cv2.fillConvexPoly(image, roof, tuple(int(value * 0.75) for value in colour))
    cv2.rectangle(image, (x0, y0 + height // 3), (x1, y1 - height // 6), colour, -1)
    cv2.rectangle(image, (x0, y0 + height // 3), (x1, y1 - height // 6), (20, 20, 20), 1)
    front = x1 - 5 if car.facing == "right" else x0 + 1
    cv2.rectangle(image, (front, y0 + height // 2), (front + 4, y0 + height // 2 + 6), (255, 245, 170), -1)
    for x in (x0 + width // 5, x1 - width // 5):
        cv2.circle(image, (x, y1 - height // 8), height // 6, (15, 15, 15), -1)
    half = int(0.085 * image.shape[0])
    middle = (x0 + x1) // 2
    cv2.rectangle(image, (middle - half, y0 + height // 3 + 1), (middle + half, y1 - height // 5), (248, 248, 240), -1)
    _draw_characters(image, placed.characters, (15, 15, 20))


def _draw_dog(image: Image, placed: Placed, seconds: float) -> None:
    x0, y0, x1, y1 = _pixels(image, placed)
    width, height = x1 - x0, y1 - y0
    body_y, head = y0 + height // 2, (x1 - width // 6, y0 + height // 4)
    doing = placed.doing
    if doing == "sleeping":
        cv2.ellipse(image, ((x0 + x1) // 2, y1 - height // 6), (width // 2, height // 6), 0, 0, 360, DOG, -1)
        cv2.putText(image, "Z", (x1 - 8, y0 + height // 2), FONT, 0.5, (30, 30, 160), 2)
        return
    if doing in ("sitting", "begging"):
        lean = 8 if doing == "begging" else 0
        points = [[x0 + width // 4, y1], [x1 - width // 3, y1], [x1 - width // 4, y0 + height // 4 - lean]]
        cv2.fillConvexPoly(image, np.array(points, np.int32), DOG)
        cv2.circle(image, (x1 - width // 4, y0 + height // 5 - lean), height // 5, DOG, -1)
        if doing == "begging":
            cv2.line(image, (x1 - width // 3, body_y), (x1 + 2, body_y - height // 4), DOG, 4)
            cv2.line(image, (x1 - width // 3, body_y + 5), (x1 + 2, body_y - height // 8), DOG, 4)
        return
    if doing == "sniffing":
        head = (x1 - width // 8, y1 - height // 7)
    cv2.rectangle(image, (x0 + width // 6, body_y - height // 6), (x1 - width // 4, body_y + height // 6), DOG, -1)
    cv2.line(image, (x1 - width // 3, body_y), head, DOG, 6)
    cv2.circle(image, head, height // 6, DOG, -1)
    swing = int(5 * math.sin(9 * seconds)) if doing in ("trotting", None) else 0
    for x in (x0 + width // 5, x1 - width // 3):
        cv2.line(image, (x, body_y), (x - swing - (6 if doing == "trotting" else 0), y1), DOG, 4)
        cv2.line(image, (x, body_y), (x + swing + (6 if doing == "trotting" else 0), y1), DOG, 4)
    if doing == "barking":
        for lift in (-7, 0, 7):
            cv2.line(image, (x1, y0 + height // 4 + lift // 2), (x1 + 11, y0 + height // 4 + lift), (250, 60, 40), 2)


def _draw_obstacle(image: Image, placed: Placed, name: str) -> None:
    x0, y0, x1, y1 = _pixels(image, placed)
    middle, height = (x0 + x1) // 2, y1 - y0
    if name == "light":
        cv2.rectangle(image, (middle - 2, y0), (middle + 2, y1), (40, 40, 40), -1)
        cv2.rectangle(image, (middle - 8, y0 - 8), (middle + 8, y0 + 20), (20, 20, 20), -1)
        cv2.circle(image, (middle, y0), 7, (255, 30, 30), -1)
    elif name == "cone":
        points = [[middle, y0 + height // 5], [x0, y1], [x1, y1]]
        cv2.fillConvexPoly(image, np.array(points, np.int32), (250, 110, 20))
        cv2.line(image, (x0 + 7, y1 - height // 3), (x1 - 7, y1 - height // 3), (255, 255, 255), 4)
    elif name == "log":
        cv2.rectangle(image, (x0 - 5, y1 - height // 3), (x1 + 5, y1), (110, 70, 35), -1)
        cv2.ellipse(image, (x1 + 5, y1 - height // 6), (4, height // 6), 0, 0, 360, (205, 165, 110), -1)
    elif name == "stone":
        cv2.ellipse(
            image, (middle, y1 - height // 4), ((x1 - x0) // 2 + 3, height // 4 + 3), 0, 0, 360, (165, 165, 170), -1
        )
        cv2.ellipse(image, (middle - 3, y1 - height // 3), (6, 4), 0, 0, 360, (215, 215, 220), -1)
    elif name == "barrier":
        for i in range(6):
            colour = (220, 30, 30) if i % 2 else (250, 250, 250)
            top = y0 + i * height // 6
            cv2.rectangle(image, (middle - 5, top), (middle + 5, top + height // 6), colour, -1)
    else:
        cv2.ellipse(image, (middle, y1 - 5), ((x1 - x0) // 2 + 6, 10), 0, 0, 360, (60, 140, 225), -1)
        cv2.ellipse(image, (middle, y1 - 6), ((x1 - x0) // 4, 4), 0, 0, 360, (170, 215, 250), -1)
