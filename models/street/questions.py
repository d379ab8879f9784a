"""Questions about a scene with the one right answer, for all eight task types.

A family is asked only where its answer is certain and can be seen. `questions(scene)` is the same for ever for the
same scene.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable

from tam_edge.models.street import phrases
from tam_edge.models.street.doubts import doubts
from tam_edge.models.street.layout import SIGN_X, column_x
from tam_edge.models.street.question import Asked, Question, name_person
from tam_edge.models.street.world import (
    ACTIONS,
    ARMS,
    EXPRESSIONS,
    HELD,
    ROAD_COLUMNS,
    Person,
    Scene,
    Stay,
)

SEEN_FRACTION = 0.4  # what a few frames must not miss is in view for at least this part of the clip
REWORDED = 5000  # round of wordings from which families that ask in doubt borrow
SIDES = ("left", "middle", "right")
KEEP = {  # how often a frequent answer is asked for, so that guessing it does not pay
    ("count at the end", "0"): 0.5,
    ("light changes", "0"): 0.4,
    ("light changes", "1"): 0.75,
    ("development", "nothing much changes"): 0.6,
    ("development", "the light keeps changing"): 0.12,
    ("development", "day turns into night"): 0.6,
    ("development", "night turns into day"): 0.6,
    ("neighbour", "nobody"): 0.12,
    ("is left", "no"): 0.95,
    ("view", "the night"): 0.5,
    ("exists", "no"): 0.5,
    ("exists", "yes"): 0.5,
}


def questions(scene: Scene, again: int = 0) -> list[Question]:
    """Every question of this scene, in a fixed order; `again` > 0 words them anew and asks about others."""
    borrowed = _certain(scene, REWORDED + again)
    return [*_certain(scene, again), *doubts(scene, borrowed, random.Random(f"doubts-{scene.seed}-{again}"))]


def _certain(scene: Scene, again: int) -> list[Question]:
    """The questions about what is there."""
    rng = random.Random(f"questions-{scene.seed}-{again}")
    asked = []
    for ask in _ASKERS:
        for family, fills, answer in ask(scene, rng):
            if rng.random() >= KEEP.get((family, answer), 1.0):
                continue
            text = rng.choice(phrases.PHRASES[family]).format(**fills)
            asked.append(Question(text, answer, phrases.TASK_OF_FAMILY[family], family))
    return asked


def _seen(scene: Scene, stay: Stay) -> bool:
    shown = min(stay.leaves, scene.duration_seconds) - max(stay.enters, 0.0)
    return shown >= SEEN_FRACTION * scene.duration_seconds


def _seen_people(scene: Scene, among: tuple[str, ...]) -> list[Person]:
    return [
        person
        for person in scene.people
        if person.later is None and person.doing in among and _seen(scene, person.stay)
    ]


def _ask_counts(scene: Scene, rng: random.Random) -> Asked:
    yield "count", {}, str(len(scene.stays()))
    moments = [0.0, *(event.seconds for event in scene.events), scene.duration_seconds - 1e-3]
    yield "count at once", {}, str(max(scene.people_at(moment) for moment in moments))
    if not scene.cyclist or scene.cyclist.stay.leaves < 0.95 * scene.duration_seconds:
        yield "count at the end", {}, str(scene.people_at(scene.duration_seconds - 1e-3))


def _ask_looks(scene: Scene, rng: random.Random) -> Asked:
    if len(scene.cars) == 1:
        yield "car colour", {}, scene.cars[0].colour
    for person in _seen_people(scene, HELD):
        yield "held", {"who": name_person(person.colour, rng)}, phrases.HELD_ANSWER[person.doing]
    if scene.later_weather is None:
        yield "weather", {}, scene.weather
    there = {
        "a dog": scene.dog is not None,
        "a car": bool(scene.cars),
        "a cyclist": scene.cyclist is not None,
        "a sign": scene.sign is not None,
        "anybody": bool(scene.stays()),
    }
    for colour in rng.sample(("red", "blue", "green", "yellow", "purple", "orange", "white", "black"), 2):
        there[f"somebody in {colour}"] = colour in scene.stays()
    wanted = rng.random() < 0.5
    things = [thing for thing, is_there in there.items() if is_there == wanted]
    if things:
        yield "exists", {"thing": rng.choice(things)}, "yes" if wanted else "no"


def _ask_actions(scene: Scene, rng: random.Random) -> Asked:
    actors = _seen_people(scene, ACTIONS)
    for person in actors:
        yield "action", {"who": name_person(person.colour, rng)}, person.doing
    for person in scene.people:
        if person.later and 0.2 <= person.switches / scene.duration_seconds <= 0.8:
            fills = {"who": name_person(person.colour, rng), "doing": person.doing}
            yield "action then", fills, person.later
    if scene.dog and _seen(scene, scene.dog.stay):
        yield "dog action", {}, scene.dog.doing
    doings = [person.doing for person in scene.people] + [person.later for person in scene.people]
    for person in actors:
        if doings.count(person.doing) == 1:
            yield "who does", {"doing": person.doing}, f"the person in {person.colour}"
    if actors:
        person = rng.choice(actors)
        true = rng.random() < 0.5
        doing = person.doing if true else rng.choice([action for action in ACTIONS if action != person.doing])
        yield "is doing", {"who": name_person(person.colour, rng), "doing": doing}, "yes" if true else "no"


def _ask_details(scene: Scene, rng: random.Random) -> Asked:
    for person in _seen_people(scene, ARMS):
        yield "arms", {"who": name_person(person.colour, rng)}, phrases.ARMS_ANSWER[person.doing]
    visitor = scene.visitor
    if visitor is None or not _seen(scene, visitor.stay):
        return
    yield "mood", {}, visitor.expression
    yield "mouth", {}, phrases.MOUTH_ANSWER[visitor.expression]
    yield "gaze", {}, phrases.GAZE_ANSWER[visitor.gaze]
    true = rng.random() < 0.5
    mood = visitor.expression if true else rng.choice([mood for mood in EXPRESSIONS if mood != visitor.expression])
    yield "is mood", {"mood": mood}, "yes" if true else "no"


def _ask_times(scene: Scene, rng: random.Random) -> Asked:
    texts = [event.text for event in scene.events]
    single = [i for i, text in enumerate(texts) if texts.count(text) == 1]
    if texts:
        yield "first", {}, texts[0]
        yield "last", {}, texts[-1]
    for i in rng.sample(single, min(2, len(single))):
        event = texts[i].replace("a person", "the person").replace("a car", "the car").replace("a dog", "the dog")
        if i + 1 < len(texts):
            yield "after", {"event": event}, texts[i + 1]
        if i > 0 and rng.random() < 0.5:
            yield "before", {"event": event}, texts[i - 1]
    yield "light changes", {}, str(len(scene.light_changes))
    if len(single) >= 2:
        one, other = rng.sample(single, 2)
        yield "order", {"event": texts[one], "other": texts[other]}, "yes" if one < other else "no"


def lasting_spots(scene: Scene) -> dict[str, tuple[str, float]]:
    """What stays in its place for long enough: name -> (depth, x in fractions of the frame)."""
    spots = {
        f"person in {person.colour}": (person.row, column_x(person.column))
        for person in scene.people
        if _seen(scene, person.stay)
    }
    if scene.dog and _seen(scene, scene.dog.stay):
        spots["dog"] = (scene.dog.row, column_x(scene.dog.column))
    if scene.sign:
        spots["sign"] = ("top", SIGN_X[scene.sign.column])
    if len(scene.cars) == 1 and _seen(scene, scene.cars[0].stay):
        spots["car"] = ("road", ROAD_COLUMNS[scene.cars[0].column])
    return spots


def _ask_places(scene: Scene, rng: random.Random) -> Asked:
    spots = lasting_spots(scene)
    for name in rng.sample(sorted(spots), min(3, len(spots))):
        depth, x = spots[name]
        yield "where", {"thing": f"the {name}"}, f"{depth} {SIDES[min(2, int(3 * x))]}"
    apart = [(a, b) for a in spots for b in spots if abs(spots[a][1] - spots[b][1]) > 0.12]
    if apart:
        one, other = rng.choice(sorted(apart))
        yield (
            "is left",
            {"thing": f"the {one}", "other": f"the {other}"},
            "yes" if spots[one][1] < spots[other][1] else "no",
        )
    for row in ("back", "front"):
        yield from _ask_neighbours([person for person in scene.people if person.row == row], rng)


def _ask_neighbours(people: list[Person], rng: random.Random) -> Asked:
    """Only in a row where nobody comes or goes: who is next to whom never changes."""
    if not people or any(person.stay != Stay() for person in people):
        return
    ordered = sorted(people, key=lambda person: person.column)
    index = rng.randrange(len(ordered))
    side = rng.choice(("left", "right"))
    beside = index + (1 if side == "right" else -1)
    answer = f"the person in {ordered[beside].colour}" if 0 <= beside < len(ordered) else "nobody"
    yield "neighbour", {"who": name_person(ordered[index].colour, rng), "side": side}, answer


def _ask_whole(scene: Scene, rng: random.Random) -> Asked:
    parts = ["people"] if len(scene.stays()) > 1 else ["one person"] if scene.stays() else []
    parts += ["two cars" if len(scene.cars) > 1 else "a car"] if scene.cars else []
    parts += ["a dog"] if scene.dog else []
    named = f"{', '.join(parts[:-1])} and {parts[-1]}" if len(parts) > 1 else (parts or ["an empty street"])[0]
    yield "summary", {}, f"{named} at the {scene.place}"
    if scene.later_weather is None:
        times = scene.first_light if not scene.light_changes else "day and night"
        yield "title", {}, f"a {scene.weather} {times} at the {scene.place}"
    yield "setting", {}, f"a {scene.place}"
    stories = _stories(scene)
    if len(stories) == 1:
        yield "development", {}, stories[0]
    elif not stories and len(scene.events) <= 1:
        yield "development", {}, "nothing much changes"


def _stories(scene: Scene) -> list[str]:
    more = scene.people_at(scene.duration_seconds - 1e-3) - scene.people_at(0.0)
    changes = len(scene.light_changes)
    stories = {
        "it gets busier": more >= 2,
        "it gets quieter": more <= -2,
        "the light keeps changing": changes > 1,
        "day turns into night": changes == 1 and scene.first_light == "day",
        "night turns into day": changes == 1 and scene.first_light == "night",
        "the weather turns bad": scene.later_weather is not None,
    }
    return [story for story, holds in stories.items() if holds]


def _ask_reasons(scene: Scene, rng: random.Random) -> Asked:
    if len(scene.cars) == 1 and _seen(scene, scene.cars[0].stay):
        obstacle = scene.cars[0].obstacle
        if obstacle and not math.isfinite(scene.cars[0].stay.leaves):
            yield "why stopped", {}, phrases.STOPPED_ANSWER[obstacle]
            yield "advice", {}, phrases.ADVICE_ANSWER[obstacle]
        if obstacle is None or rng.random() < 0.35:
            yield "is safe", {}, "no" if obstacle else "yes"
    for person in _seen_people(scene, tuple(phrases.JOB_ANSWER)):
        yield "job", {"who": name_person(person.colour, rng)}, phrases.JOB_ANSWER[person.doing]
    if scene.later_weather is None and not scene.light_changes:
        reason, night = phrases.VIEW_ANSWER.get(scene.weather), scene.first_light == "night"
        if reason or night:
            yield "view", {}, (f"{reason} and the night" if night else reason) if reason else "the night"


def _ask_texts(scene: Scene, rng: random.Random) -> Asked:
    if scene.sign:
        yield "sign word", {}, scene.sign.word
        yield "sign number", {}, str(scene.sign.number)
        yield "sign", {}, f"{scene.sign.word} {scene.sign.number}"
    for car in scene.cars:
        hidden = scene.visitor is not None and (car.column == 0) == (scene.visitor.corner == "left") and car.column != 1
        if _seen(scene, car.stay) and not hidden:
            yield "car code", {"thing": "the car" if len(scene.cars) == 1 else f"the {car.colour} car"}, car.code


_ASKERS: tuple[Callable[[Scene, random.Random], Asked], ...] = (
    _ask_counts,
    _ask_looks,
    _ask_actions,
    _ask_details,
    _ask_times,
    _ask_places,
    _ask_whole,
    _ask_reasons,
    _ask_texts,
)
