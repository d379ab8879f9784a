"""The street camera's world: what can be in a scene, and how a seed becomes one.

A scene is pure data: who is where, when, doing what. `render.py` draws it, `questions.py` asks about it, `labels.py`
writes down what every patch shows. Nothing here knows about pixels. Coordinates are fractions of the frame, x to the
right and y down; times are seconds from the start of the clip.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

from tam_edge.models.street.pace import MAX_SECONDS, Pace, pace_of

COLOURS = ("red", "blue", "green", "yellow", "purple", "orange", "white", "black")
ACTIONS = ("walking", "running", "jumping", "waving", "dancing", "sweeping", "digging")
ARMS = ("raised", "crossed", "stretched", "hips", "behind", "hanging")
HELD = ("umbrella", "bag", "ball", "flag", "balloon", "box", "guitar")
DOG_ACTIONS = ("sitting", "sleeping", "barking", "begging", "trotting", "sniffing")
PLACES = ("park", "market", "beach", "harbour", "school", "station", "farm")
WEATHERS = ("clear", "cloudy", "rainy", "snowy", "foggy", "stormy")
LIGHTS = ("day", "night")
OBSTACLES = ("light", "cone", "log", "stone", "barrier", "puddle")
EXPRESSIONS = ("happy", "sad", "angry", "surprised", "sleepy", "bored")
GAZES = ("left", "right", "up", "down", "camera", "closed")
WORDS = (
    "STOP",
    "SLOW",
    "EXIT",
    "TAXI",
    "CAFE",
    "BANK",
    "ZOO",
    "PARK",
    "SHOP",
    "OPEN",
    "TOLL",
    "FOOD",
    "PIER",
    "GATE",
    "BUS",
    "HUT",
)

COLUMNS = 6  # standing places per row, left to right
ROWS = ("back", "front")
ROAD_COLUMNS = (0.2, 0.5, 0.8)  # where a car can stand, x of its middle
FIRST_UNSEEN_SEED = 900_000  # training never uses this seed or a later one, but the first brisk ones, as many of them
ALWAYS = math.inf


@dataclass(frozen=True, slots=True)
class Stay:
    """When something is in view: [enters, leaves) in seconds; -inf and inf mean "was there" and "stays"."""

    enters: float = -ALWAYS
    leaves: float = ALWAYS

    def holds(self, seconds: float) -> bool:
        """Whether it is in view at `seconds`."""
        return self.enters <= seconds < self.leaves


@dataclass(frozen=True, slots=True)
class Person:
    """A pedestrian. `doing` is one of ACTIONS, ARMS or HELD; `later` replaces it from `switches` on."""

    colour: str
    row: str
    column: int
    doing: str
    stay: Stay
    later: str | None = None
    switches: float = ALWAYS

    def doing_at(self, seconds: float) -> str:
        """What this person does at `seconds`."""
        return self.later if self.later is not None and seconds >= self.switches else self.doing


@dataclass(frozen=True, slots=True)
class Visitor:
    """Somebody close to the camera: head and shoulders in a lower corner."""

    colour: str
    corner: str  # "left" or "right"
    expression: str
    gaze: str
    stay: Stay


@dataclass(frozen=True, slots=True)
class Car:
    """Parked, stopped by an obstacle, or on its way in or out of that place."""

    colour: str
    code: str  # a letter and a digit, painted on the door
    column: int  # index into ROAD_COLUMNS
    facing: str  # "left" or "right"
    obstacle: str | None  # what made it stop; None: it is parked
    stay: Stay


@dataclass(frozen=True, slots=True)
class Dog:
    """A dog in its place."""

    row: str
    column: int
    doing: str
    stay: Stay


@dataclass(frozen=True, slots=True)
class Cyclist:
    """Rides across the road once, during its stay."""

    colour: str
    facing: str
    stay: Stay


@dataclass(frozen=True, slots=True)
class Sign:
    """A board on a pole behind the road; it never changes."""

    word: str
    number: int  # 10-99
    column: int  # 0 left, 1 middle, 2 right; always at the top


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happens at one moment; `text` is how a person would say it."""

    seconds: float
    text: str
    subject: str


