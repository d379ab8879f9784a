"""What is taught beside answers: notes say what happened, words look at what they name, heads start by content."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer

from tam_edge.models.config import NANO
from tam_edge.models.language import LanguageModel
from tam_edge.models.recipe.glances import GLANCING_BLOCKS, Glances, Named, find_glances, named_words
from tam_edge.models.recipe.guidance import Guidance
from tam_edge.models.recipe.language import SYMBOLS, answer_loss, train_on_symbols
from tam_edge.models.recipe.notes import (
    CAME,
    CHANGED,
    COLOURS,
    DOINGS,
    EARLY_FIELDS,
    FRAME_FIELDS,
    LATE_FIELDS,
    NOTHING,
    PERSON_FIELDS,
    SUBJECTS,
    THERE,
    UNKNOWN,
    WENT,
    closing_rows,
    early_notes,
    late_notes,
    person_notes,
    shown_notes,
)
from tam_edge.models.recipe.noticing import NOTICING, learn_to_notice, new_reader
from tam_edge.models.recipe.pack import pack
from tam_edge.models.recipe.sightings import COMING_AND_GOING, new_events, shown
from tam_edge.models.recipe.start import LOOKING_BLOCKS, start_looking
from tam_edge.models.recipe.symbols import turned, view_labels
from tam_edge.models.recipe.tokenizer import train_tokenizer
from tam_edge.models.recipe.views import busy_view, clip_view, still_view
from tam_edge.models.street import make_scene
from tam_edge.models.street.labels import CHOICES, GROUP_INDEX
from tam_edge.models.street.question import Question
from tam_edge.models.street.world import Scene


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer()


@pytest.fixture
def language(tokenizer: Tokenizer) -> LanguageModel:
    torch.manual_seed(0)
    return LanguageModel(replace(NANO.language, vocab_size=tokenizer.get_vocab_size()))


def busy_scenes() -> list[Scene]:
    scenes = map(make_scene, range(200))
    return [scene for scene in scenes if len(scene.events) >= 3 and len(scene.people) >= 2][:20]


def test_the_last_frame_has_noted_the_answers_about_the_whole_clip() -> None:
    checked = 0
    for scene in busy_scenes():
        view = clip_view(scene, "more")
        notes = late_notes(view)
        assert closing_rows(view).tolist() == [(i + 1) * view.grid**2 - 1 for i in range(len(view.times))]
        assert notes.shape == (len(view.times), len(LATE_FIELDS))
        last = dict(zip(LATE_FIELDS, notes[-1].tolist(), strict=True))
        if last["last kind"] == UNKNOWN or scene.events[-1].seconds > view.times[-1]:
            continue
        answers = {question.family: question.answer for question in clip_view(scene, "balanced").asked}
        assert str(last["light changes"]) == str(len(scene.light_changes))
        assert last["most at once"] <= int(answers["count at once"])
        assert last["seen so far"] <= int(answers["count"])
        end = max(frame for frame, _ in new_events(view))
        ended = dict(zip(LATE_FIELDS, notes[end].tolist(), strict=True))
        for which, event in (("first", scene.events[0]), ("last", scene.events[-1]), ("prior", scene.events[-2])):
            subject = SUBJECTS.index(event.subject) + 1 if event.subject in SUBJECTS else 0
            assert ended[f"{which} subject"] == subject
            assert ended[f"{which} kind"] > 0
        assert (last["prior kind"] == UNKNOWN) == (end != len(view.times) - 1)
        checked += 1
    assert checked >= 10


def test_notes_never_know_what_is_still_to_come() -> None:
    for scene in busy_scenes():
        view = clip_view(scene, "more")
        fields, notes = {**EARLY_FIELDS, **LATE_FIELDS}, torch.cat((early_notes(view), late_notes(view)), -1).tolist()
        assert sum(note[1] > 0 for note in notes) <= len(scene.events)
        there = shown(view)
        for index, (seconds, note) in enumerate(zip(view.times, notes, strict=True)):
            named = dict(zip(fields, note, strict=True))
            here = {colour for colour, seen in zip(COLOURS, there[index].tolist(), strict=False) if seen}
            assert {colour for colour in COLOURS if named[f"{colour} stay"] == THERE} == here
            assert here <= {colour for colour, stay in scene.stays().items() if stay.holds(seconds)}
            assert named["here now"] == len(here)
            if not any(event.seconds <= seconds for event in scene.events):
                assert named["last kind"] in (0, UNKNOWN)
        assert all(note < size for row in notes for note, size in zip(row, fields.values(), strict=True))


def test_who_comes_and_goes_is_noted_when_it_shows() -> None:
    noted = {CAME: 0, WENT: 0, CHANGED: 0}
    for seed in range(20):
        view = busy_view(random.Random(seed))
        there = shown(view)
        notes = torch.tensor(shown_notes(view).tolist())[:, -len(COMING_AND_GOING) :]
        assert (notes[0] == NOTHING).all()
        assert torch.equal(notes[1:] == CAME, there[1:] & ~there[:-1])
        assert torch.equal(notes[1:] == WENT, there[:-1] & ~there[1:])
        for kind in noted:
            noted[kind] += int((notes == kind).sum())
        stays = {f"person in {colour}": stay for colour, stay in view.scene.stays().items()}
        for frame, event in new_events(view):
            if event.text.endswith("arrives") and event.subject in stays:
                assert event.seconds <= view.times[frame]
                assert not there[frame - 1, COMING_AND_GOING.index(event.subject)]
    assert noted[CAME] > 100 < noted[WENT]
    assert noted[CHANGED] > 10


def test_a_frame_notes_what_its_labels_show() -> None:
    kinds = {"dog": "dog", "cyclist": "cyclist"}
    for scene in busy_scenes():
        view = clip_view(scene, "balanced")
        for note, labels in zip(shown_notes(view).tolist(), view_labels(view), strict=True):
            named = dict(zip(FRAME_FIELDS, note, strict=True))
            assert named["people"] == sum(named[f"{colour} here"] for colour in COLOURS)
            light = labels[:, GROUP_INDEX["light"]]
            assert set(light[light > 0].tolist()) == {named["light"] + 1}
            for name, kind in kinds.items():
                if (labels[:, GROUP_INDEX["kind"]] == CHOICES["kind"][kind]).any():
                    assert named[name] == 1


def test_a_person_is_noted_where_the_labels_show_one() -> None:
    noted = 0
    for seed in range(30):
        view = still_view(make_scene(seed), 1.0, 12)
        labels = view_labels(view)[0]
        rows, notes = person_notes(view)
        assert notes.shape == (len(rows), len(PERSON_FIELDS))
        for row, note in zip(rows.tolist(), notes.tolist(), strict=True):
            person = dict(zip(PERSON_FIELDS, note, strict=True))
            shown = labels[row, GROUP_INDEX["colour"]]
            if labels[row, GROUP_INDEX["kind"]] == CHOICES["kind"]["person"]:
                assert shown == CHOICES["colour"][COLOURS[person["colour"]]]
                assert labels[row, GROUP_INDEX["doing"]] == CHOICES["doing"][DOINGS[person["doing"]]]
                noted += 1
            assert person["right"] == UNKNOWN  # a picture has one frame
    assert noted > 30


def test_words_that_name_something() -> None:
    assert named_words("is the person in red dancing?") == [
        Named(20, "colour", "red", ("person", "visitor", "cyclist")),
        Named(28, "doing", "dancing"),
    ]
    assert [word.kinds for word in named_words("what is on the red car?")] == [("car",), ()]
    assert named_words("how many people?") == []
    assert [(word.group, word.choice) for word in named_words("why did the car stop?")] == [
        ("kind", "car"),
        ("kind", "obstacle"),
    ]
    texts = named_words("what word is on the sign?"), named_words("read the code on the car")
    assert [word.kinds for named in texts for word in named if word.group == "character"] == [("sign",), ("car",)]


def test_glances_fall_on_the_patches_that_show_the_word(tokenizer: Tokenizer) -> None:
    scene = next(scene for scene in busy_scenes() if scene.people[0].stay.holds(0.0))
    view = still_view(scene, 0.0, 12)
    colour = scene.people[0].colour
    missing = next(other for other in COLOURS if other not in scene.stays())
    asked = [Question(f"where is the one in {name}?", "left", 5, "where") for name in (colour, missing)]
    packed = pack(tokenizer, view, asked)
    rows, cells = find_glances(tokenizer, view, asked, packed)
    first = len(packed.before) + packed.visual_tokens
    words = [tokenizer.decode([int(packed.text[row - first])]).strip() for row in rows.tolist()]
    assert words == [colour, missing]
    labels = view_labels(view)[0, :, GROUP_INDEX["colour"]]
    assert cells[0].any() and not cells[1].any()
    assert set(labels[cells[0]].tolist()) == {CHOICES["colour"][colour]}


def test_what_is_spelled_is_looked_at_character_by_character(tokenizer: Tokenizer) -> None:
    scene = next(s for s in map(make_scene, range(100)) if s.sign and len(s.cars) == 1 and s.cars[0].stay.holds(1.0))
    assert scene.sign
    view = still_view(scene, 1.0, 12)
    asked = [
        Question("a", scene.cars[0].code, 8, "car code"),
        Question("a", f"{scene.sign.word} {scene.sign.number}", 8, "sign"),
        Question("a", "I can't tell", 8, "doubt sign word"),
        Question("a", "3", 1, "count"),
    ]
    asked[0] = replace(asked[0], text="the code of the car")
    packed = pack(tokenizer, view, asked)
    rows, cells = find_glances(tokenizer, view, asked, packed)
    first = len(packed.before) + packed.visual_tokens
    spelled = [row for row in rows.tolist() if packed.targets[row - first] >= 0]
    text = "".join(tokenizer.decode([int(packed.targets[row - first])]) for row in spelled)
    assert text == scene.cars[0].code + scene.sign.word + str(scene.sign.number)
    labels = view_labels(view)[0, :, GROUP_INDEX["character"]]
    for row, looked_at in zip(rows.tolist(), cells, strict=True):
        if row in spelled and looked_at.any():
            character = tokenizer.decode([int(packed.targets[row - first])])
            assert set(labels[looked_at].tolist()) == {CHOICES["character"][character]}
    assert sum(bool(cells[rows.tolist().index(row)].any()) for row in spelled) > len(spelled) // 2


def test_a_glance_costs_what_the_attention_misses(tokenizer: Tokenizer, language: LanguageModel) -> None:
    view = still_view(make_scene(3), 0.0, 12)
    asked = list(view.asked[:4])
    packed = pack(tokenizer, view, asked)
    glances = Glances(language, GLANCING_BLOCKS[0])
    visual = torch.randn(packed.visual_tokens, NANO.language.width)
    with torch.no_grad():
        answer_loss(language, packed, visual)
        row = torch.tensor([len(packed.before) + packed.visual_tokens + 3])
        anywhere = torch.ones(1, packed.visual_tokens, dtype=torch.bool)
        one = torch.zeros_like(anywhere)
        one[0, 5] = True
        everything, single = glances.loss(packed, row, anywhere), glances.loss(packed, row, one)
        absent = glances.loss(packed, row, torch.zeros_like(anywhere))
    assert 0 <= everything < single
    total = math.exp(-everything) + math.exp(-absent)
    assert math.exp(-everything) > 0.5 and total <= 1 + 1e-5


def test_heads_start_by_looking_at_what_shows_the_word(tokenizer: Tokenizer, language: LanguageModel) -> None:
    start_looking(language)
    attention, side = language.attention(LOOKING_BLOCKS[0]), NANO.language.head_width
    words = torch.nn.functional.normalize(torch.randn(50, NANO.language.width), dim=-1) * NANO.language.width**0.5
    with torch.no_grad():
        query = attention.q_proj(words)[:, :side]
        scores = query @ attention.k_proj(turned(words))[:, :side].T * side**-0.5
        itself = query @ attention.k_proj(words)[:, :side].T * side**-0.5
    assert (scores.argmax(-1) == torch.arange(50)).all()
    assert itself.diagonal().mean() < 0.3 * scores.diagonal().mean()


def test_guidance_teaches_decoder_and_its_own_heads(tokenizer: Tokenizer, language: LanguageModel) -> None:
    guidance = Guidance(language, tokenizer)
    view = clip_view(busy_scenes()[0], "more")
    asked = list(view.asked[:5])
    packed = pack(tokenizer, view, asked)
    answer_loss(language, packed, torch.randn(packed.visual_tokens, NANO.language.width))
    guidance.loss(view, asked, packed).backward()
    assert all(parameter.grad is not None for parameter in guidance.parameters())
    grads = [language.attention(block).k_proj.weight.grad for block in range(NANO.language.layers)]
    assert all(grad is not None and grad.abs().sum() > 0 for grad in grads[:-1])
    assert grads[-1] is None  # nothing is asked of the last block


def test_noticing_is_what_symbols_go_on_from(tokenizer: Tokenizer, tmp_path: Path) -> None:
    reader = learn_to_notice(tmp_path, NANO, tokenizer, stage=replace(NOTICING, steps=2))
    train_on_symbols(tmp_path, NANO, tokenizer, stage=replace(SYMBOLS, steps=0))
    kept = torch.load(tmp_path / "noticing.pt", weights_only=True)["modules"]
    for name, weight in reader.language.state_dict().items():
        assert torch.equal(weight, kept["language"][name])
    torch.manual_seed(0)
    untrained = new_reader(NANO, tokenizer).language
    moved = [
        not torch.equal(untrained.attention(block).q_proj.bias, reader.language.attention(block).q_proj.bias)
        for block in range(NANO.language.layers)
    ]
    assert moved == [True, True, True, False, False]


def test_the_first_blocks_alone(language: LanguageModel) -> None:
    x = torch.randn(1, 7, NANO.language.width)
    heard: list[torch.Tensor] = []

    def hear(_: torch.nn.Module, __: object, states: torch.Tensor) -> None:
        heard.append(states)

    language.layers[1].register_forward_hook(hear)
    with torch.no_grad():
        language.hidden_states(x)
        states = language.hidden_states(x, blocks=2)
    assert len(heard) == 2
    assert torch.equal(states, language.norm(heard[0]))
