"""What the model should have noticed by the end of every frame, and about every person it sees.

A question pays for one fact of a scene; these pay for some forty at every frame, so that who was seen so far, what
happened last and who stands to the left of whom are known before anything is asked. They form a ladder, a block a
rung: what a frame shows; what is new since the frame before; what all frames so far add up to. The heads that read
notes out are thrown away after training.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from tam_edge.models.language import LanguageModel
from tam_edge.models.projector import pool
from tam_edge.models.recipe.sightings import COMING_AND_GOING, new_events, shown
from tam_edge.models.recipe.symbols import view_labels
from tam_edge.models.recipe.views import View
from tam_edge.models.street.labels import CHOICES, GROUP_INDEX
from tam_edge.models.street.layout import place_all
from tam_edge.models.street.world import (
    ACTIONS,
    ARMS,
    COLOURS,
    COLUMNS,
    HELD,
    LIGHTS,
    ROWS,
    WEATHERS,
    Event,
    Person,
    Scene,
)

FRAME_BLOCK, EARLY_BLOCK, LATE_BLOCK = 0, 1, 2  # after which notes must be readable; those behind are there to read
UNKNOWN = -100
NOTHING_NEW_WEIGHT, NOTHING_NEWS_WEIGHT = 0.2, 0.05
MOST_PEOPLE, MOST_CHANGES, MOST_CARS, MOST_GAINED = 8, 6, 2, 3
DOINGS = (*ACTIONS, *ARMS, *HELD)
KINDS = ("arrives", "leaves", "starts", "it gets dark", "it gets light", "starts to rain", "starts to snow", "cyclist")
SUBJECTS = (*(f"person in {colour}" for colour in COLOURS), "car", "dog", *(f"{colour} car" for colour in COLOURS))
UNSEEN, THERE, GONE = range(3)
NOTHING, CAME, WENT, CHANGED = range(4)
MAINLY = 0.25  # least part of a cell that a person fills who is noted there
CARS, DOG = slice(len(COLOURS), 2 * len(COLOURS)), -1  # places in COMING_AND_GOING
PEOPLE = len(COLOURS)  # who stands first among COMING_AND_GOING

_EVENT_FIELDS = {"kind": len(KINDS) + 1, "subject": len(SUBJECTS) + 1, "action": len(ACTIONS) + 1}
FRAME_FIELDS: dict[str, int] = {
    **dict.fromkeys((*(f"{colour} here" for colour in COLOURS), "dog", "cyclist", "light"), 2),
    "cars": MOST_CARS + 1,
    "weather": len(WEATHERS),
    "people": MOST_PEOPLE + 1,
    **{f"{subject} news": 4 for subject in COMING_AND_GOING},
}
"""What a frame shows, and what has changed, at its last token -> how many answers there are."""
EARLY_FIELDS: dict[str, int] = {"here now": MOST_PEOPLE + 1, **{f"new {fact}": n for fact, n in _EVENT_FIELDS.items()}}
"""What that comes to, at a frame's last token."""
LATE_FIELDS: dict[str, int] = {
    "seen so far": MOST_PEOPLE + 1,
    "most at once": MOST_PEOPLE + 1,
    "gained": 2 * MOST_GAINED + 1,
    "cars so far": MOST_CARS + 1,
    "dog so far": 2,
    "light changes": MOST_CHANGES + 1,
    **{f"{colour} {fact}": size for colour in COLOURS for fact, size in (("stay", 3), ("switched", 2))},
    **{f"{which} {fact}": n for which in ("last", "prior", "first") for fact, n in _EVENT_FIELDS.items()},
}
"""What all frames so far tell, at a frame's last token."""
PERSON_FIELDS: dict[str, int] = {
    "column": COLUMNS,
    "row": len(ROWS),
    "colour": len(COLOURS),
    "doing": len(DOINGS),
    "left": len(COLOURS) + 1,
    "right": len(COLOURS) + 1,
}
"""What is known early at the tokens that show a person."""


def closing_rows(view: View) -> Tensor:
    """Rows [N] of the visual tokens that close a frame."""
    return torch.arange(1, len(view.times) + 1) * view.grid**2 - 1


def shown_notes(view: View) -> Tensor:
    """[N, FRAME_FIELDS] int64."""
    there = shown(view)
    return torch.tensor([[*_shown(view.scene, t, there[i]), *_news(view, there, i)] for i, t in enumerate(view.times)])


