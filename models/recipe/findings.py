"""What should have been found out before the last block answers: what a verdict rests on.

"yes" and "no" say one bit about two facts that have to be found and compared; alone they stay at chance long after
both facts can be told. So the facts themselves are asked for, one block before the last, where comparing is all that is
left to do: at the token that answers, or where two things are compared at the second one's name, from which the first
is plain to see. The heads that read them out are thrown away after training.
"""

from __future__ import annotations

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional

from tam_edge.models.language import LanguageModel
from tam_edge.models.recipe.glances import Glances, Named, named_words
from tam_edge.models.recipe.notes import DOINGS, UNKNOWN
from tam_edge.models.recipe.occasions import mentioned
from tam_edge.models.recipe.pack import Packed, answering_rows, row_of_character
from tam_edge.models.recipe.views import View
from tam_edge.models.street.labels import GRID
from tam_edge.models.street.question import Question
from tam_edge.models.street.questions import lasting_spots
from tam_edge.models.street.world import COLOURS, EXPRESSIONS, GAZES, OBSTACLES, Event, Scene

TENTHS = 10
COMPARING_HEAD = 1
FIELDS: dict[str, int] = {
    "doing": len(DOINGS),
    "expression": len(EXPRESSIONS),
    "gaze": len(GAZES),
    "obstacle": len(OBSTACLES) + 1,
    "left neighbour": len(COLOURS) + 1,
    "right neighbour": len(COLOURS) + 1,
    "column": GRID,
    "other column": GRID,
    "tenth": TENTHS,
    "other tenth": TENTHS,
}
"""What may have to be found -> how many answers there are; no obstacle and nobody are 0."""

_OF_THE_FACE = ("mood", "mouth", "is mood")
_OF_THE_ROAD = ("why stopped", "advice", "is safe")
_OF_TIME = 4  # task type
_OF_EVENTS = ("after", "before", "order")


def findings(scene: Scene, question: Question) -> tuple[int, ...]:
    """What the question takes to answer, [FIELDS]; UNKNOWN where it is not needed."""
    found: dict[str, int] = {}
    text, family = question.text, question.family
    hint = text.endswith(": so")
    if family in _OF_EVENTS or (hint and " before " in text):
        found |= zip(
            ("tenth", "other tenth"), (_tenth(scene, event) for _, event in mentioned(scene, question)), strict=False
        )
    elif _compares_places(question):
        where = lasting_spots(scene)
        found["column"], found["other column"] = (int(where[_thing(word)][1] * GRID) for word in named_words(text))
    elif family in _OF_THE_FACE or text.startswith("the face "):
        assert scene.visitor is not None
        found["expression"] = EXPRESSIONS.index(scene.visitor.expression)
    elif family == "gaze":
        assert scene.visitor is not None
        found["gaze"] = GAZES.index(scene.visitor.gaze)
    elif family == "neighbour":
        found["left neighbour"], found["right neighbour"] = _neighbours(scene, named_words(text)[0].choice)
    elif family in _OF_THE_ROAD:
        obstacle = scene.cars[0].obstacle
        found["obstacle"] = OBSTACLES.index(obstacle) + 1 if obstacle else 0
    elif family == "is doing" or hint:
        colour = named_words(text)[0].choice
        found["doing"] = next(DOINGS.index(one.doing) for one in scene.people if one.colour == colour)
    return tuple(found.get(name, UNKNOWN) for name in FIELDS)


def _neighbours(scene: Scene, colour: str) -> tuple[int, int]:
    """Who stands next to the person in `colour`, left and right, in a row where nobody comes or goes."""
    person = next(one for one in scene.people if one.colour == colour)
    row = sorted((one for one in scene.people if one.row == person.row), key=lambda one: one.column)
    beside = [0, *(COLOURS.index(one.colour) + 1 for one in row), 0]
    place = row.index(person)
    return beside[place], beside[place + 2]


def _thing(word: Named) -> str:
    """A named thing as `lasting_spots` calls it."""
    return f"person in {word.choice}" if word.group == "colour" else word.choice


def _tenth(scene: Scene, event: Event) -> int:
    """The tenth of the clip at which something happens."""
    return min(TENTHS - 1, int(TENTHS * event.seconds / scene.duration_seconds))


def _compares_places(question: Question) -> bool:
    return question.family == "is left" or (question.text.endswith(": so") and " left of " in question.text)


def finding_rows(
    tokenizer: Tokenizer, scene: Scene, asked: list[Question], packed: Packed
) -> tuple[Tensor, list[tuple[int, int]]]:
    """Rows [Q] of the sequence at which each question's findings must be known; and of two things that are compared,
    the rows of the second and the first name.
    """
    rows, compared = answering_rows(packed).tolist(), []
    for index, question in enumerate(asked):
        ends = [word.end for word in named_words(question.text)] if _compares_places(question) else []
        ends += [end for end, _ in mentioned(scene, question)] if question.task == _OF_TIME else []
        named = [row_of_character(tokenizer, packed, question, index, end) for end in sorted(ends)]
        if named:
            rows[index] = named[-1]
        if len(named) == 2:
            compared.append((named[1], named[0]))
    return torch.tensor(rows, dtype=torch.int64), compared


class Findings(nn.Module):
    """Reads findings out of the decoder's states before its last block; hears these in every forward pass."""

    def __init__(self, language: LanguageModel, tokenizer: Tokenizer) -> None:
        super().__init__()
        self._tokenizer = tokenizer
        width = language.config.width
        self.head = nn.Sequential(nn.RMSNorm(width), nn.Linear(width, sum(FIELDS.values())))
        self._states: Tensor | None = None
        self._backward_looks = Glances(language, language.config.layers - 2, COMPARING_HEAD)
        language.layers[language.config.layers - 2].register_forward_hook(self._hear)

    def _hear(self, _: nn.Module, __: object, states: Tensor) -> None:
        self._states = states[0]

    def loss(self, view: View, asked: list[Question], packed: Packed) -> Tensor:
        """Mean cross-entropy of what the questions of the last forward pass take; 0 where they take nothing."""
        assert self._states is not None
        states = self._states
        found = torch.tensor([findings(view.scene, question) for question in asked], device=states.device)
        rows, compared = finding_rows(self._tokenizer, view.scene, asked, packed)
        logits = self.head(states[rows.to(states.device)].float()).float()
        losses = [
            functional.cross_entropy(part, answer, ignore_index=UNKNOWN, reduction="sum")
            for part, answer in zip(logits.split(list(FIELDS.values()), -1), found.unbind(-1), strict=True)
        ]
        loss = torch.stack(losses).sum() / max(1, int((found != UNKNOWN).sum()))
        return loss + self._backward_looks.loss_of_text(packed, compared) if compared else loss
