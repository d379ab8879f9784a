"""What every patch of a frame shows: dense labels that teach the eye, and symbols that teach the language model.

A label is one choice per patch and group ("kind": person, "colour": red, ...); 0 is "nothing". Each choice is also a
word of the questions, so the same table says which words a patch stands for.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tam_edge.models.street.layout import Placed, place_all
from tam_edge.models.street.world import (
    ACTIONS,
    ARMS,
    COLOURS,
    DOG_ACTIONS,
    EXPRESSIONS,
    GAZES,
    HELD,
    LIGHTS,
    OBSTACLES,
    PLACES,
    WEATHERS,
    Car,
    Cyclist,
    Dog,
    Person,
    Scene,
    Sign,
    Visitor,
)

GRID = 12
GROUPS: dict[str, tuple[str, ...]] = {
    "kind": ("person", "car", "dog", "cyclist", "sign", "visitor", "obstacle"),
    "colour": COLOURS,
    "doing": (*ACTIONS, *ARMS, *HELD, *DOG_ACTIONS),
    "character": tuple("ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"),
    "obstacle": OBSTACLES,
    "expression": EXPRESSIONS,
    "gaze": GAZES,
    "place": PLACES,
    "weather": WEATHERS,
    "light": LIGHTS,
}
GROUP_INDEX = {name: index for index, name in enumerate(GROUPS)}
CHOICES: dict[str, dict[str, int]] = {
    group: {word: index + 1 for index, word in enumerate(words)} for group, words in GROUPS.items()
}
SKY_ROWS = 5  # rows of patches that carry place, weather and light
COVERED = 0.3  # a thing owns a patch it covers at least this much of


def label_frame(scene: Scene, seconds: float) -> NDArray[np.uint8]:
    """The labels of one frame: [GRID * GRID, len(GROUPS)] uint8, row by row, 0 where a group has nothing to say."""
    labels = np.zeros((GRID, GRID, len(GROUPS)), np.uint8)
    for group, word in (
        ("place", scene.place),
        ("weather", scene.weather_at(seconds)),
        ("light", scene.light_at(seconds)),
    ):
        labels[:SKY_ROWS, :, GROUP_INDEX[group]] = CHOICES[group][word]
    for placed in place_all(scene, seconds):
        _mark(labels, placed)
    return labels.reshape(GRID * GRID, len(GROUPS))


def _mark(labels: NDArray[np.uint8], placed: Placed) -> None:
    covered = np.outer(_overlap(*placed.box[1::2]), _overlap(*placed.box[::2])) >= COVERED  # [GRID, GRID]
    labels[covered, : GROUP_INDEX["place"]] = 0  # what stands in front hides what is behind
    for group, word in _describe(placed).items():
        labels[covered, GROUP_INDEX[group]] = CHOICES[group][word]
    for character in placed.characters:
        column, row = int(character.x * GRID), int(character.y * GRID)
        if 0 <= column < GRID:
            labels[row, column, GROUP_INDEX["character"]] = CHOICES["character"][character.text]


def _overlap(low: float, high: float) -> NDArray[np.float64]:
    """Which part of each of GRID cells lies in [low, high]: [GRID] in 0..1."""
    edges = np.arange(GRID)
    part: NDArray[np.float64] = np.clip(np.minimum(edges + 1, high * GRID) - np.maximum(edges, low * GRID), 0, 1)
    return part


def _describe(placed: Placed) -> dict[str, str]:
    thing = placed.thing
    doing = {"doing": placed.doing} if placed.doing else {}
    if isinstance(thing, Person):
        return {"kind": "person", "colour": thing.colour, **doing}
    if isinstance(thing, Visitor):
        return {"kind": "visitor", "colour": thing.colour, "expression": thing.expression, "gaze": thing.gaze}
    if isinstance(thing, Car):
        return {"kind": "car", "colour": thing.colour}
    if isinstance(thing, Dog):
        return {"kind": "dog", **doing}
    if isinstance(thing, Cyclist):
        return {"kind": "cyclist", "colour": thing.colour}
    if isinstance(thing, Sign):
        return {"kind": "sign"}
    return {"kind": "obstacle", "obstacle": str(thing)}
