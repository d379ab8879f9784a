"""Short questions with one hop: "red person: place". They are never asked of a finished model; they teach it to look.

A sentence hides one bit of binding behind a dozen words; these put the same bit behind three, many to a view, and
"the person in red" stops being at chance.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator

from tam_edge.models.street.layout import SIGN_X, column_x
from tam_edge.models.street.questions import SIDES, Question
from tam_edge.models.street.world import COLUMNS, ROAD_COLUMNS, ROWS, Scene, Stay

FAMILY = "grounding"
TENTHS = tuple(range(0, 100, 10))  # per cent of the clip at which something is asked


def ground_places(scene: Scene) -> list[Question]:
    """What is where, for everything that never comes or goes; a picture has nothing else."""
    asked = [*_people(scene), *_spots(scene), *_things(scene), *_characters(scene)]
    return [Question(text, answer, task, FAMILY) for text, answer, task in asked]


def ground_times(scene: Scene) -> list[Question]:
    """What is when: light and people at tenths of the clip, when things come and go, and the events in order."""
    asked = [*_moments(scene), *_turns(scene)]
    asked += [(f"event {index + 1}", event.text, 4) for index, event in enumerate(scene.events)]
    return [Question(text, answer, task, FAMILY) for text, answer, task in asked]


def _side(x: float) -> str:
    return SIDES[min(2, int(3 * x))]


def _people(scene: Scene) -> Iterator[tuple[str, str, int]]:
    doings = [person.doing for person in scene.people]
    for person in scene.people:
        if person.stay != Stay() or person.later:
            continue
        yield f"{person.colour} person: doing", person.doing, 2
        yield f"{person.colour} person: place", f"{person.row} {_side(column_x(person.column))}", 5
        yield f"{person.colour} person: column", str(person.column + 1), 5
        if doings.count(person.doing) == 1:
            yield f"{person.doing}: colour", person.colour, 2


def _spots(scene: Scene) -> Iterator[tuple[str, str, int]]:
    """Who stands at a place, asked of places that never change; half of the answers would be "nobody" otherwise."""
    steady = {
        (person.row, person.column): f"{person.colour} person" for person in scene.people if person.stay == Stay()
    }
    taken = {(person.row, person.column) for person in scene.people}
    if scene.dog:
        taken.add((scene.dog.row, scene.dog.column))
        if scene.dog.stay == Stay():
            steady[scene.dog.row, scene.dog.column] = "dog"
    for spot, name in steady.items():
        yield f"{spot[0]} {spot[1] + 1}", name, 5
    empty = [(row, column) for row in ROWS for column in range(COLUMNS) if (row, column) not in taken]
    for row, column in random.Random(scene.seed).sample(empty, min(2, len(empty))):
        if scene.visitor is None or row == "back":
            yield f"{row} {column + 1}", "nobody", 5


def _things(scene: Scene) -> Iterator[tuple[str, str, int]]:
    if len(scene.cars) == 1 and scene.cars[0].stay == Stay():
        yield "car: colour", scene.cars[0].colour, 1
        yield "car: place", _side(ROAD_COLUMNS[scene.cars[0].column]), 5
    for car in scene.cars:
        if len(scene.cars) > 1 and car.stay == Stay():
            yield f"{car.colour} car: place", _side(ROAD_COLUMNS[car.column]), 5
    if scene.dog and scene.dog.stay == Stay():
        yield "dog: doing", scene.dog.doing, 2
        yield "dog: place", f"{scene.dog.row} {_side(column_x(scene.dog.column))}", 5
    if scene.visitor and scene.visitor.stay == Stay():
        yield "visitor: colour", scene.visitor.colour, 1
        yield "visitor: side", scene.visitor.corner, 5
    if scene.sign:
        yield "sign: place", _side(SIGN_X[scene.sign.column]), 5


def _characters(scene: Scene) -> Iterator[tuple[str, str, int]]:
    if scene.sign:
        for index, letter in enumerate(scene.sign.word):
            yield f"sign: letter {index + 1}", letter, 8
        for index, digit in enumerate(str(scene.sign.number)):
            yield f"sign: digit {index + 1}", digit, 8
    if len(scene.cars) == 1 and scene.cars[0].stay == Stay():
        yield "car: letter", scene.cars[0].code[0], 8
        yield "car: digit", scene.cars[0].code[1], 8


def _moments(scene: Scene) -> Iterator[tuple[str, str, int]]:
    for tenth in TENTHS:
        seconds = tenth / 100 * scene.duration_seconds
        yield f"light at {tenth}", scene.light_at(seconds), 4
        yield f"people at {tenth}", str(scene.people_at(seconds)), 4


def _turns(scene: Scene) -> Iterator[tuple[str, str, int]]:
    stays = {f"{colour} person": stay for colour, stay in scene.stays().items()}
    if scene.dog:
        stays["dog"] = scene.dog.stay
    if len(scene.cars) == 1:
        stays["car"] = scene.cars[0].stay
    for name, stay in stays.items():
        for word, seconds in (("arrives", stay.enters), ("leaves", stay.leaves)):
            if math.isfinite(seconds):
                yield f"{name} {word}: when", str(10 * round(10 * seconds / scene.duration_seconds)), 4
    for index, change in enumerate(scene.light_changes):
        yield f"light change {index + 1}: when", str(10 * round(10 * change / scene.duration_seconds)), 4
