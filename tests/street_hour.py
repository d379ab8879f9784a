"""A synthetic hour of the street camera in which known things happen, for `watch`."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tam_edge.models.street import Scene, render
from tam_edge.models.street.world import ALWAYS, Dog, Person, Sign, Stay

SHORTEST_SECONDS, LONGEST_SECONDS = 28.0, 42.0
"""How long somebody stays."""
QUIET_SECONDS = 45.0
"""Least time between two who come: longer than checks look back and a rule takes to see that it is over."""


@dataclass(frozen=True)
class Happening:
    """Somebody comes, does something and leaves."""

    enters: float
    leaves: float
    doing: str


def happenings(count: int, seconds: float, doings: Sequence[str], seed: int = 0) -> list[Happening]:
    """So many, each in its own part of the time."""
    rng, part = random.Random(f"hour-{seed}"), seconds / count
    found = list[Happening]()
    for index in range(count):
        stay = rng.uniform(SHORTEST_SECONDS, min(LONGEST_SECONDS, part - QUIET_SECONDS))
        enters = index * part + rng.uniform(QUIET_SECONDS / 2, part - stay - QUIET_SECONDS / 2)
        found.append(Happening(enters, enters + stay, doings[index % len(doings)]))
    return found


def scene_at(index: int, happening: Happening, colour: str, place: str, weather: str) -> Scene:
    """The street while one of them comes and goes; dog and sign are always there."""
    rng = random.Random(f"scene-{index}")
    row, column = rng.choice((("front", 2), ("front", 3), ("back", 1), ("back", 4), ("front", 4)))
    person = Person(colour, row, column, happening.doing, Stay(happening.enters, happening.leaves))
    return Scene(
        seed=41,
        duration_seconds=ALWAYS,
        place=place,
        weather=weather,
        later_weather=None,
        weather_changes=ALWAYS,
        first_light="day",
        light_changes=(),
        people=(person,),
        visitor=None,
        cyclist=None,
        cars=(),
        dog=Dog("back", 0, "sleeping", Stay()),
        sign=Sign("EXIT", 42, 1),
        events=(),
    )


def frames(
    happening: Sequence[Happening], seconds: float, colour: str = "red", place: str = "station", weather: str = "clear"
) -> Iterator[tuple[NDArray[np.uint8], float]]:
    """One frame a second."""
    scenes = [scene_at(index, one, colour, place, weather) for index, one in enumerate(happening)]
    for second in range(int(seconds)):
        scene = next((s for s, one in zip(scenes, happening, strict=True) if second < one.leaves + 2), scenes[-1])
        yield render(scene, float(second)), float(second)
