"""A run of random weights becomes a bundle that answers exactly as PyTorch does, or none at all."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from rough_models import TINY, save_rough_run
from safetensors.torch import load_file, save_file
from tiny_bundle import LADDER, routing_json
from typer.testing import CliRunner

from tam_edge.export import answers, bundle, inductor, manifest
from tam_edge.export.answers import SceneVideo, evaluation_questions
from tam_edge.export.bundle import export_bundle
from tam_edge.export.cli import app
from tam_edge.export.facts import BundleFacts
from tam_edge.export.inductor import ENGINE_FILE, InductorExport
from tam_edge.export.nano import NANO_FACTS
from tam_edge.export.parity import FEATURE_TOLERANCE, LOGIT_TOLERANCE, ParityError
from tam_edge.models.inductor import TASKS
from tam_edge.models.language import LanguageModel
from tam_edge.models.street import make_scene, render
from tam_edge.runtime import Bundle, UsageError, VideoQA, load_bundle
from tam_edge.runtime.bundle import default_bundle_path
from tam_edge.runtime.calibrate.memory import graph_figures, language_figures
from tam_edge.runtime.errors import EngineError
from tam_edge.runtime.routing import Routing

QUESTIONS = 4
FACTS = replace(NANO_FACTS, name="rough", routing=Routing.model_validate(routing_json()), max_output_tokens=3)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    save_rough_run(folder, TINY)
    return folder


@pytest.fixture(scope="module")
def exported(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return export_bundle(run, tmp_path_factory.mktemp("out") / "rough", FACTS, questions=QUESTIONS)


def test_bundle_is_whole_and_loads(exported: Bundle) -> None:
    assert load_bundle(exported.path, verify=True).manifest == exported.manifest
    named = {spec.file for spec in exported.manifest.files().values()}
    assert {path.name for path in exported.path.iterdir()} == named | {"manifest.json"}
    assert {f"projector-{grid}.onnx" for grid in LADDER} < named
    assert [path.name for path in exported.path.parent.iterdir()] == ["rough"]


def test_manifest_says_what_was_exported(exported: Bundle) -> None:
    said = exported.manifest
    encoder = said.encoders["siglip"]
    assert (encoder.image_px, encoder.patch_px, encoder.grid_side, encoder.width) == (58, 14, 4, 32)
    assert {grid: spec.expert for grid, spec in said.projectors.items()} == {4: 1, 3: 2, 2: 3}
    assert all(spec.inputs == ("features", "previous_features", "time_fraction") for spec in said.projectors.values())
    assert [engine.precision for engine in said.language.engines] == ["f16", "Q8_0"]
    assert (said.inductor.temperature, said.routing.confidence_threshold) == (1.25, 0.2)
    assert said.training == {"seed": 3, "minutes_eye": 1.5, "minutes_joint": 2.0}
    assert all(spec.peak_bytes > 0 for spec in said.language.engines)


def test_parity_figures_are_in_the_bundle(exported: Bundle) -> None:
    parity = exported.manifest.parity
    assert 0 < parity["vision_max_abs_error"] <= FEATURE_TOLERANCE
    assert all(0 < parity[f"projector_{grid}_max_abs_error"] <= FEATURE_TOLERANCE for grid in LADDER)
    assert 0 < parity["language_max_abs_error"] <= LOGIT_TOLERANCE
    assert (parity["language_questions"], parity["language_answers_differ"]) == (QUESTIONS, 0)
    assert parity["inductor_labels_differ"] == 0


def test_bundle_answers_questions(exported: Bundle) -> None:
    scene, question = next(evaluation_questions(1))
    with VideoQA.load(exported.path, threads=1) as qa:
        answer = qa.ask(SceneVideo(scene), question.text)
    assert answer.plan.grid in LADDER
    assert len(answer.evidence) == answer.plan.frames


@pytest.fixture
def quick(exported: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out what takes long and was done for `exported` already: tracing the Inductor, measuring memory."""

    def copy_inductor(run: Path, folder: Path) -> InductorExport:
        copies = [Path(shutil.copy(exported.path / name, folder)) for name in (ENGINE_FILE, inductor.TOKENIZER_FILE)]
        return InductorExport(*copies, TASKS, 40, 1.25, 0.2, {})

    monkeypatch.setattr(bundle, "export_inductor", copy_inductor)
    monkeypatch.setattr(manifest, "graph_figures", lambda path, inputs, axis=0: {"peak_bytes": 1})
    monkeypatch.setattr(manifest, "language_figures", lambda path, context: {"peak_bytes": 1})


@pytest.mark.usefixtures("quick")
def test_same_run_gives_the_same_files(run: Path, exported: Bundle, tmp_path: Path) -> None:
    again = export_bundle(run, tmp_path / "again", FACTS, questions=1)
    hashes = [{spec.file: spec.sha256 for spec in b.manifest.files().values()} for b in (exported, again)]
    assert hashes[0] == hashes[1]


def test_older_bundle_is_replaced_and_nothing_else(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundle, "_build", lambda run, folder, *rest: _write_any_bundle(folder))
    monkeypatch.setattr(bundle, "load_bundle", lambda path, verify: path)
    old = tmp_path / "old"
    old.mkdir()
    (old / "manifest.json").write_text((default_bundle_path() / "manifest.json").read_text())
    (old / "left.onnx").write_text("over")
    export_bundle(run, old, FACTS)
    assert [path.name for path in old.iterdir()] == ["manifest.json"]
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "dear.txt").write_text("x")
    with pytest.raises(UsageError, match="no bundle"):
        export_bundle(run, tmp_path / "letters", FACTS)
    assert (tmp_path / "letters" / "dear.txt").read_text() == "x"


