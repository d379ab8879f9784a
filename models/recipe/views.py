"""What one training sequence looks at: a scene's frames as a plan would choose them, and the questions of that plan.

Frames, grid and times come from the runtime's own rules, so the model is trained on what it will be served.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

from tam_edge.models.recipe.busy import make_busy
from tam_edge.models.recipe.grounding import ground_people, ground_places, ground_times
from tam_edge.models.recipe.nano import ROUTING, TASKS
from tam_edge.models.street.question import Question
from tam_edge.models.street.questions import questions
from tam_edge.models.street.video import VIDEO_FPS, frame_count
from tam_edge.models.street.world import ALWAYS, FIRST_UNSEEN_SEED, Scene, Stay, make_scene
from tam_edge.runtime.routing import Group, candidate_times, choose_times, route

QUESTION_ROUNDS = 2
BUDGET = ROUTING.max_visual_tokens or 0
SMALL_BUDGETS = {"high": 144, "balanced": 320, "more": 250}  # visual tokens of clips that are cut short at first
STILL_GRIDS = (12, 12, 8)
PEOPLE_GRID = 8
GROUPS: tuple[Group, ...] = ("high", "balanced", "more")
GROUP_WEIGHTS = (1, 1, 2)  # what happens when is the hardest to learn
_GROUP_OF_TASK = {index + 1: ROUTING.rule(name).group for index, name in enumerate(TASKS)}
_TITLE_OF_TASK = {index + 1: ROUTING.rule(name).title for index, name in enumerate(TASKS)}


@dataclass(frozen=True, slots=True)
class View:
    """Some frames of a scene and what may be asked about them."""

    scene: Scene
    times: tuple[float, ...]
    """Seconds of each frame."""
    grid: int
    """Tokens per side of each frame."""
    duration_seconds: float
    """Length of the clip as its container tells it; 0 for a still."""
    asked: tuple[Question, ...]
    hints: tuple[Question, ...] = ()
    """One-hop questions about the same frames, for training only."""

    @property
    def time_fractions(self) -> tuple[float, ...]:
        """t/T of each frame, 0 for a still."""
        return tuple(t / self.duration_seconds if self.duration_seconds else 0.0 for t in self.times)


def title_of(question: Question) -> str:
    """The name of the question's task type as the prompt prints it."""
    return _TITLE_OF_TASK[question.task]


def clip_seconds(scene: Scene) -> float:
    """Length of the scene's clip once it is a file: whole frames."""
    return frame_count(scene) / VIDEO_FPS


def clip_view(scene: Scene, group: Group, budget: int = BUDGET, again: int = 0) -> View:
    """The frames a plan of this row looks at, fewer where `budget` is smaller, and every question of the row.

    `again` > 0 words the questions anew, here and in `still_view`.
    """
    duration = clip_seconds(scene)
    candidates = candidate_times(duration, frame_count(scene), ROUTING)
    chosen = route(group, duration, len(candidates), BUDGET, ROUTING)
    frames = max(1, min(chosen.frames, budget // chosen.grid**2))
    asked = tuple(question for question in _ask_often(scene, again) if _GROUP_OF_TASK[question.task] == group)
    hints = tuple(ground_times(scene, again) if group == "more" else ground_places(scene, again))
    return View(scene, choose_times(candidates, frames), chosen.grid, duration, asked, hints)


def whole_view(scene: Scene, group: Group, again: int = 0) -> View:
    """What one pipeline for all tasks looks at: the frames of one row, and the questions and hints of every row."""
    view = clip_view(scene, group, again=again)
    hints = (*ground_places(scene, again), *ground_times(scene, again))
    return replace(view, asked=tuple(_ask_often(scene, again)), hints=hints)


def still_view(scene: Scene, seconds: float, grid: int, again: int = 0) -> View:
    """One frame as a picture, and what can be asked about a picture."""
    still = freeze(scene, seconds)
    # Fine detail cannot be read at a coarser grid, and is never asked for there.
    readable = {1, 2, 6, 7} if grid < ROUTING.ladder[0].grid else {1, 2, 3, 5, 6, 7, 8}
    asked = tuple(
        question
        for question in _ask_often(still, again)
        if question.task in readable and question.family != "development"
    )
    hints = tuple(question for question in ground_places(still, again) if question.task in readable | {5})
    return View(still, (0.0,), grid, 0.0, asked, hints)


def people_view(rng: random.Random) -> View:
    """A picture of two people or more at a middling grid, with hints about them alone."""
    while True:
        scene = make_scene(rng.randrange(FIRST_UNSEEN_SEED))
        still = freeze(scene, rng.random() * scene.duration_seconds)
        if len(still.people) > 1:
            return View(still, (0.0,), PEOPLE_GRID, 0.0, (), tuple(ground_people(still)))


def busy_view(rng: random.Random) -> View:
    """Many coarse frames of a scene in which everything comes and goes, and nothing asked."""
    scene = make_busy(make_scene(rng.randrange(FIRST_UNSEEN_SEED)), rng)
    duration = clip_seconds(scene)
    chosen = route("more", duration, 120, BUDGET, ROUTING)
    candidates = candidate_times(duration, frame_count(scene), ROUTING)
    frames = max(1, min(len(candidates), BUDGET // chosen.grid**2))
    return View(scene, choose_times(candidates, frames), chosen.grid, duration, ())


def _ask_often(scene: Scene, again: int) -> list[Question]:
    """The scene's questions in several wordings and about several people: one look at a scene teaches more."""
    asked = {
        question.text: question
        for ask in range(QUESTION_ROUNDS)
        for question in questions(scene, QUESTION_ROUNDS * again + ask)
    }
    return list(asked.values())


def freeze(scene: Scene, seconds: float) -> Scene:
    """The scene as if it had always been as it is at `seconds`: nothing comes, goes or changes."""

    def stays(thing: object) -> bool:
        return thing is not None and thing.stay.holds(seconds)  # type: ignore[attr-defined]

    people = tuple(
        replace(person, stay=Stay(), doing=person.doing_at(seconds), later=None, switches=ALWAYS)
        for person in scene.people
        if stays(person)
    )
    return replace(
        scene,
        duration_seconds=1.0,
        weather=scene.weather_at(seconds),
        later_weather=None,
        first_light=scene.light_at(seconds),
        light_changes=(),
        people=people,
        visitor=replace(scene.visitor, stay=Stay()) if scene.visitor and stays(scene.visitor) else None,
        cyclist=None,
        cars=tuple(replace(car, stay=Stay()) for car in scene.cars if stays(car)),
        dog=replace(scene.dog, stay=Stay()) if scene.dog and stays(scene.dog) else None,
        events=(),
    )


def random_view(rng: random.Random, still: float, small: float = 0.0) -> View:
    """A training view: with chance `still` a picture, else one row of a clip's plans, cut short with chance `small`."""
    while True:
        scene = make_scene(rng.randrange(FIRST_UNSEEN_SEED))
        if rng.random() < still:
            grid = rng.choice(STILL_GRIDS) if rng.random() < small else ROUTING.ladder[0].grid
            view = still_view(scene, rng.random() * scene.duration_seconds, grid)
        else:
            group = rng.choices(GROUPS, GROUP_WEIGHTS)[0]
            view = clip_view(scene, group, SMALL_BUDGETS[group] if rng.random() < small else BUDGET)
        if view.asked:
            return view