@dataclass(frozen=True, slots=True)
class Scene:
    """Everything there is to know about one clip."""

    seed: int
    duration_seconds: float
    place: str
    weather: str
    later_weather: str | None
    weather_changes: float
    first_light: str
    light_changes: tuple[float, ...]  # seconds at which day turns to night or back
    people: tuple[Person, ...]
    visitor: Visitor | None
    cyclist: Cyclist | None
    cars: tuple[Car, ...]
    dog: Dog | None
    sign: Sign | None
    events: tuple[Event, ...]  # in time order

    def light_at(self, seconds: float) -> str:
        """Day or night."""
        changes = sum(seconds >= change for change in self.light_changes)
        return LIGHTS[(LIGHTS.index(self.first_light) + changes) % 2]

    def weather_at(self, seconds: float) -> str:
        """One of WEATHERS."""
        return self.later_weather if self.later_weather and seconds >= self.weather_changes else self.weather

    def stays(self) -> dict[str, Stay]:
        """Everybody who counts as a person, by the colour of the clothes, with when they are in view."""
        everyone: list[Person | Visitor | Cyclist] = [*self.people]
        everyone += [somebody for somebody in (self.visitor, self.cyclist) if somebody is not None]
        return {somebody.colour: somebody.stay for somebody in everyone}

    def people_at(self, seconds: float) -> int:
        """How many people are in view at `seconds`."""
        return sum(stay.holds(seconds) for stay in self.stays().values())


