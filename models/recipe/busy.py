"""Scenes in which everything comes and goes, several things at a time: for notes alone, nobody could ask about them.

A clip of the street camera holds four or five events, each of another person or thing; to notice who came, went or
began something else takes some hundred examples of each colour. These hold four times as many: after 500 steps of notes
nine arrivals of ten were noticed instead of three.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace

from tam_edge.models.street.world import (
    ACTIONS,
    ALWAYS,
    ARMS,
    COLOURS,
    COLUMNS,
    HELD,
    ROWS,
    Person,
    Scene,
    Stay,
    with_events,
)

STAYING, SWITCHING = 0.25, 0.8  # chances of a thing to stay all the time, and of who stays to begin something else


def make_busy(scene: Scene, rng: random.Random) -> Scene:
    """The same place and people at other times."""
    everybody = (*scene.people, *_others(scene, rng))
    people = tuple(_busy_person(person, scene.duration_seconds, rng) for person in everybody)
    visitor, dog = scene.visitor, scene.dog
    visitor = replace(visitor, stay=_stay(scene.duration_seconds, rng)) if visitor else None
    dog = replace(dog, stay=_stay(scene.duration_seconds, rng)) if dog else None
    cars = tuple(replace(car, stay=_stay(scene.duration_seconds, rng)) for car in scene.cars)
    return with_events(replace(scene, people=people, visitor=visitor, dog=dog, cars=cars, events=()))


def _others(scene: Scene, rng: random.Random) -> Iterator[Person]:
    """People in the colours that are left, where nobody stands."""
    taken = {(person.row, person.column) for person in scene.people}
    taken |= {(scene.dog.row, scene.dog.column)} if scene.dog else set()
    spots = [(row, column) for row in ROWS for column in range(COLUMNS) if (row, column) not in taken]
    colours = [colour for colour in COLOURS if colour not in scene.stays()]
    for colour, (row, column) in zip(colours, rng.sample(spots, min(len(colours), len(spots))), strict=False):
        yield Person(colour, row, column, rng.choice(rng.choice((ACTIONS, ACTIONS, ARMS, HELD))), Stay(), None, ALWAYS)


def _busy_person(person: Person, duration_seconds: float, rng: random.Random) -> Person:
    stay = _stay(duration_seconds, rng)
    begins = person.doing in ACTIONS and stay == Stay() and rng.random() < SWITCHING
    later = rng.choice([action for action in ACTIONS if action != person.doing]) if begins else None
    return replace(person, stay=stay, later=later, switches=rng.random() * duration_seconds if begins else ALWAYS)


def _stay(duration_seconds: float, rng: random.Random) -> Stay:
    if rng.random() < STAYING:
        return Stay()
    moments = sorted(rng.random() * duration_seconds for _ in range(2))
    kind = rng.random()
    return Stay(*moments) if kind < 0.6 else Stay(enters=moments[0]) if kind < 0.8 else Stay(leaves=moments[1])
