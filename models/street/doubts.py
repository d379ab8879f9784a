"""Questions whose subject may not be in the clip at all: the right answer is then "I can't tell".

Each family here asks in the words of another one, about something that is there or, seldom enough that guessing does
not pay, about something that never is.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

from tam_edge.models.street import phrases
from tam_edge.models.street.question import Asked, Question, name_person
from tam_edge.models.street.world import COLOURS, Scene

CANNOT_TELL = "I can't tell"
ASKED_AGAIN = 0.4  # how often a question of the family that is borrowed from is asked again here
MISSING = {  # how often what is missing is asked for: a fifth to a quarter of each family's answers
    "action": 0.07,
    "held": 0.095,
    "arms": 0.08,
    "where": 0.28,
    "car colour": 0.35,
    "dog action": 0.09,
    "mood": 0.07,
    "sign word": 0.40,
    "after": 0.13,
}
PREFIX = "doubt "


def doubts(scene: Scene, certain: list[Question], rng: random.Random) -> Iterator[Question]:
    """Some of the `certain` questions, and some about what this scene does not have."""
    for question in certain:
        if question.family in MISSING and rng.random() < ASKED_AGAIN:
            yield Question(question.text, question.answer, question.task, PREFIX + question.family)
    for family, fills, answer in _missing(scene, rng):
        if rng.random() < MISSING[family]:
            text = rng.choice(phrases.PHRASES[family]).format(**fills)
            yield Question(text, answer, phrases.TASK_OF_FAMILY[family], PREFIX + family)


def _missing(scene: Scene, rng: random.Random) -> Asked:
    absent = rng.choice([colour for colour in COLOURS if colour not in scene.stays()])
    for family in ("action", "held", "arms"):
        yield family, {"who": name_person(absent, rng)}, CANNOT_TELL
    things = {"dog": scene.dog, "car": scene.cars, "sign": scene.sign, f"person in {absent}": None}
    yield "where", {"thing": f"the {rng.choice([name for name, thing in things.items() if not thing])}"}, CANNOT_TELL
    if not scene.cars:
        yield "car colour", {}, CANNOT_TELL
    if not scene.dog:
        yield "dog action", {}, CANNOT_TELL
    if not scene.visitor:
        yield "mood", {}, CANNOT_TELL
    if not scene.sign:
        yield "sign word", {}, CANNOT_TELL
    if scene.events:
        yield "after", {"event": rng.choice(_never(scene, absent))}, CANNOT_TELL


def _never(scene: Scene, absent: str) -> list[str]:
    """Events that do not happen, as a question tells them."""
    named = [event.text for event in scene.events]
    could = ["it gets dark", "it gets light", "it starts to rain", "it starts to snow", "a cyclist passes"]
    could += ["a dog arrives", "the dog leaves", f"a person in {absent} arrives", f"the person in {absent} leaves"]
    return [text.replace("a dog", "the dog").replace("a person", "the person") for text in could if text not in named]