class _Clock:
    """Hands out moments at which something may happen, far enough apart to be told apart."""

    def __init__(self, rng: random.Random, duration_seconds: float, pace: Pace) -> None:
        gap = max(pace.gap_seconds, pace.gap_fraction * duration_seconds)
        count = int((duration_seconds - 2 * gap) / gap + 1e-9) + 1
        slack = duration_seconds - gap * (count + 1)
        shift = rng.uniform(0, slack) if slack > 0 else 0.0
        self.moments = [gap * (i + 1) + shift for i in range(count)]
        self.free = list(range(count))
        if pace.busy_moments is not None:
            first = rng.randrange(max(1, count - pace.busy_moments + 1))
            self.free = self.free[first : first + pace.busy_moments]
        self.rng = rng

    def take(self) -> float | None:
        if not self.free:
            return None
        return self.moments[self.free.pop(self.rng.randrange(len(self.free)))]

    def take_pair(self, apart: int) -> tuple[float, float] | None:
        """Two free moments at least `apart` moments from each other, in order."""
        pairs = [(i, j) for i in self.free for j in self.free if j - i >= apart]
        if not pairs:
            return None
        i, j = self.rng.choice(pairs)
        self.free = [k for k in self.free if k not in (i, j)]
        return self.moments[i], self.moments[j]

    def stay(self, still: float) -> Stay:
        """A stay of at least about a third of the clip; `still` is the chance that nothing happens."""
        kind = self.rng.random()
        if kind < still:
            return Stay()
        third = max(1, len(self.moments) // 3)
        if kind < still + (1 - still) * 0.25 and (pair := self.take_pair(third)):
            return Stay(*pair)
        early = [i for i in self.free if i <= len(self.moments) - third]
        late = [i for i in self.free if i >= third - 1]
        enters = self.rng.random() < 0.5
        if not (early if enters else late):
            return Stay()
        index = self.rng.choice(early if enters else late)
        self.free.remove(index)
        return Stay(enters=self.moments[index]) if enters else Stay(leaves=self.moments[index])


def make_scene(seed: int) -> Scene:
    """The scene of a seed; the same seed gives the same scene for ever (a test pins some)."""
    rng = random.Random(f"street-{seed}")
    pace = pace_of(seed)
    duration = round(math.exp(rng.uniform(math.log(pace.min_seconds), math.log(MAX_SECONDS))), 2)
    clock = _Clock(rng, duration, pace)
    colours = rng.sample(COLOURS, len(COLOURS))
    spots = [(row, column) for row in ROWS for column in range(COLUMNS)]
    count = rng.choices(range(7), weights=(9, 14, 17, 17, 16, 14, 13))[0]
    visitor = _visitor(rng, clock, colours, spots) if count and rng.random() < 0.45 else None
    light_changes = _light_changes(rng, clock)
    cyclist = _cyclist(rng, clock, colours, pace) if count > (visitor is not None) and rng.random() < 0.25 else None
    cars = _cars(rng, clock)
    dog = _dog(rng, clock, spots) if rng.random() < 0.5 else None
    walkers = count - (visitor is not None) - (cyclist is not None)
    people = tuple(_person(rng, clock, colours, spots) for _ in range(walkers))
    weather = rng.choice(WEATHERS)
    changes = clock.take() if weather in ("clear", "cloudy") and rng.random() < 0.4 else None
    later = rng.choice(("rainy", "snowy")) if changes is not None else None
    scene = Scene(
        seed=seed,
        duration_seconds=duration,
        place=rng.choice(PLACES),
        weather=weather,
        later_weather=later,
        weather_changes=ALWAYS if changes is None else changes,
        first_light=rng.choice(LIGHTS),
        light_changes=light_changes,
        people=people,
        visitor=visitor,
        cyclist=cyclist,
        cars=cars,
        dog=dog,
        sign=Sign(rng.choice(WORDS), rng.randrange(10, 100), rng.randrange(3)) if rng.random() < 0.8 else None,
        events=(),
    )
    return with_events(scene)


def _light_changes(rng: random.Random, clock: _Clock) -> tuple[float, ...]:
    wanted = rng.choices(range(6), weights=(30, 20, 14, 12, 12, 12))[0]
    moments = (clock.take() for _ in range(wanted))
    return tuple(sorted(moment for moment in moments if moment is not None))


def _visitor(rng: random.Random, clock: _Clock, colours: list[str], spots: list[tuple[str, int]]) -> Visitor:
    corner = rng.choice(("left", "right"))
    hidden = (0, 1) if corner == "left" else (COLUMNS - 2, COLUMNS - 1)
    for column in hidden:
        spots.remove(("front", column))
    return Visitor(colours.pop(), corner, rng.choice(EXPRESSIONS), rng.choice(GAZES), clock.stay(still=0.7))


def _cyclist(rng: random.Random, clock: _Clock, colours: list[str], pace: Pace) -> Cyclist | None:
    start = clock.take()
    if start is None:
        return None
    length = clock.moments[0] if len(clock.moments) == 1 else pace.crossing_gaps * (clock.moments[1] - clock.moments[0])
    return Cyclist(colours.pop(), rng.choice(("left", "right")), Stay(start, start + length))


def _cars(rng: random.Random, clock: _Clock) -> tuple[Car, ...]:
    count = rng.choices((0, 1, 2), weights=(20, 62, 18))[0]
    columns = rng.sample(range(len(ROAD_COLUMNS)), count)
    colours = rng.sample(COLOURS, count)
    letters, digits = "ABCEFHKLMPRTUXYZ", "0123456789"
    cars = []
    for column, colour in zip(columns, colours, strict=True):
        facing = rng.choice(("left", "right")) if column == 1 else ("right" if column == 0 else "left")
        obstacle = rng.choice(OBSTACLES) if count == 1 and rng.random() < 0.75 else None
        code = rng.choice(letters) + rng.choice(digits)
        cars.append(Car(colour, code, column, facing, obstacle, clock.stay(still=0.4)))
    return tuple(cars)


def _dog(rng: random.Random, clock: _Clock, spots: list[tuple[str, int]]) -> Dog:
    row, column = spots.pop(rng.randrange(len(spots)))
    return Dog(row, column, rng.choice(DOG_ACTIONS), clock.stay(still=0.5))


def _person(rng: random.Random, clock: _Clock, colours: list[str], spots: list[tuple[str, int]]) -> Person:
    row, column = spots.pop(rng.randrange(len(spots)))
    doing = rng.choice(rng.choice((ACTIONS, ARMS, HELD)))
    later, switches = None, ALWAYS
    stay = clock.stay(still=0.45)
    if doing in ACTIONS and stay == Stay() and rng.random() < 0.5 and (moment := clock.take()) is not None:
        later, switches = rng.choice([action for action in ACTIONS if action != doing]), moment
    return Person(colours.pop(), row, column, doing, stay, later, switches)


def with_events(scene: Scene) -> Scene:
    """The scene with all that happens in it, in time order, in `events`."""
    events = [*_comings_and_goings(scene)]
    if scene.cyclist:
        events.append(Event(scene.cyclist.stay.enters, "a cyclist passes", "cyclist"))
    for change in scene.light_changes:
        dark = scene.light_at(change) == "night"
        events.append(Event(change, "it gets dark" if dark else "it gets light", "light"))
    if scene.later_weather:
        text = "it starts to rain" if scene.later_weather == "rainy" else "it starts to snow"
        events.append(Event(scene.weather_changes, text, "weather"))
    for person in scene.people:
        if person.later:
            text = f"the person in {person.colour} starts {person.later}"
            events.append(Event(person.switches, text, f"person in {person.colour}"))
    ordered = tuple(sorted(events, key=lambda event: event.seconds))
    return Scene(**{name: getattr(scene, name) for name in Scene.__slots__ if name != "events"}, events=ordered)


def _comings_and_goings(scene: Scene) -> list[Event]:
    things: list[tuple[str, Stay]] = [(f"{person.colour} person", person.stay) for person in scene.people]
    things += [(f"{scene.visitor.colour} person", scene.visitor.stay)] if scene.visitor else []
    things += [(f"{car.colour} car" if len(scene.cars) > 1 else "car", car.stay) for car in scene.cars]
    things += [("dog", scene.dog.stay)] if scene.dog else []
    events = []
    for name, stay in things:
        subject = f"person in {name.split()[0]}" if name.endswith("person") else name
        if math.isfinite(stay.enters):
            events.append(Event(stay.enters, f"a {subject} arrives", subject))
        if math.isfinite(stay.leaves):
            events.append(Event(stay.leaves, f"the {subject} leaves", subject))
    return events
