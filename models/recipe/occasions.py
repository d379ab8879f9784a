"""Which frames a question about events is about, and the lesson that one head looks there.

An event that a question mentions is looked up where it is noted as new, at the token that closes its frame; what came
next, before, first or last is looked up where that is noted; what has added up over the clip at its very last token. A
mentioned event that never happens looks at the very first one, as absent things do (`glances.py`).

That takes three steps, a block each: the words of an event find its frame; the answer finds these words, and with them
when it was; the answer finds what came next. The first word of an answer has only this way, and needs all of it: "a",
"the" or "it" is said before anything else is, while later words are half told by what stands before them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from tokenizers import Tokenizer
from torch import Tensor

from tam_edge.models.recipe.notes import closing_rows
from tam_edge.models.recipe.pack import Packed, answering_rows, row_of_character
from tam_edge.models.recipe.sightings import new_events
from tam_edge.models.recipe.views import View
from tam_edge.models.street.doubts import CANNOT_TELL
from tam_edge.models.street.question import Question
from tam_edge.models.street.world import Event, Scene

OCCASIONS_HEAD = 3
MENTIONING_BLOCKS, REFERRING_BLOCK, ANSWERING_BLOCKS = (2, 3), 3, (3, 4)
_ENDS_WITH_EVENT = ("after", "before", "doubt after")
_WHICH = {"first": 0, "last": -1}
_IN_THE_END = ("count", "count at once", "count at the end", "light changes", "development", "summary")


@dataclass(frozen=True, slots=True)
class Occasions:
    """Rows [W] of the packed sequence that look something up, and at which visual tokens: [W, T] bool."""

    mentions: tuple[Tensor, Tensor]
    """Ends of the events that questions mention."""
    answers: tuple[Tensor, Tensor]
    """From where an answer begins to its end."""
    references: list[tuple[int, int]]
    """Rows of answers, each with the row of the event's end that its question asks from."""


def mentioned(scene: Scene, question: Question) -> list[tuple[int, Event]]:
    """The events of the scene that a question about events mentions, each with the end of its words in the text."""
    found = []
    for event in scene.events:
        words = re.escape(re.sub(r"\b(a|the) ", "", event.text))  # questions say "the car arrives" of "a car arrives"
        if match := re.search(rf"\b{words}\b", question.text):
            found.append((match.end(), event))
    return sorted(found, key=lambda pair: pair[0])


def find_occasions(tokenizer: Tokenizer, view: View, asked: list[Question], packed: Packed) -> Occasions:
    """What the questions about events among `asked` look up; where frames too far apart leave that open, nothing."""
    new = new_events(view)
    frames = {event: frame for frame, event in new}
    lookups = _Lookups(view, len(set(frames.values())) == len(new), frames)
    mentions: list[tuple[int, Tensor]] = []
    answers: list[tuple[int, Tensor]] = []
    references: list[tuple[int, int]] = []
    for index, (question, row) in enumerate(zip(asked, answering_rows(packed).tolist(), strict=True)):
        named = [
            (row_of_character(tokenizer, packed, question, index, end), cells)
            for end, cells in lookups.mentions(question)
        ]
        mentions += named
        if (answer := lookups.answer(question)) is not None:
            first = len(packed.before) + packed.visual_tokens
            spoken = range(int((packed.targets[row - first :] < 0).nonzero()[0]))
            answers += [(row + place, answer) for place in spoken]
            if named and question.family in _ENDS_WITH_EVENT:
                references += [(row + place, named[-1][0]) for place in spoken]
    return Occasions(_stacked(mentions, packed), _stacked(answers, packed), references)


def _stacked(lookups: list[tuple[int, Tensor]], packed: Packed) -> tuple[Tensor, Tensor]:
    empty = torch.zeros(0, packed.visual_tokens, dtype=torch.bool)
    rows = torch.tensor([row for row, _ in lookups], dtype=torch.int64)
    return rows, torch.stack([cells for _, cells in lookups]) if lookups else empty


@dataclass(frozen=True, slots=True)
class _Lookups:
    """What questions about one view look up."""

    view: View
    in_order: bool  # whether no two events show in the same frame
    frames: dict[Event, int]

    def mentions(self, question: Question) -> Iterator[tuple[int, Tensor]]:
        """Ends of events in the text, and the closing token [T] of each event's frame."""
        if question.family in _ENDS_WITH_EVENT and question.answer == CANNOT_TELL:
            yield len(question.text.rstrip("?")), self._closing([])
        elif question.family in (*_ENDS_WITH_EVENT, "order") or question.text.endswith(": so"):
            for end, event in mentioned(self.view.scene, question):
                if event in self.frames:
                    yield end, self._closing([self.frames[event]])

    def answer(self, question: Question) -> Tensor | None:
        """The closing tokens [T] that have noted the answer; None where that cannot be told."""
        family, events = question.family, self.view.scene.events
        if family in _IN_THE_END:
            return self._closing([len(self.view.times) - 1])
        if family in _ENDS_WITH_EVENT and question.answer == CANNOT_TELL:
            return self._closing([])
        if not self.in_order or family not in (*_ENDS_WITH_EVENT, *_WHICH):
            return None
        if family in _WHICH:
            frame = self.frames.get(events[_WHICH[family]])
            return None if frame is None else self._closing(range(frame, len(self.view.times)))
        [(_, event)] = mentioned(self.view.scene, question)[-1:]
        noted_with = event if family == "before" else events[events.index(event) + 1]
        frame = self.frames.get(noted_with)
        return None if frame is None or event not in self.frames else self._closing([frame])

    def _closing(self, frames: range | list[int]) -> Tensor:
        cells = torch.zeros(len(self.view.times) * self.view.grid**2, dtype=torch.bool)
        cells[closing_rows(self.view)[list(frames)]] = True
        return cells