def _write_any_bundle(folder: Path) -> None:
    (folder / "manifest.json").write_text("{}")


def test_unfinished_run_is_refused(run: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_bytes((run / "config.json").read_bytes())
    with pytest.raises(UsageError, match=r"lacks vision\.safetensors.*inductor: finish the training"):
        export_bundle(tmp_path / "run", tmp_path / "out", FACTS)
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("quick")
def test_answers_that_differ_leave_no_bundle(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = answers.reference

    def other_weights(language: LanguageModel, *rest: object) -> answers.Reference:
        torch.nn.init.normal_(language.layers[1].mlp.down_proj.weight)
        return honest(language, *rest)

    monkeypatch.setattr(answers, "reference", other_weights)
    with pytest.raises(ParityError, match=r"the bundle answers .*, PyTorch .* ahead"):
        export_bundle(run, tmp_path / "out", FACTS, questions=QUESTIONS)
    assert list(tmp_path.iterdir()) == []


def test_graph_that_differs_leaves_no_bundle(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = bundle.vision_graph

    def one_layer_less(encoder: torch.nn.Module) -> object:
        encoder = type(encoder)(replace(encoder.config, layers=2))
        weights = load_file(run / "vision.safetensors")
        encoder.load_state_dict({key: value for key, value in weights.items() if not key.startswith("layers.2.")})
        return honest(encoder)

    monkeypatch.setattr(bundle, "vision_graph", one_layer_less)
    with pytest.raises(ParityError, match="patch features differ"):
        export_bundle(run, tmp_path / "out", FACTS, questions=1)
    assert list(tmp_path.iterdir()) == []


def test_weights_of_another_size_are_refused(run: Path, tmp_path: Path) -> None:
    copied = tmp_path / "run"
    copied.mkdir()
    for file in run.glob("*.*"):
        (copied / file.name).write_bytes(file.read_bytes())
    (copied / "inductor").mkdir()
    weights = load_file(copied / "language.safetensors")
    save_file(weights | {"norm.weight": weights["norm.weight"][:-1].clone()}, copied / "language.safetensors")
    with pytest.raises(RuntimeError, match=r"norm\.weight"):
        export_bundle(copied, tmp_path / "out", FACTS)


def test_memory_follows_the_work(exported: Bundle) -> None:
    vision = exported.file(exported.manifest.encoders["siglip"].engines[0])
    memory = graph_figures(vision, {"pixels": ("float32", (200, 3, 58, 58))})["memory"]
    sizes, taken = zip(*((point.size, point.bytes) for point in memory.running["run"]), strict=True)
    assert sizes == (25, 50, 100, 200)
    assert taken[-1] - taken[0] > 175 * 16 * 48 * 4  # at least one hidden layer of one expert's worth
    assert memory.open_bytes <= memory.opening_bytes + (1 << 20)


def test_a_language_model_needs_more_with_more_cells(exported: Bundle) -> None:
    gguf = exported.file(exported.manifest.language.engines[0])
    figures = language_figures(gguf, 2048)
    memory = figures["memory"]
    assert [point.size for point in memory.running["plain"]] == [256, 512, 1024, 2048]
    assert memory.running["plain"][-1].bytes > memory.running["flash"][-1].bytes
    assert figures["peak_bytes"] > gguf.stat().st_size + 2048 * memory.cell_bytes["plain"]


def test_a_graph_that_cannot_run_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "broken.onnx").write_bytes(b"no graph")
    with pytest.raises(EngineError, match=r"broken\.onnx could not be measured"):
        graph_figures(tmp_path / "broken.onnx", {})


def test_scene_video_is_the_scene_at_the_asked_times() -> None:
    scene = make_scene(990_123)
    video = SceneVideo(scene)
    [batch] = video.frames([0.0, 1.5], 8)
    np.testing.assert_array_equal(batch.pixels[1], render(scene, 1.5))
    assert abs(video.info.duration_seconds - scene.duration_seconds) <= 0.5


def test_evaluation_uses_unseen_scenes_and_many_kinds_of_questions() -> None:
    asked = list(evaluation_questions(60))
    assert min(scene.seed for scene, _ in asked) >= 900_000
    assert len({question.family for _, question in asked}) >= 12


def test_shipped_facts_fit_the_inductor_and_the_prompt() -> None:
    assert isinstance(NANO_FACTS, BundleFacts)
    assert [rung.expert for rung in NANO_FACTS.routing.ladder] == [1, 2, 3, 4]
    assert NANO_FACTS.stop in NANO_FACTS.prompt.after_visual


def test_command_names_what_a_run_lacks(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["nano", "--run", str(tmp_path), "--out", str(tmp_path / "out")])
    assert isinstance(result.exception, UsageError)
    assert "finish the training first" in str(result.exception)
    assert not (tmp_path / "out").exists()


def test_command_prints_parity_figures(exported: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundle, "export_bundle", lambda run, out, **options: exported)
    result = CliRunner().invoke(app, ["nano", "--run", "run", "--out", str(tmp_path), "--json"])
    assert json.loads(result.stdout)["parity"] == exported.manifest.parity
