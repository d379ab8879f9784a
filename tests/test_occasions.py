"""Questions about events look at the frames that noted them: by the time of the event, whatever the words."""

from __future__ import annotations

import pytest
import torch
from tokenizers import Tokenizer

from tam_edge.models.recipe.findings import finding_rows
from tam_edge.models.recipe.glances import named_words
from tam_edge.models.recipe.notes import LATE_FIELDS, UNKNOWN, late_notes
from tam_edge.models.recipe.occasions import find_occasions, mentioned
from tam_edge.models.recipe.pack import answering_rows, pack
from tam_edge.models.recipe.sightings import new_events
from tam_edge.models.recipe.tokenizer import train_tokenizer
from tam_edge.models.recipe.views import View, clip_view
from tam_edge.models.street import make_scene
from tam_edge.models.street.doubts import CANNOT_TELL
from tam_edge.models.street.question import Question

FAMILIES = ("first", "last", "after", "before", "doubt after", "order")


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer()


@pytest.fixture(scope="module")
def views() -> list[View]:
    found = [clip_view(make_scene(seed), "more") for seed in range(40)]
    return [view for view in found if len(view.scene.events) >= 3]


def frames_of(cells: torch.Tensor, view: View) -> list[int]:
    places = cells.nonzero().flatten()
    assert (places % view.grid**2 == view.grid**2 - 1).all()  # the tokens that close frames
    return (places // view.grid**2).tolist()


def test_an_event_is_found_in_the_words_of_a_question(views: list[View]) -> None:
    for view in views:
        for question in view.asked:
            found = mentioned(view.scene, question) if question.family in FAMILIES else []
            for end, event in found:
                assert question.text[:end].endswith(event.text.split()[-1])
            if question.family == "order":
                assert (found[0][1].seconds < found[-1][1].seconds) == (question.answer == "yes")
    assert mentioned(views[0].scene, Question("is the person in red dancing?", "no", 2, "is doing")) == []


def test_what_a_question_mentions_is_looked_up_where_it_shows(tokenizer: Tokenizer, views: list[View]) -> None:
    looked = 0
    for view in views:
        asked = [question for question in view.asked if question.family in FAMILIES]
        packed = pack(tokenizer, view, asked)
        rows, cells = find_occasions(tokenizer, view, asked, packed).mentions
        new = new_events(view)
        first = len(packed.before) + packed.visual_tokens
        for row, looked_at in zip(rows.tolist(), cells, strict=True):
            at = max(index for index, start in enumerate(packed.starts) if first + start <= row)
            frames = frames_of(looked_at, view)
            assert bool(frames) == (asked[at].answer != CANNOT_TELL)
            word = tokenizer.decode([int(packed.text[row - first])]).strip()
            assert all(any(word in event.text for frame, event in new if frame == one) for one in frames)
            looked += len(frames)
    assert looked > 50


def test_an_answer_is_looked_up_where_it_is_noted(tokenizer: Tokenizer, views: list[View]) -> None:
    noted_in = {"first": "first", "last": "last", "before": "prior", "after": "last", "doubt after": "last"}
    checked = dict.fromkeys(noted_in, 0)
    for view in views:
        asked = [question for question in view.asked if question.family in noted_in]
        packed = pack(tokenizer, view, asked)
        rows, cells = find_occasions(tokenizer, view, asked, packed).answers
        begins = answering_rows(packed).tolist()
        assert set(rows.tolist()) <= {row + place for row in begins for place in range(12)}
        notes = late_notes(view)
        for row, looked_at in zip(rows.tolist(), cells, strict=True):
            if row not in begins or not (frames := frames_of(looked_at, view)):
                continue
            question = asked[begins.index(row)]
            kinds = notes[frames, list(LATE_FIELDS).index(f"{noted_in[question.family]} kind")]
            assert len(set(kinds.tolist())) == 1 and kinds[0] not in (0, UNKNOWN)
            since = min(frame for frame, event in new_events(view) if event.text == question.answer)
            assert since <= frames[0]
            checked[question.family] += 1
    assert min(checked.values()) > 5


def test_an_answer_refers_to_the_event_that_its_question_asks_from(tokenizer: Tokenizer, views: list[View]) -> None:
    referred = 0
    for view in views:
        asked = [question for question in view.asked if question.family in FAMILIES]
        packed = pack(tokenizer, view, asked)
        occasions = find_occasions(tokenizer, view, asked, packed)
        first, begins = len(packed.before) + packed.visual_tokens, answering_rows(packed).tolist()
        for row, end in occasions.references:
            assert row in occasions.answers[0] and end in occasions.mentions[0] and end < row
            assert packed.targets[row - first] >= 0
            at = max(index for index, begin in enumerate(begins) if begin <= row)
            assert first + packed.starts[at] <= end <= begins[at]  # in the same question
            assert asked[at].family in ("after", "before", "doubt after")
            referred += row in begins
    assert referred > 20


def test_two_things_are_compared_where_the_second_is_named(tokenizer: Tokenizer, views: list[View]) -> None:
    scene = views[0].scene
    asked = [
        Question("is the dog left of the sign, please?", "no", 5, "is left"),
        Question("where is the dog?", "left", 5, "where"),
    ]
    packed = pack(tokenizer, views[0], asked)
    rows, compared = finding_rows(tokenizer, scene, asked, packed)
    first = len(packed.before) + packed.visual_tokens
    assert tokenizer.decode([int(packed.text[rows[0] - first])]).strip() == "sign"
    assert named_words(asked[0].text)[-1].choice == "sign"
    assert rows[1] == answering_rows(packed)[1]
    [(second, first_named)] = compared
    assert second == rows[0]
    assert tokenizer.decode([int(packed.text[first_named - first])]).strip() == "dog"