def _shown(scene: Scene, seconds: float, there: Tensor) -> list[int]:
    cyclist = scene.cyclist is not None and scene.cyclist.stay.holds(seconds)
    return [
        *map(int, there[:PEOPLE].tolist()),
        int(there[COMING_AND_GOING.index("dog")]),
        int(cyclist),
        LIGHTS.index(scene.light_at(seconds)),
        sum(car.stay.holds(seconds) for car in scene.cars),
        WEATHERS.index(scene.weather_at(seconds)),
        int(there[:PEOPLE].sum()),
    ]


def _news(view: View, there: Tensor, index: int) -> list[int]:
    """What came of each of COMING_AND_GOING since the frame before."""
    if index == 0:
        return [NOTHING] * len(COMING_AND_GOING)
    came, went = there[index] & ~there[index - 1], there[index - 1] & ~there[index]
    news = [CAME if new else WENT if gone else NOTHING for new, gone in zip(came.tolist(), went.tolist(), strict=True)]
    for person in view.scene.people:
        if view.times[index - 1] < person.switches <= view.times[index]:
            news[COLOURS.index(person.colour)] = CHANGED
    return news


def early_notes(view: View) -> Tensor:
    """[N, EARLY_FIELDS] int64."""
    there = shown(view)
    events = new_events(view)
    notes = []
    for index in range(len(view.times)):
        new = [event for frame, event in events if frame == index]
        event = (UNKNOWN,) * len(_EVENT_FIELDS) if len(new) > 1 else _event_note(new[0] if new else None)
        notes.append([int(there[index, :PEOPLE].sum()), *event])
    return torch.tensor(notes)


def late_notes(view: View) -> Tensor:
    """[N, LATE_FIELDS] int64."""
    there, scene = shown(view), view.scene
    events = new_events(view)
    # Frames too far apart leave open which of two things came first.
    in_order = len({frame for frame, _ in events}) == len(events)
    switches = {person.colour: person.switches for person in scene.people}
    seen = there.cummax(0).values
    most = there[:, :PEOPLE].sum(1).cummax(0).values
    notes = []
    for index, seconds in enumerate(view.times):
        changes = sum(change <= seconds for change in scene.light_changes)
        gained = max(-MOST_GAINED, min(MOST_GAINED, int(there[index, :PEOPLE].sum() - there[0, :PEOPLE].sum())))
        things = [gained + MOST_GAINED, int(seen[index, CARS].sum()), int(seen[index, DOG])]
        note = [int(seen[index, :PEOPLE].sum()), int(most[index]), *things, min(MOST_CHANGES, changes)]
        for place, colour in enumerate(COLOURS):
            note.append(THERE if there[index, place] else GONE if seen[index, place] else UNSEEN)
            note.append(int(switches.get(colour, float("inf")) <= seconds))
        past = [event for frame, event in events if frame <= index]
        new = any(frame == index for frame, _ in events)
        note += _event_notes(past, new) if in_order else [UNKNOWN] * 3 * len(_EVENT_FIELDS)
        notes.append(note)
    return torch.tensor(notes)


def _event_notes(past: list[Event], new: bool) -> list[int]:
    """The last event so far; where it is `new`, the one before it; and the first one of all."""
    last, first = _event_note(past[-1] if past else None), _event_note(past[0] if past else None)
    # Elsewhere it would take two steps back, and no question needs it there.
    prior = _event_note(past[-2] if len(past) > 1 else None) if new else (UNKNOWN,) * len(_EVENT_FIELDS)
    return [*last, *prior, *first]


def _event_note(event: Event | None) -> tuple[int, int, int]:
    """Kind, subject and action, each from 1; 0 is none. What is not asked of such an event is unknown."""
    if event is None:
        return 0, UNKNOWN, UNKNOWN
    kind = max(index for index, words in enumerate(KINDS) if words in event.text)  # "starts to rain" also "starts"
    subject = SUBJECTS.index(event.subject) + 1 if event.subject in SUBJECTS else 0
    action = event.text.split()[-1]
    return kind + 1, subject, ACTIONS.index(action) + 1 if action in ACTIONS else UNKNOWN


