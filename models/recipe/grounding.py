"""Short questions with one hop: "the person in red: place". They are never asked of a finished model; they teach it
to look.

A sentence hides one bit of binding behind a dozen words; these put the same bit behind a few, many to a view, and
"the person in red" stops being at chance. Names come in every form: at the start of a line the tokenizer cuts "red"
into pieces that nothing in a picture looks like, so "red person" is bound first; the word " red" itself also names what
pictures show, and is bound only on the way from the one form to the other.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

from tam_edge.models.street.layout import SIGN_X, column_x
from tam_edge.models.street.question import Question
from tam_edge.models.street.questions import SIDES
from tam_edge.models.street.world import ACTIONS, ARMS, COLOURS, EXPRESSIONS, HELD, ROAD_COLUMNS, ROWS, Scene, Stay

FAMILY = "grounding"
TENTHS = tuple(range(0, 100, 10))  # per cent of the clip at which something is asked

Hint = tuple[str, str, int]  # text, answer, task type
NAMES = ("{} person", "the {} person", "the person in {}", "the one in {}", "whoever wears {}")
DOERS = ("{}", "the one {}", "who is {}")


def ground_places(scene: Scene, again: int = 0) -> list[Question]:
    """Who is there at all; and what is where, for everything that never comes or goes (a picture has nothing else)."""
    rng = random.Random(f"places-{scene.seed}-{again}")
    hints = [
        *_presence(scene, rng),
        *_people(scene, rng),
        *_checks(scene, rng),
        *_rows(scene),
        *_things(scene),
        *_characters(scene),
    ]
    return [Question(text, answer, task, FAMILY) for text, answer, task in hints]


def ground_people(scene: Scene, again: int = 0) -> list[Question]:
    """Who does what where, and nothing else: each person by two names. With these alone names are bound soonest."""
    rng = random.Random(f"people-{scene.seed}-{again}")
    hints = [*_presence(scene, rng), *_people(scene, rng), *_people(scene, rng)]
    return [Question(text, answer, task, FAMILY) for text, answer, task in hints]


def ground_times(scene: Scene, again: int = 0) -> list[Question]:
    """What is when: light and people at some moments, and what happens before what."""
    rng = random.Random(f"times-{scene.seed}-{again}")
    hints = [*_orders(scene, rng), *_moments(scene, rng), *_presence(scene, rng)]
    return [Question(text, answer, task, FAMILY) for text, answer, task in hints]


def _side(x: float) -> str:
    return SIDES[min(2, int(3 * x))]


def _name(colour: str, rng: random.Random) -> str:
    return rng.choice(NAMES).format(colour)


def _presence(scene: Scene, rng: random.Random) -> Iterator[Hint]:
    """Counting is listing: everybody who is ever seen, in one order for all scenes, and some who may not be there."""
    there = scene.stays()
    yield "the people: colours", " ".join(colour for colour in COLOURS if colour in there) or "nobody", 1
    for colour in rng.sample(COLOURS, 3):
        yield f"{_name(colour, rng)}: here", _yes(colour in there), 1


def _people(scene: Scene, rng: random.Random) -> Iterator[Hint]:
    doings = [person.doing for person in scene.people]
    for person in scene.people:
        if person.stay != Stay() or person.later:
            continue
        yield f"{_name(person.colour, rng)}: doing", person.doing, 2
        yield f"{_name(person.colour, rng)}: place", f"{person.row} {_side(column_x(person.column))}", 5
        yield f"{_name(person.colour, rng)}: column", str(person.column + 1), 5
        if doings.count(person.doing) == 1:
            yield f"{rng.choice(DOERS).format(person.doing)}: colour", person.colour, 2


def _checks(scene: Scene, rng: random.Random) -> Iterator[Hint]:
    """Yes or no about what was told right or wrong: comparing a word with a picture is learned last."""
    doings = {person.doing for person in scene.people}
    for doing in rng.sample((*ACTIONS, *ARMS, *HELD), 2):
        yield f"somebody {doing}: here", _yes(doing in doings), 2
    steady = [person for person in scene.people if person.stay == Stay() and not person.later]
    for person in rng.sample(steady, min(2, len(steady))):
        doing = person.doing if rng.random() < 0.5 else rng.choice((*ACTIONS, *ARMS, *HELD))
        yield f"{_name(person.colour, rng)} {doing}: so", _yes(doing == person.doing), 2
    if len(steady) > 1:
        one, other = rng.sample(steady, 2)
        if one.column != other.column:
            text = f"{_name(one.colour, rng)} left of {_name(other.colour, rng)}: so"
            yield text, _yes(one.column < other.column), 5
    if scene.visitor and scene.visitor.stay == Stay():
        mood = scene.visitor.expression if rng.random() < 0.5 else rng.choice(EXPRESSIONS)
        yield f"the face {mood}: so", _yes(mood == scene.visitor.expression), 3


def _yes(holds: bool) -> str:
    return "yes" if holds else "no"


def _rows(scene: Scene) -> Iterator[Hint]:
    """Everybody of a row from left to right, where nobody comes or goes."""
    for row in ROWS:
        people = sorted((person for person in scene.people if person.row == row), key=lambda person: person.column)
        if people and all(person.stay == Stay() for person in people):
            yield f"the {row} row", " ".join(person.colour for person in people), 5


def _things(scene: Scene) -> Iterator[Hint]:
    if len(scene.cars) == 1 and scene.cars[0].stay == Stay():
        yield "the car: colour", scene.cars[0].colour, 1
        yield "the car: place", _side(ROAD_COLUMNS[scene.cars[0].column]), 5
    for car in scene.cars:
        if car.obstacle:
            yield "the obstacle", car.obstacle, 7
        if len(scene.cars) > 1 and car.stay == Stay():
            yield f"the {car.colour} car: place", _side(ROAD_COLUMNS[car.column]), 5
    if scene.dog and scene.dog.stay == Stay():
        yield "the dog: doing", scene.dog.doing, 2
        yield "the dog: place", f"{scene.dog.row} {_side(column_x(scene.dog.column))}", 5
    if scene.visitor and scene.visitor.stay == Stay():
        yield "the visitor: colour", scene.visitor.colour, 1
        yield "the visitor: side", scene.visitor.corner, 5
    if scene.sign:
        yield "the sign: place", _side(SIGN_X[scene.sign.column]), 5


def _characters(scene: Scene) -> Iterator[Hint]:
    if len(scene.cars) == 1 and scene.cars[0].stay == Stay():
        yield "the car: letter", scene.cars[0].code[0], 8
        yield "the car: digit", scene.cars[0].code[1], 8


def _orders(scene: Scene, rng: random.Random) -> Iterator[Hint]:
    """What happens before what, and the light from beginning to end."""
    texts = [event.text for event in scene.events]
    once = [event for event in scene.events if texts.count(event.text) == 1]
    if len(once) > 1:
        one, other = rng.sample(once, 2)
        yield f"{one.text} before {other.text}: so", _yes(one.seconds < other.seconds), 4
    yield "the lights", " ".join(scene.light_at(seconds) for seconds in (0.0, *scene.light_changes)), 4


def _moments(scene: Scene, rng: random.Random) -> Iterator[Hint]:
    for tenth in rng.sample(TENTHS, 4):
        seconds = tenth / 100 * scene.duration_seconds
        yield f"the light at {tenth}", scene.light_at(seconds), 4
        yield f"the people at {tenth}", str(scene.people_at(seconds)), 4
