"""Stage 1 of the recipe on tiny checkpoints of both styles: it learns, measures itself and resumes exactly."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from command import call
from tiny_base import make_bert, make_llama

from tam_edge.models.inductor import load_inductor
from tam_edge.models.inductor_base import load_base
from tam_edge.models.inductor_questions import FOLDS, fold_of, read_labelled, sha256_of
from tam_edge.models.inductor_report import draw_figures, figures_table, read_metrics
from tam_edge.models.recipe import inductor as recipe
from tam_edge.models.recipe import inductor_metrics, inductor_tuning, loop
from tam_edge.models.recipe.inductor import Recipe, train_inductor
from tam_edge.quant import onnx_int8
from tam_edge.runtime.errors import UsageError

PNG = b"\x89PNG\r\n"


@pytest.fixture(autouse=True)
def small_and_single_threaded(monkeypatch):
    monkeypatch.setattr(recipe, "STREET_SCENES", 40)
    monkeypatch.setattr(recipe, "vocabulary_texts", lambda sets, seed: vocabulary_texts(sets, seed, count=200))
    monkeypatch.setattr(inductor_metrics, "UNSEEN_STREET_SCENES", 5)
    monkeypatch.setattr(inductor_tuning, "QUESTIONS_PER_STEP", 24)
    monkeypatch.setattr(inductor_tuning, "AVERAGE_DECAY", 0.9)
    monkeypatch.setattr(loop, "LOG_EVERY_STEPS", 20)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


vocabulary_texts = recipe.vocabulary_texts


def short(wide, fold, rate=5e-3):
    """A recipe of so many steps."""
    full = Recipe(pieces=700, max_tokens=32)
    stages = [
        replace(tuning, stage=replace(tuning.stage, steps=steps, adam_lr=rate, warmup_steps=3))
        for tuning, steps in ((full.wide, wide), (full.fold, fold))
    ]
    return replace(full, wide=stages[0], fold=stages[1])


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    return make_bert(tmp_path_factory.mktemp("bert"))


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return make_llama(tmp_path_factory.mktemp("smollm"))


@pytest.fixture
def trained(bert, tmp_path, capsys):
    report = train_inductor(tmp_path / "run", base=bert, recipe=short(160, 12))
    return tmp_path / "run", report, capsys.readouterr()


def test_the_loss_falls_and_the_figures_are_written(trained, bert, tmp_path):
    run, report, printed = trained
    losses = [float(loss) for loss in re.findall(r"loss ([\d.]+)", (run / "wide.log").read_text())]
    assert losses[-1] < 0.92 * losses[0]
    assert "steps/s" in printed.err
    assert printed.out == ""
    metrics = read_metrics(run)
    assert metrics == report.metrics
    assert sum(map(sum, metrics["confusion"])) == metrics["questions"] == 480
    diagonal = sum(row[index] for index, row in enumerate(metrics["confusion"]))
    assert metrics["accuracy"] == pytest.approx(diagonal / 480, abs=1e-4)
    assert metrics["accuracy"] == metrics["accuracy_written"] > 0.2
    assert "accuracy_public" not in metrics
    assert metrics["paraphrases"]["questions"] == 218
    assert metrics["said_otherwise"]["questions"] == 5 * metrics["questions"]
    assert (metrics["fresh"]["questions"], metrics["fresh_paraphrases"]["questions"]) == (169, 78)
    assert sum(bucket["questions"] for bucket in metrics["buckets"]) == 480
    assert len(metrics["buckets_paper"]) == 5
    assert (metrics["seed"], metrics["public_sets"], metrics["pieces"]) == (0, False, 700)
    assert set(metrics["sure"]) == set(inductor_metrics.SURE_QUESTIONS)
    left = {path.name for path in run.iterdir()}
    assert {"model.safetensors", "config.json", "inductor.json", "tokenizer.json", "metrics.json"} <= left
    assert not any(name.endswith(".pt") for name in left)

    figures = draw_figures(metrics, tmp_path / "figures")
    assert all(path.read_bytes().startswith(PNG) for path in figures)
    table = figures_table(metrics)
    assert f"{metrics['accuracy']:.1%}" in table
    told = call("inductor", "report", "--run", run, "--json")
    assert (told.code, json.loads(told.out)) == (0, metrics)
    assert call("inductor", "report", "--run", run).out.strip() == table


def test_what_rounding_and_the_cut_vocabulary_cost_is_measured_on_the_folds(trained, monkeypatch):
    monkeypatch.setattr(onnx_int8, "SMALLEST", 1000)
    run, report, _ = trained
    told = call("inductor", "report", "--run", run, "--as-exported", "--json")
    figures = json.loads(told.out)
    assert report.metrics.items() <= figures.items()
    changed = figures["int8_labels_differ"]
    assert 0 <= changed < 60
    assert abs(figures["int8_accuracy"] - report.accuracy) <= changed / 480 + 1e-4
    assert figures["int8_paraphrases"]["questions"] == 218
    assert 0 < figures["trimming_labels_differ"] < 480
    assert 0.1 < figures["untrimmed_accuracy"] < 1
    # Eight bits may turn no question, which depends on the processor: what steps of a quarter do must be seen.
    monkeypatch.setattr(onnx_int8, "to_int8", to_five_levels)
    coarse = json.loads(call("inductor", "report", "--run", run, "--as-exported", "--json").out)
    assert coarse["int8_labels_differ"] > changed


def to_five_levels(rows):
    """Rounding so coarse that answers turn: the largest of a row is 2."""
    scales = np.abs(rows).max(-1, keepdims=True) / 2 + 1e-9
    return scales.astype(np.float32), np.round(rows / scales).astype(np.int8)


def test_every_question_is_answered_by_the_model_that_did_not_see_it(trained):
    run, _, _ = trained
    for fold in range(FOLDS):
        said = json.loads((run / f"fold-{fold}.json").read_text())
        held_out = [one.text for one in read_labelled(None) if fold_of(one.text) == fold]
        assert set(said["questions"]) == set(map(sha256_of, held_out))
        model = load_inductor(run / f"fold-{fold}")
        tokenizer = recipe.Tokenizer.from_file(str(run / "tokenizer.json"))
        logits = inductor_tuning.predict(model, tokenizer, held_out[:3])
        np.testing.assert_allclose(logits, [said["questions"][sha256_of(text)] for text in held_out[:3]], atol=1e-4)


def test_the_bodys_tables_stay_and_its_layers_move(trained, bert):
    run, _, _ = trained
    wide, shipped = load_inductor(run / "wide").body.state_dict(), load_inductor(run).body.state_dict()
    base = load_base(bert).body.state_dict()
    for name, value in shipped.items():
        assert torch.equal(value, wide[name]) == name.startswith("embeddings."), name
    table = "embeddings.word_embeddings.weight"
    assert torch.equal(torch.unique(torch.cat([wide[table], base[table]]), dim=0), torch.unique(base[table], dim=0))


def test_a_llama_style_folder_is_trained_by_the_same_code(llama, tmp_path):
    report = train_inductor(tmp_path / "run", base=llama, recipe=short(60, 4))
    losses = [float(loss) for loss in re.findall(r"loss ([\d.]+)", (tmp_path / "run" / "wide.log").read_text())]
    assert losses[-1] < 0.97 * losses[0]
    model = load_inductor(tmp_path / "run")
    assert (model.pooling, model.body.config.model_type, model.max_tokens) == ("last", "llama", 32)
    assert report.metrics["pieces"] == 600


def test_pieces_tuned_side_by_side_are_the_same(bert, tmp_path, monkeypatch):
    monkeypatch.undo()  # the processes know nothing of what is changed here
    monkeypatch.setattr(recipe, "STREET_SCENES", 40)
    monkeypatch.setattr(inductor_metrics, "UNSEEN_STREET_SCENES", 5)
    figures = [
        train_inductor(tmp_path / str(processes), base=bert, recipe=short(2, 1), processes=processes).metrics
        for processes in (1, 2)
    ]
    assert len({json.dumps(one | {"minutes": 0}) for one in figures}) == 1
    for piece in ("", "fold-0", "fold-4"):
        weights = [(tmp_path / str(run) / piece / "model.safetensors").read_bytes() for run in (1, 2)]
        assert weights[0] == weights[1], piece


def test_a_stopped_run_goes_on_to_the_same_weights(bert, tmp_path, monkeypatch):
    train_inductor(tmp_path / "whole", base=bert, recipe=short(6, 2))
    monkeypatch.setattr(loop, "SAVE_EVERY_SECONDS", 0.0)
    draw, drawn = inductor_tuning.draw, []

    def draw_until_stopped(*arguments):
        drawn.append(arguments)
        if len(drawn) in (4, 12):  # in the wide piece, then in the second fold
            raise KeyboardInterrupt
        return draw(*arguments)

    monkeypatch.setattr(inductor_tuning, "draw", draw_until_stopped)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            train_inductor(tmp_path / "stopped", base=bert, recipe=short(6, 2))
        assert not (tmp_path / "stopped" / "metrics.json").exists()
    train_inductor(tmp_path / "stopped", base=bert, recipe=short(6, 2))
    assert len(drawn) == 6 + 6 * 2 + 2  # every step once, and the two that were stopped
    for name in ("model.safetensors", "wide/model.safetensors", "fold-1.json", "tokenizer.json"):
        assert (tmp_path / "stopped" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name


def test_another_seed_gives_other_weights_and_needs_another_folder(bert, tmp_path):
    for seed in (0, 1):
        train_inductor(tmp_path / str(seed), base=bert, recipe=short(2, 1), seed=seed)
    first, second = (tmp_path / str(seed) / "model.safetensors" for seed in (0, 1))
    assert first.read_bytes() != second.read_bytes()
    with pytest.raises(UsageError, match=r"was begun with .*'seed': 0"):
        train_inductor(tmp_path / "0", base=bert, recipe=short(2, 1), seed=1)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("train", "--run", "r", "--base", "nowhere"), "nowhere lacks config.json"),
        (("train", "--run", "r", "--queries", "nowhere"), "--queries nowhere is no folder"),
        (("report", "--run", "nowhere"), "nowhere has no metrics.json"),
    ],
)
def test_commands_name_what_is_missing(arguments, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    outcome = call("inductor", *arguments)
    assert (outcome.code, outcome.out) == (2, "")
    assert said in outcome.err
    assert outcome.err.count("\n") == 1


def test_public_questions_are_either_named_or_left_out(tmp_path):
    told = call("inductor", "train", "--run", tmp_path / "run", "--queries", tmp_path, "--without-queries")
    assert told.code == 2
    assert told.err.splitlines()[-1].endswith("--queries and --without-queries exclude each other: give one of them")
    assert not (tmp_path / "run").exists()
