"""Stage 1 of the recipe on a tiny model: it learns, measures itself, and resumes as if nothing had happened."""

import json
import re

import pytest
import torch

from tam_edge.models.inductor import InductorConfig
from tam_edge.models.recipe import inductor as recipe
from tam_edge.models.recipe import loop
from tam_edge.models.recipe.loop import Stage

TINY = InductorConfig(vocab_size=700, width=32, layers=1, heads=2, kv_heads=1, ffn_width=48, max_tokens=32, pad_id=0)


@pytest.fixture(autouse=True)
def small_and_single_threaded(monkeypatch):
    monkeypatch.setattr(recipe, "STREET_SCENES", 60)
    monkeypatch.setattr(recipe, "UNSEEN_STREET_SCENES", 10)
    monkeypatch.setattr(recipe, "QUESTIONS_PER_STEP", 24)
    monkeypatch.setattr(recipe, "AVERAGE_DECAY", 0.9)
    monkeypatch.setattr(loop, "LOG_EVERY_STEPS", 20)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def stage(steps):
    return Stage("inductor", steps=steps, muon_lr=4e-3, adam_lr=4e-3, warmup_steps=5)


@pytest.fixture
def trained(tmp_path, capsys):
    report = recipe.train_inductor(tmp_path / "run", stage=stage(140), config=TINY)
    return tmp_path / "run", report, capsys.readouterr()


def test_the_loss_falls_and_the_figures_are_written(trained):
    run, report, printed = trained
    losses = [float(loss) for loss in re.findall(r"loss ([\d.]+)", (run / "inductor.log").read_text())]
    assert losses[-1] < 0.75 * losses[0]
    assert "steps/s" in printed.err
    assert printed.out == ""
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics == report.metrics
    held_out = metrics["held_out_questions"]
    assert sum(map(sum, metrics["confusion"])) == held_out == 91
    diagonal = sum(row[index] for index, row in enumerate(metrics["confusion"]))
    assert metrics["accuracy"] == pytest.approx(diagonal / held_out, abs=1e-4)
    assert metrics["accuracy"] > 0.3
    assert metrics["street_accuracy"] > 0.5
    assert set(metrics["sure"]) == set(recipe.SURE_QUESTIONS)
    assert (metrics["seed"], metrics["from_step"], metrics["steps"]) == (0, 0, 140)
    assert {"model.safetensors", "config.json", "tokenizer.json", "metrics.json"} <= {
        path.name for path in run.iterdir()
    }


def test_a_stopped_run_goes_on_to_the_same_weights(tmp_path, monkeypatch):
    recipe.train_inductor(tmp_path / "whole", stage=stage(12), config=TINY)
    monkeypatch.setattr(loop, "SAVE_EVERY_SECONDS", 0.0)
    draw, drawn = recipe.draw, []

    def draw_until_stopped(*arguments):
        drawn.append(arguments)
        if len(drawn) == 8:
            raise KeyboardInterrupt
        return draw(*arguments)

    monkeypatch.setattr(recipe, "draw", draw_until_stopped)
    with pytest.raises(KeyboardInterrupt):
        recipe.train_inductor(tmp_path / "stopped", stage=stage(12), config=TINY)
    assert not (tmp_path / "stopped" / "model.safetensors").exists()
    report = recipe.train_inductor(tmp_path / "stopped", stage=stage(12), config=TINY)
    assert report.metrics["from_step"] == 7
    assert len(drawn) == 8 + 12 - 7
    for name in ("model.safetensors", "tokenizer.json"):
        assert (tmp_path / "stopped" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_another_seed_gives_other_weights(tmp_path):
    for seed in (0, 1):
        recipe.train_inductor(tmp_path / str(seed), stage=stage(2), config=TINY, seed=seed)
    first, second = (tmp_path / str(seed) / "model.safetensors" for seed in (0, 1))
    assert first.read_bytes() != second.read_bytes()
