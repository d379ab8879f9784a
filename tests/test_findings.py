"""What an answer rests on is known of every question that compares, agrees with the answer, and is asked of one row."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import torch
from tokenizers import Tokenizer

from tam_edge.models.config import NANO
from tam_edge.models.language import LanguageModel
from tam_edge.models.recipe.findings import FIELDS, Findings, findings
from tam_edge.models.recipe.grounding import ground_places, ground_times
from tam_edge.models.recipe.language import answer_loss
from tam_edge.models.recipe.notes import DOINGS, UNKNOWN
from tam_edge.models.recipe.pack import Packed, answering_rows, pack
from tam_edge.models.recipe.tokenizer import train_tokenizer
from tam_edge.models.recipe.views import clip_view, still_view
from tam_edge.models.street import make_scene
from tam_edge.models.street.question import Question
from tam_edge.models.street.questions import questions
from tam_edge.models.street.world import COLOURS, EXPRESSIONS, Scene

COMPARED = ("is doing", "is mood", "is left", "order")


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer()


def known(scene: Scene, question: Question) -> dict[str, int]:
    found = dict(zip(FIELDS, findings(scene, question), strict=True))
    assert all(value == UNKNOWN or 0 <= value < FIELDS[name] for name, value in found.items())
    return {name: value for name, value in found.items() if value != UNKNOWN}


def verdict(question: Question, found: dict[str, int]) -> str | None:
    """The answer that the findings give, None where they lie too close together to tell."""
    if "doing" in found:
        return "yes" if DOINGS[found["doing"]] in re.findall("[a-z]+", question.text) else "no"
    if "expression" in found:
        return "yes" if EXPRESSIONS[found["expression"]] in question.text else "no"
    one, other = found.values()
    return None if one == other else "yes" if one < other else "no"


def test_findings_of_questions_that_compare_give_their_answers() -> None:
    checked = dict.fromkeys((*COMPARED, "so"), 0)
    for seed in range(120):
        scene = make_scene(seed)
        hints = [hint for hint in (*ground_places(scene), *ground_times(scene)) if hint.text.endswith(": so")]
        for question in (*questions(scene), *hints):
            family = "so" if question in hints else question.family
            if family not in checked:
                continue
            answer = verdict(question, known(scene, question))
            assert answer in (question.answer, None)
            checked[family] += answer is not None
    assert min(checked.values()) > 20


def test_findings_of_the_road_and_of_events() -> None:
    seen = set()
    for seed in range(120):
        scene = make_scene(seed)
        for question in questions(scene):
            found = known(scene, question)
            if question.family == "is safe":
                assert (found["obstacle"] == 0) == (question.answer == "yes")
            elif question.family == "why stopped":
                assert found["obstacle"] > 0
            elif question.family == "neighbour":
                side = "left" if "left" in question.text else "right"
                beside = found[f"{side} neighbour"]
                colour = COLOURS[beside - 1] if beside else "nobody"
                assert colour == question.answer.split()[-1]
            elif question.family in ("after", "before"):
                assert list(found) == ["tenth"]
            elif question.family not in (*COMPARED, "mood", "mouth", "gaze", "neighbour", "advice"):
                assert not found
                continue
            seen.add(question.family)
    assert seen >= {"is safe", "why stopped", "advice", "after", "before", "gaze", "neighbour"}


def packed_view(tokenizer: Tokenizer) -> tuple[LanguageModel, Packed, tuple[Scene, list[Question]]]:
    torch.manual_seed(0)
    language = LanguageModel(replace(NANO.language, vocab_size=tokenizer.get_vocab_size()))
    scene = next(s for s in map(make_scene, range(100)) if s.visitor and s.visitor.stay.holds(0.0))
    asked = [one for one in still_view(scene, 0.0, 12).asked if one.family in ("mood", "mouth", "weather")]
    return language, pack(tokenizer, still_view(scene, 0.0, 12), asked), (scene, asked)


def test_the_row_that_answers_comes_right_before_the_answer(tokenizer: Tokenizer) -> None:
    _, packed, (_, asked) = packed_view(tokenizer)
    rows = answering_rows(packed) - len(packed.before) - packed.visual_tokens
    assert len(rows) == len(asked)
    for row, question in zip(rows.tolist(), asked, strict=True):
        assert tokenizer.decode(packed.text[row + 1 : row + 3].tolist()).strip().startswith(question.answer[:3])
        assert packed.targets[row] == packed.text[row + 1]


def test_findings_cost_what_the_rows_do_not_know(tokenizer: Tokenizer) -> None:
    language, packed, (scene, asked) = packed_view(tokenizer)
    view, heads = still_view(scene, 0.0, 12), Findings(language, tokenizer)
    answer_loss(language, packed, torch.randn(packed.visual_tokens, NANO.language.width))
    ignorant = heads.loss(view, asked, packed)
    assert scene.visitor is not None
    at = next(iter(FIELDS.values())) + EXPRESSIONS.index(scene.visitor.expression)
    with torch.no_grad():
        heads.head[1].bias[at] += 20.0
    assert heads.loss(view, asked, packed) < 0.01 < ignorant
    before = language.layers[NANO.language.layers - 2].mlp.down_proj.weight
    last = language.layers[NANO.language.layers - 1].mlp.down_proj.weight
    ignorant.backward()
    assert before.grad is not None and before.grad.abs().sum() > 0
    assert last.grad is None  # comparing is left to the last block


def test_what_takes_nothing_costs_nothing(tokenizer: Tokenizer) -> None:
    language, packed, (scene, asked) = packed_view(tokenizer)
    weather = [question for question in asked if question.family == "weather"]
    view = clip_view(scene, "balanced")
    packed, heads = pack(tokenizer, view, weather), Findings(language, tokenizer)
    answer_loss(language, packed, torch.randn(packed.visual_tokens, NANO.language.width))
    assert heads.loss(view, weather, packed).item() == 0.0