def person_notes(view: View) -> tuple[Tensor, Tensor]:
    """Rows [P] of the visual tokens that show one standing person, and what is known there: [P, fields] int64.

    All tokens that show somebody know it all: a question may look at any of them.
    """
    rows, notes = [], []
    cells = _cells_of_people(view)
    for index, seconds in enumerate(view.times):
        standing = [placed.thing for placed in place_all(view.scene, seconds) if not placed.moving]
        people = [thing for thing in standing if isinstance(thing, Person)]
        for person in people:
            colour = COLOURS.index(person.colour)
            beside = sorted((p for p in people if p.row == person.row), key=lambda p: p.column)
            place = beside.index(person)
            left = _colour_note(beside[place - 1]) if place else 0
            right = _colour_note(beside[place + 1]) if place + 1 < len(beside) else 0
            # In the first frame the neighbour to the right comes later in reading order.
            right = right if index else UNKNOWN
            note = [person.column, ROWS.index(person.row), colour, DOINGS.index(person.doing_at(seconds)), left, right]
            shown = torch.nonzero(cells[index, :, colour]).flatten().tolist()
            rows += [index * view.grid**2 + cell for cell in shown]
            notes += [note] * len(shown)
    return torch.tensor(rows, dtype=torch.int64), torch.tensor(notes, dtype=torch.int64).view(-1, len(PERSON_FIELDS))


def _cells_of_people(view: View) -> Tensor:
    """Which cells show mainly the person in which colour: [N, grid * grid, COLOURS] bool."""
    labels = view_labels(view)
    people = labels[..., GROUP_INDEX["kind"]] == CHOICES["kind"]["person"]
    colours = torch.tensor([CHOICES["colour"][colour] for colour in COLOURS])
    patches = people.unsqueeze(-1) & (labels[..., GROUP_INDEX["colour"]].unsqueeze(-1) == colours)
    shares = pool(patches.float(), view.grid)
    largest = functional.one_hot(shares.argmax(-1), len(COLOURS)).bool()  # who stands before others
    return largest & (shares >= MAINLY)


def _colour_note(person: Person) -> int:
    return COLOURS.index(person.colour) + 1


class Notes(nn.Module):
    """Reads notes out of the decoder's states after two of its blocks; hears these by itself in every forward pass."""

    def __init__(self, language: LanguageModel) -> None:
        super().__init__()
        width = language.config.width
        self.frame_head = nn.Sequential(nn.RMSNorm(width), nn.Linear(width, sum(FRAME_FIELDS.values())))
        self.early_head = nn.Sequential(nn.RMSNorm(width), nn.Linear(width, sum(EARLY_FIELDS.values())))
        self.person_head = nn.Sequential(nn.RMSNorm(width), nn.Linear(width, sum(PERSON_FIELDS.values())))
        self.late_head = nn.Sequential(nn.RMSNorm(width), nn.Linear(width, sum(LATE_FIELDS.values())))
        self._states: dict[int, Tensor] = {}
        for block in (FRAME_BLOCK, EARLY_BLOCK, LATE_BLOCK):
            language.layers[block].register_forward_hook(partial(self._hear, block))

    def _hear(self, block: int, _: nn.Module, __: object, states: Tensor) -> None:
        self._states[block] = states[0]

    def loss(self, view: View, first: int) -> Tensor:
        """Mean cross-entropy of the notes on the last forward pass; `first` is the row of the first visual token."""
        frame, early, late = (self._states[block] for block in (FRAME_BLOCK, EARLY_BLOCK, LATE_BLOCK))
        closing, (people, people_notes) = closing_rows(view), person_notes(view)
        total = torch.zeros((), device=early.device)
        for states, head, fields, rows, notes in (
            (frame, self.frame_head, FRAME_FIELDS, closing, shown_notes(view)),
            (early, self.early_head, EARLY_FIELDS, closing, early_notes(view)),
            (early, self.person_head, PERSON_FIELDS, people, people_notes),
            (late, self.late_head, LATE_FIELDS, closing, late_notes(view)),
        ):
            if len(rows):
                logits = head(states[(rows + first).to(total.device)].float()).float()
                total = total + _mean_loss(logits, notes.to(total.device), fields)
        return total


def _mean_loss(logits: Tensor, notes: Tensor, fields: dict[str, int]) -> Tensor:
    """Mean over the fields known anywhere; in most frames nothing is new, and that shall not drown the rest."""
    losses = []
    parts = logits.split(list(fields.values()), -1)
    for (name, size), part, note in zip(fields.items(), parts, notes.unbind(-1), strict=True):
        if (note == UNKNOWN).all():
            continue
        weights = torch.ones(size, device=part.device)
        if name == "new kind" or name.endswith(" news"):
            weights[0] = NOTHING_NEW_WEIGHT if name == "new kind" else NOTHING_NEWS_WEIGHT
        losses.append(functional.cross_entropy(part, note, weights, ignore_index=UNKNOWN))
    return torch.stack(losses).sum() / len(fields)
