"""What the frames of a view show of comings and goings: who walks in is there before anything of them is in view.

Notes are taken on what can be seen, not on what is true: a sixth of all arrivals show one frame late, and every
departure shows a little before it ends.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from tam_edge.models.projector import pool
from tam_edge.models.recipe.symbols import view_labels
from tam_edge.models.recipe.views import View
from tam_edge.models.street.labels import CHOICES, GROUP_INDEX
from tam_edge.models.street.world import COLOURS, Event

SHOWN = 0.12  # a pooled cell shows what fills at least this part of it
PEOPLE = ("person", "visitor", "cyclist")
COMING_AND_GOING = (
    *(f"person in {colour}" for colour in COLOURS),
    *(f"{colour} car" for colour in COLOURS),
    "car",
    "dog",
)
"""Whatever may come and go, as events call it."""


@lru_cache(maxsize=4)  # notes of every kind ask
def shown(view: View) -> Tensor:
    """Which frame shows which of COMING_AND_GOING: [N, 18] bool."""
    labels = view_labels(view)
    kind, colour = (labels[..., GROUP_INDEX[group]] for group in ("kind", "colour"))
    person = torch.stack([kind == CHOICES["kind"][word] for word in PEOPLE]).any(0)
    car, dog = kind == CHOICES["kind"]["car"], kind == CHOICES["kind"]["dog"]
    in_colour = [colour == CHOICES["colour"][word] for word in COLOURS]
    patches = torch.stack([*(person & one for one in in_colour), *(car & one for one in in_colour), car, dog], -1)
    return (pool(patches.float(), view.grid) >= SHOWN).any(1)


@lru_cache(maxsize=4)
def new_events(view: View) -> tuple[tuple[int, Event], ...]:
    """The events that show in between two frames, each with the later frame's index, in the frames' order."""
    there = shown(view)
    found = [(_first_frame(view, event, there), event) for event in view.scene.events]
    return tuple(sorted(((frame, event) for frame, event in found if frame), key=lambda pair: pair[0]))


def _first_frame(view: View, event: Event, there: Tensor) -> int | None:
    """The first frame that differs by the event; None if no frame does, 0 if all do."""
    after = [index for index, seconds in enumerate(view.times) if seconds >= event.seconds]
    if not event.text.endswith((" arrives", " leaves")):
        return after[0] if after else None
    seen = there[:, COMING_AND_GOING.index(event.subject)].nonzero().flatten().tolist()
    if event.text.endswith(" arrives"):
        return next((index for index in seen if index in after), None)
    last = next((index for index in reversed(seen) if index not in after), None)
    return None if last is None or last + 1 == len(view.times) else last + 1
