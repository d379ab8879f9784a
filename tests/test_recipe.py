"""The recipe: packing asks as the runtime asks, symbols say what patches show, and a stopped stage resumes exactly."""

from __future__ import annotations

import random
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from shared_stage import share_work
from tokenizers import Tokenizer
from torch import Tensor, nn

from tam_edge.models.config import NANO, LanguageConfig
from tam_edge.models.language import LanguageModel
from tam_edge.models.projector import frames_before, pool
from tam_edge.models.recipe.eye import DenseHeads, dense_loss, frames_of_step
from tam_edge.models.recipe.joint import project
from tam_edge.models.recipe.language import answer_loss, right_answers
from tam_edge.models.recipe.loop import Stage, learning_rate_factor, run_stage
from tam_edge.models.recipe.nano import ROUTING, TASKS
from tam_edge.models.recipe.pack import pack, question_ids
from tam_edge.models.recipe.parallel import run_in_processes
from tam_edge.models.recipe.symbols import SCALE, Symbols, view_labels
from tam_edge.models.recipe.tokenizer import SPECIAL, train_tokenizer
from tam_edge.models.recipe.views import clip_view, freeze, random_view, still_view
from tam_edge.models.street import make_scene
from tam_edge.models.street.labels import GROUPS
from tam_edge.models.tallva import TallVA

TINY = LanguageConfig(
    vocab_size=1200, width=64, layers=2, heads=2, kv_heads=1, ffn_width=96, rope_theta=10000.0, tied=True, context=2048
)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer()


@pytest.fixture(scope="module")
def language() -> LanguageModel:
    torch.manual_seed(0)
    return LanguageModel(TINY)


def test_tokenizer_spells_signs_and_keeps_words_whole(tokenizer: Tokenizer) -> None:
    assert tokenizer.encode(" STOP 42").tokens == ["Ġ", "S", "T", "O", "P", "Ġ", "4", "2"]
    for words in GROUPS.values():
        for word in words:
            if word.islower():
                assert len(tokenizer.encode(f" {word}").ids) == 1, word
    assert [tokenizer.token_to_id(token) for token in SPECIAL] == list(
        range(tokenizer.get_vocab_size() - 3, tokenizer.get_vocab_size())
    )
    text = "wie viele? 人 é 🚗"
    assert tokenizer.decode(tokenizer.encode(text).ids) == text


def test_views_are_what_plans_choose() -> None:
    scene = next(scene for scene in map(make_scene, range(50)) if scene.duration_seconds > 60)
    for group in ("high", "balanced", "more"):
        view = clip_view(scene, group)
        assert len(view.times) * view.grid**2 <= (ROUTING.max_visual_tokens or 0)
        assert {ROUTING.rule(TASKS[question.task - 1]).group for question in view.asked} <= {group}
        assert all(0 <= part <= 1 for part in view.time_fractions)
    assert len(clip_view(scene, "high").times) < len(clip_view(scene, "more").times)


def test_a_frozen_scene_is_what_it_was_at_that_moment() -> None:
    for seed in range(40):
        scene = make_scene(seed)
        moment = 0.6 * scene.duration_seconds
        still = freeze(scene, moment)
        cyclist = scene.cyclist is not None and scene.cyclist.stay.holds(moment)
        assert still.people_at(0.5) == scene.people_at(moment) - cyclist
        assert still.light_at(0.5) == scene.light_at(moment)
        assert not still.events and not still.light_changes
        assert all(question.task != 4 for question in still_view(scene, moment, 12).asked)


def test_packed_questions_do_not_see_each_other(tokenizer: Tokenizer, language: LanguageModel) -> None:
    view = clip_view(make_scene(4), "balanced")
    visual = torch.randn(len(view.times) * view.grid**2, TINY.width, generator=torch.Generator().manual_seed(1))
    together = pack(tokenizer, view, list(view.asked[:5]))
    alone = [pack(tokenizer, view, [question]) for question in view.asked[:5]]
    with torch.no_grad():
        losses = torch.stack([answer_loss(language, one, visual) for one in alone])
        sizes = torch.tensor([float((one.targets >= 0).sum()) for one in alone])
        whole = answer_loss(language, together, visual)
    assert whole == pytest.approx(float((losses * sizes).sum() / sizes.sum()), abs=1e-4)


def test_a_packed_question_is_the_plain_prompt(tokenizer: Tokenizer, language: LanguageModel) -> None:
    view = clip_view(make_scene(4), "high")
    visual = torch.randn(len(view.times) * view.grid**2, TINY.width, generator=torch.Generator().manual_seed(2))
    before, title, own, answer = question_ids(tokenizer, view, view.asked[-1])
    words = language.embed_tokens
    ids = torch.tensor(title + own + answer[:-1])
    plain = torch.cat((words(torch.tensor(before)), visual, words(ids))).unsqueeze(0)
    with torch.no_grad():
        logits = language(plain)[0, -len(answer) :]
        expected = torch.nn.functional.cross_entropy(logits, torch.tensor(answer))
        packed = pack(tokenizer, view, [view.asked[0], view.asked[-1]])
        hits = right_answers(language, packed, visual)
        found = answer_loss(language, pack(tokenizer, view, [view.asked[-1]]), visual)
    assert found == pytest.approx(float(expected), abs=1e-4)
    assert hits[-1] == bool((logits.argmax(-1) == torch.tensor(answer)).all()) and len(hits) == 2


