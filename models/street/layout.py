"""Where everything in a scene stands at one moment: the one geometry that drawing and labelling share.

A `Placed` is a thing with its box in fractions of the frame, in drawing order (far things first).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from tam_edge.models.street.world import (
    ACTIONS,
    ROAD_COLUMNS,
    Car,
    Cyclist,
    Dog,
    Person,
    Scene,
    Sign,
    Stay,
    Visitor,
)

TRANSIT_SECONDS = 1.2  # walking or driving into view, and out of it
FEET = {"back": 0.565, "front": 0.965}
HEIGHT = {"back": 0.215, "front": 0.27}
WHEELS = 0.735
CAR_SIZE = (0.30, 0.135)
CHARACTER_PITCH = 1 / 12  # a character a patch: the eye's patches are a twelfth of the frame
SIGN_X = (0.21, 0.5, 0.79)
SIGN_LINES_Y = (0.072, 0.172)
VISITOR_X = {"left": 0.15, "right": 0.85}


@dataclass(frozen=True, slots=True)
class Character:
    """One letter or digit and its middle, in fractions of the frame."""

    text: str
    x: float
    y: float


@dataclass(frozen=True, slots=True)
class Placed:
    """One thing at one moment. Box edges in fractions of the frame."""

    thing: Person | Visitor | Car | Dog | Cyclist | Sign | str
    x: float
    bottom: float
    width: float
    height: float
    moving: int = 0  # -1 going left, 1 going right, 0 in its place
    doing: str | None = None
    characters: tuple[Character, ...] = ()

    @property
    def box(self) -> tuple[float, float, float, float]:
        """Left, top, right and bottom edge."""
        return self.x - self.width / 2, self.bottom - self.height, self.x + self.width / 2, self.bottom


def place_all(scene: Scene, seconds: float) -> list[Placed]:
    """Everything in view at `seconds`, far things first."""
    placed = [_place_sign(scene.sign)] if scene.sign else []
    people = [person for person in scene.people if person.stay.holds(seconds)]
    dog = [scene.dog] if scene.dog and scene.dog.stay.holds(seconds) else []
    placed += [_place_person(person, seconds) for person in people if person.row == "back"]
    placed += [_place_dog(animal, seconds) for animal in dog if animal.row == "back"]
    for car in scene.cars:
        placed += _place_car(car, seconds)
    if scene.cyclist and scene.cyclist.stay.holds(seconds):
        placed.append(_place_cyclist(scene.cyclist, seconds))
    placed += [_place_person(person, seconds) for person in people if person.row == "front"]
    placed += [_place_dog(animal, seconds) for animal in dog if animal.row == "front"]
    if scene.visitor and scene.visitor.stay.holds(seconds):
        placed.append(Placed(scene.visitor, VISITOR_X[scene.visitor.corner], 1.0, 0.27, 0.36))
    return placed


def column_x(column: int) -> float:
    """The middle of a standing place, in fractions of the frame."""
    return 0.09 + 0.164 * column


def _transit(stay: Stay, seconds: float, x: float, edge: float) -> tuple[float, int]:
    """Where something is on its way in from, or out to, an edge; and which way it moves."""
    inward = 1 if x > edge else -1
    if seconds - stay.enters < TRANSIT_SECONDS:
        return edge + (x - edge) * (seconds - stay.enters) / TRANSIT_SECONDS, inward
    if stay.leaves - seconds < TRANSIT_SECONDS:
        return edge + (x - edge) * (stay.leaves - seconds) / TRANSIT_SECONDS, -inward
    return x, 0


def _place_person(person: Person, seconds: float) -> Placed:
    home = column_x(person.column)
    x, moving = _transit(person.stay, seconds, home, -0.06 if person.column < 3 else 1.06)
    doing = None if moving else person.doing_at(seconds)
    bottom = FEET[person.row]
    if doing == "walking":
        x += 0.02 * math.sin(1.3 * seconds)
    if doing == "jumping":
        bottom -= 0.03 + 0.02 * abs(math.sin(4 * seconds))
    height = HEIGHT[person.row]
    tool = doing is not None and doing not in ACTIONS
    return Placed(person, x, bottom, height * (0.42 if tool else 0.40), height, moving, doing)


def _place_dog(dog: Dog, seconds: float) -> Placed:
    x, moving = _transit(dog.stay, seconds, column_x(dog.column), -0.08 if dog.column < 3 else 1.08)
    size = HEIGHT[dog.row]
    return Placed(dog, x, FEET[dog.row], size * 0.55, size * 0.42, moving, None if moving else dog.doing)


def _place_car(car: Car, seconds: float) -> list[Placed]:
    forward = 1 if car.facing == "right" else -1
    home = ROAD_COLUMNS[car.column]
    placed = []
    if car.obstacle:
        placed.append(Placed(car.obstacle, home + forward * 0.195, WHEELS, 0.085, 0.13))
    if not car.stay.holds(seconds):
        return placed
    x, moving = _transit(car.stay, seconds, home, -0.2 if forward > 0 else 1.2)
    if moving:
        moving = forward
    if car.stay.leaves - seconds < TRANSIT_SECONDS:  # it drives on, never backwards
        x = home + forward * 1.2 * (1 - (car.stay.leaves - seconds) / TRANSIT_SECONDS)
    y = WHEELS - 0.062
    code = tuple(Character(c, x + (i - 0.5) * CHARACTER_PITCH, y) for i, c in enumerate(car.code))
    return [*placed, Placed(car, x, WHEELS, *CAR_SIZE, moving, None, code)]


def _place_cyclist(cyclist: Cyclist, seconds: float) -> Placed:
    done = (seconds - cyclist.stay.enters) / (cyclist.stay.leaves - cyclist.stay.enters)
    x = 0.04 + 0.92 * done if cyclist.facing == "right" else 0.96 - 0.92 * done
    return Placed(cyclist, x, WHEELS + 0.03, 0.17, 0.235, 1 if cyclist.facing == "right" else -1)


def _place_sign(sign: Sign) -> Placed:
    x = SIGN_X[sign.column]
    lines = (sign.word, str(sign.number))
    characters = tuple(
        Character(c, x + (i - (len(line) - 1) / 2) * CHARACTER_PITCH, y)
        for line, y in zip(lines, SIGN_LINES_Y, strict=True)
        for i, c in enumerate(line)
    )
    return Placed(sign, x, 0.225, len(sign.word) * CHARACTER_PITCH + 0.03, 0.21, characters=characters)