def test_symbols_are_the_words_of_what_a_patch_shows(tokenizer: Tokenizer) -> None:
    scene = next(scene for scene in map(make_scene, range(200)) if len(scene.people) == 1 and not scene.visitor)
    view = still_view(scene, 0.0, 12)
    labels, table = view_labels(view), torch.randn(tokenizer.get_vocab_size(), 32)
    tokens = Symbols(tokenizer).tokens(labels, 12, table)
    assert tokens.shape == (1, 144, 32)
    groups = list(GROUPS)
    for patch in range(0, 144, 7):
        named = [GROUPS[groups[i]][index - 1] for i, index in enumerate(labels[0, patch].tolist()) if index]
        ids = [tokenizer.encode(word if word.isupper() or word.isdigit() else f" {word}").ids for word in named]
        expected = SCALE * sum((table[word].sum(0) for word in ids), torch.zeros(32)).roll(16)
        assert torch.allclose(tokens[0, patch], expected, atol=1e-3)


def test_dense_loss_is_lowest_for_the_truth() -> None:
    pixels, labels = frames_of_step(0, 5, 2)
    assert pixels.shape == (2, 3, 168, 168) and pixels.abs().max() <= 1
    again, same = frames_of_step(0, 5, 2)
    assert torch.equal(pixels, again) and torch.equal(labels, same)
    heads = DenseHeads(8)
    truth = [20.0 * torch.nn.functional.one_hot(labels[..., i], size).float() for i, size in enumerate(heads.sizes)]
    wrong = [scores.roll(1, -1) for scores in truth]
    assert dense_loss(truth, labels) < 0.01 < 10 < dense_loss(wrong, labels)


def test_pooled_features_project_as_the_model_does(tokenizer: Tokenizer) -> None:
    torch.manual_seed(3)
    model = TallVA(replace(NANO, language=replace(NANO.language, layers=1)))
    view = random_view(random.Random(5), still=0.0)
    features = torch.randn(len(view.times), 144, NANO.vision.width)
    times, previous = torch.tensor(view.time_fractions), frames_before(features)
    expected = model.projectors(features, view.grid, times, previous).flatten(0, 1)
    assert torch.allclose(project(model, pool(features, view.grid), view), expected, atol=1e-5)


def _fit(run: Path, steps: int, total: int) -> Tensor:
    """Weights after `steps` of a stage of `total` steps in folder `run`."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 1))

    def loss_of_step(step: int) -> Tensor:
        if step == steps:
            raise KeyboardInterrupt
        x = torch.randn(32, 6, generator=torch.Generator().manual_seed(step))
        return ((model(x) - x.sum(1, keepdim=True)) ** 2).mean()

    stage = Stage("fit", total, muon_lr=0.02, adam_lr=0.02, warmup_steps=5)
    with suppress(KeyboardInterrupt):
        run_stage(stage, {"model": model}, loss_of_step, run)
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def test_a_stopped_stage_goes_on_as_if_it_had_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tam_edge.models.recipe.loop.SAVE_EVERY_SECONDS", 0.0)
    whole = _fit(tmp_path / "whole", 60, 60)
    _fit(tmp_path / "stopped", 23, 60)
    resumed = _fit(tmp_path / "stopped", 60, 60)
    assert torch.equal(whole, resumed)
    assert "start at step 23" in (tmp_path / "stopped" / "fit.log").read_text()
    again = _fit(tmp_path / "whole", 60, 60)
    assert torch.equal(whole, again)


def test_learning_rate_rises_stays_and_falls() -> None:
    stage = Stage("any", 1000, 1.0, 1.0, warmup_steps=100, final_fraction=0.1, decay_from=0.5)
    factors = np.array([learning_rate_factor(stage, step) for step in range(1000)])
    assert factors[0] == pytest.approx(0.01) and factors.max() == 1.0 and factors[-1] == pytest.approx(0.1, abs=0.01)
    assert (np.diff(factors)[500:] <= 0).all() and (factors[100:500] == 1).all()


def test_a_loss_that_is_no_number_stops_training(tmp_path: Path) -> None:
    layer = nn.Linear(2, 2)
    with pytest.raises(FloatingPointError, match="step 50"):
        run_stage(
            Stage("bad", 60, 0.1, 0.1), {"layer": layer}, lambda _: layer(torch.full((1, 2), torch.nan)).sum(), tmp_path
        )


def test_two_processes_train_what_one_does(tmp_path: Path) -> None:
    run_in_processes(partial(share_work, tmp_path / "one"), 1)
    run_in_processes(partial(share_work, tmp_path / "two"), 2)
    one, two = (
        torch.load(tmp_path / name / "shared.pt", weights_only=True)["modules"]["model"] for name in ("one", "two")
    )
    assert all(torch.allclose(one[key], two[key], atol=1e-6) for key in one)


def test_hints_are_true() -> None:
    for seed in range(60):
        scene = make_scene(seed)
        view = still_view(scene, 0.5 * scene.duration_seconds, 12)
        told = {question.text: question.answer for question in view.hints}
        for person in view.scene.people:
            [column] = [answer for text, answer in told.items() if person.colour in text and text.endswith("column")]
            assert column == str(person.column + 1)
        listed = told["the people: colours"].split()
        assert set(listed) == set(view.scene.stays()) or (listed, view.scene.stays()) == (["nobody"], {})
        for row in ("back", "front"):
            people = sorted((p for p in view.scene.people if p.row == row), key=lambda p: p.column)
            assert told.get(f"the {row} row", "").split() == [person.colour for person in people]
        timed = {question.text: question.answer for question in clip_view(scene, "more").hints}
        assert timed.get("the people at 0", "0") in ("0", str(scene.people_at(0.0)))
        assert len(timed["the lights"].split()) == len(scene.light_changes) + 1


def test_a_view_that_comes_again_asks_in_other_words() -> None:
    views = [clip_view(make_scene(5), "balanced", again=again) for again in (0, 0, 1)]
    texts = [{question.text for question in view.asked} for view in views]
    assert texts[0] == texts[1] != texts[2]
    assert views[0].times == views[2].times
