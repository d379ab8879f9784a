"""A checkpoint folder becomes a bundle that loads, answers and plans exactly, or nothing at all."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from tiny_base import make_bert, make_llama
from tiny_checkpoint import GRIDS, save_checkpoint, tiny_config, tiny_model
from transformers import BertConfig, BertForSequenceClassification, LlamaConfig, LlamaForSequenceClassification
from typer.testing import CliRunner

from tam_edge.export import graph, manifest
from tam_edge.export.cli import app
from tam_edge.export.inductor import InductorExport, check_questions
from tam_edge.export.pretrained import bundle as writing
from tam_edge.export.pretrained.bundle import export_checkpoint
from tam_edge.export.pretrained.folder import CheckpointError, open_checkpoint
from tam_edge.export.pretrained.inductor import _tasks, take_inductor
from tam_edge.export.pretrained.source import ImportOptions
from tam_edge.export.pretrained.weights import load_vision
from tam_edge.models.inductor import TASKS
from tam_edge.models.inductor_tokenizer import encode
from tam_edge.quant.counted import counted_language_figures
from tam_edge.runtime import Bundle, FramesInMemory, VideoQA, load_bundle
from tam_edge.runtime.bundle import default_bundle_path
from tam_edge.runtime.calibrate.memory import language_figures
from tam_edge.runtime.consistency import problems
from tam_edge.runtime.engines.onnx import OnnxEngine
from tam_edge.runtime.errors import BundleError, UsageError
from tam_edge.runtime.frames import VideoInfo
from tam_edge.runtime.inductor import TaskEstimate
from tam_edge.runtime.plan import Limits, Plan, check_plan, make_plan
from tam_edge.runtime.tokenizer import load_tokenizer

FRAMES = FramesInMemory(np.random.default_rng(1).integers(0, 256, (9, 40, 60, 3), np.uint8), np.arange(9.0))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_checkpoint(tmp_path_factory.mktemp("checkpoint") / "tiny", tiny_model())


@pytest.fixture(scope="module")
def bundle(checkpoint: Path) -> Bundle:
    return export_checkpoint(checkpoint, checkpoint.with_name("bundle"))


@pytest.fixture
def unmeasured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifest, "graph_figures", lambda path, inputs, axis=0: {"peak_bytes": 1})


@pytest.fixture(scope="module")
def qa(bundle: Bundle) -> Iterator[VideoQA]:
    with VideoQA.load(bundle.path, threads=1) as qa:
        yield qa


def test_the_bundle_is_whole(bundle: Bundle) -> None:
    assert load_bundle(bundle.path, verify=True).manifest == bundle.manifest
    named = {spec.file for spec in bundle.manifest.files().values()}
    assert {path.name for path in bundle.path.iterdir()} == named | {"manifest.json"}
    assert "newline.f32" in named
    assert sorted(path.name for path in bundle.path.parent.iterdir()) == ["bundle", "tiny"]


def test_the_manifest_says_what_was_imported(bundle: Bundle) -> None:
    said = bundle.manifest
    assert (said.name, said.license) == ("tiny", "unknown: see the checkpoint")
    assert {grid: spec.expert for grid, spec in said.projectors.items()} == {7: 1, 5: 2, 4: 3, 3: 4}
    assert said.inductor.tasks == TASKS
    assert [engine.precision for engine in said.language.engines] == ["f16"]
    assert (said.language.context, said.language.max_output_tokens, said.language.stop) == (4096, 512, ("<|im_end|>",))
    assert said.parity["verified"] == "no: export with --verify"
    assert all(spec.peak_bytes > 0 for spec in (*said.language.engines, *said.encoders["siglip"].engines))
    assert said.training["newline"] == "one"


def test_it_answers_and_counts_every_token(qa: VideoQA) -> None:
    video = qa.open(FRAMES)
    answer = qa.ask(video, "how many people are there?", max_tokens=4)
    shown = sum(frame.tokens for frame in answer.evidence)
    assert answer.plan.visual_tokens == shown + 1
    assert answer.plan.visual_tokens_exact
    again = qa.ask(video, "what does it say?", plan=answer.plan, max_tokens=4)
    assert again.cache["prefix_tokens_reused"] > answer.plan.visual_tokens
    beside = Plan.from_json(answer.plan.to_json() | {"visual_tokens": answer.plan.visual_tokens - 1})
    with pytest.raises(UsageError, match="made for another bundle"):
        qa.ask(video, "what does it say?", plan=beside)


@given(frames=st.integers(1, 9), grid=st.sampled_from(GRIDS))
def test_plans_by_hand_count_the_closing_token_once(qa: VideoQA, frames: int, grid: int) -> None:
    plan = qa.plan(qa.open(FRAMES), "how many people?", frames=frames, grid=grid)
    assert plan.visual_tokens == plan.frames * grid * grid + 1
    assert str(f"{plan.visual_tokens:,} visual tokens") in plan.reasons[1]


@given(budget=st.integers(10, 900), seconds=st.integers(1, 200), task=st.sampled_from(TASKS))
def test_every_budget_holds_the_closing_token_too(bundle: Bundle, budget: int, seconds: int, task: str) -> None:
    info = VideoInfo("clip", "video", float(seconds), seconds * 25, 64, 48, 25.0, "h264", "clip")
    estimate = TaskEstimate("why?", task, 0.99, {task: 0.99})
    plan = make_plan(estimate, info, bundle.manifest, Limits(visual_tokens=budget))
    rung = bundle.manifest.routing.rung(plan.grid or 0)
    assert plan.visual_tokens == plan.frames * rung.tokens_per_frame + 1 <= budget
    check_plan(plan, info, bundle.manifest)


def test_a_frame_without_its_closing_token_is_no_plan(bundle: Bundle) -> None:
    info = VideoInfo("clip", "video", 5.0, 125, 64, 48, 25.0, "h264", "clip")
    with pytest.raises(UsageError, match="are not enough for one frame"):
        make_plan(TaskEstimate("why?", TASKS[0], 0.99, {}), info, bundle.manifest, Limits(visual_tokens=9))
    routing = bundle.manifest.routing.model_copy(update={"max_visual_tokens": 9})
    lying = bundle.manifest.model_copy(update={"routing": routing})
    assert [message for _, message in problems(lying)] == ["leaves room for 9 visual tokens, one frame is at least 10"]


def test_a_closing_file_of_another_width_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in bundle.path.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    (copy / "newline.f32").write_bytes(bytes(60 * 4))
    said = json.loads((copy / "manifest.json").read_text())
    said["closing"] = json.loads(manifest.file_spec(copy / "newline.f32").model_dump_json())
    (copy / "manifest.json").write_text(json.dumps(said))
    with pytest.raises(BundleError, match=r"closing\.size_bytes: is 240; an embedding of the language model is 256"):
        load_bundle(copy)


STAGES = ["image encoder", "projectors", "model, 0%", "model, 5", "Inductor", "transformers", "comparing logits"]


@pytest.mark.usefixtures("unmeasured")
@pytest.mark.parametrize("stage", STAGES)
def test_an_interrupted_export_leaves_nothing(checkpoint: Path, tmp_path: Path, stage: str) -> None:
    from tam_edge.export.pretrained.verify import verify_bundle

    def interrupted(what: str) -> None:
        if stage in what:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export_checkpoint(checkpoint, tmp_path / "out", verify=verify_bundle, progress=interrupted)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("unmeasured")
def test_what_a_killed_export_left_does_not_load_and_is_swept_away(checkpoint: Path, tmp_path: Path) -> None:
    left = tmp_path / ".out.partial"
    left.mkdir()
    (left / "language-f16.gguf").write_bytes(b"GGUF half")
    with pytest.raises(BundleError, match=r"manifest\.json: missing"):
        load_bundle(left)
    export_checkpoint(checkpoint, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.usefixtures("unmeasured")
def test_an_older_bundle_is_replaced_only_when_the_new_one_is_whole(checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    export_checkpoint(checkpoint, out, ImportOptions(precision="Q8_0"))
    before = (out / "manifest.json").read_text()
    with pytest.raises(UsageError):
        export_checkpoint(checkpoint, out, ImportOptions(inductor=tmp_path))
    assert (out / "manifest.json").read_text() == before
    after = export_checkpoint(checkpoint, out, ImportOptions(precision="bf16"))
    assert sorted(path.name for path in out.glob("*.gguf")) == ["language-bf16.gguf"]
    assert after.manifest.language.engines[0].precision == "bf16"
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "dear.txt").write_text("x")
    with pytest.raises(UsageError, match="is no bundle"):
        export_checkpoint(checkpoint, tmp_path / "letters")


@pytest.mark.usefixtures("unmeasured")
def test_the_same_checkpoint_gives_the_same_files(checkpoint: Path, bundle: Bundle, tmp_path: Path) -> None:
    again = export_checkpoint(checkpoint, tmp_path / "again")
    hashes = [{spec.file: spec.sha256 for spec in one.manifest.files().values()} for one in (bundle, again)]
    assert hashes[0] == hashes[1]


@pytest.mark.usefixtures("unmeasured")
def test_large_graphs_keep_their_weights_beside_them(
    checkpoint: Path, bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(graph, "EXTERNAL_BYTES", 1000)
    large = export_checkpoint(checkpoint, tmp_path / "large", ImportOptions(upcycle=True))
    engine = large.manifest.encoders["siglip"].engines[0]
    assert engine.weights is not None
    assert engine.weights.file == "vision.onnx.weights"
    assert engine.weights.size_bytes > 5 * engine.size_bytes
    assert "encoders.siglip.engines.0.weights" in large.manifest.files()
    pixels = np.random.default_rng(3).standard_normal((2, 3, 100, 100), np.float32)
    engines = [OnnxEngine(one.path / "vision.onnx", threads=1, device="cpu") for one in (large, bundle)]
    beside, inside = (one.run({"pixels": pixels})[0] for one in engines)
    np.testing.assert_allclose(beside, inside, atol=1e-4 * inside.std())
    with (tmp_path / "large" / "vision.onnx.weights").open("r+b") as stream:
        stream.truncate(4096)
    with pytest.raises(BundleError, match=r"encoders\.siglip\.engines\.0\.weights\.size_bytes"):
        load_bundle(large.path)


@pytest.mark.usefixtures("unmeasured")
def test_a_checkpoint_with_experts_keeps_them(tmp_path: Path) -> None:
    folder = save_checkpoint(tmp_path / "in", tiny_model(tiny_config(tied=True)))
    torch.manual_seed(2)
    weights = {}
    for name, values in load_file(folder / "model.safetensors").items():
        mlp = re.match(r"(.*encoder\.layers\.\d+\.)mlp\.(fc\d\..*)", name)
        projector = re.match(r"multi_modal_projector\.(.*)", name)
        if mlp:
            weights |= {f"{mlp[1]}experts.{i}.{mlp[2]}": values + 0.1 * torch.randn_like(values) for i in range(4)}
            weights[f"{mlp[1]}gate.weight"] = torch.randn(4, 32)
        elif projector:
            weights |= {f"multi_modal_projector.experts.{i}.{projector[1]}": values * (i + 1) for i in range(4)}
        else:
            weights[name] = values
    save_file(weights, folder / "model.safetensors")
    exported = export_checkpoint(folder, tmp_path / "out")
    opened = open_checkpoint(folder)
    source = writing.read_source(folder, ImportOptions())
    assert source.sizes.config.vision.experts == 4
    module = load_vision(opened, source.sizes.config.vision, upcycle=False)
    pixels = torch.randn(2, 3, 100, 100)
    with torch.no_grad():
        expected = module(pixels).features.numpy()
    got = OnnxEngine(exported.path / "vision.onnx", threads=1, device="cpu").run({"pixels": pixels.numpy()})[0]
    apart = np.abs(got - expected).max(-1) > 1e-3 * expected.std()
    assert apart.mean() < 0.05  # a near tie may send a token to another expert
    sizes = [np.abs(_tokens(exported, grid, expected)).mean() for grid in GRIDS]
    assert sizes == sorted(sizes)  # each grid has its own expert, the i-th i times as large before its GELU
    with pytest.raises(UsageError, match="has experts already: leave out --upcycle"):
        export_checkpoint(folder, tmp_path / "twice", ImportOptions(upcycle=True))


def _tokens(bundle: Bundle, grid: int, features: np.ndarray) -> np.ndarray:
    return OnnxEngine(bundle.path / f"projector-{grid}.onnx", threads=1, device="cpu").run({"features": features})[0]


def test_counted_memory_is_close_to_measured(bundle: Bundle, checkpoint: Path) -> None:
    engine = bundle.manifest.language.engines[0]
    config = writing.read_source(checkpoint, ImportOptions()).sizes.config.language
    for context in (512, 2048):
        measured = language_figures(bundle.file(engine), context)["peak_bytes"]
        counted = counted_language_figures(engine.size_bytes, config, context)["peak_bytes"]
        assert measured <= counted <= 2.5 * measured + (24 << 20)


def classifier(folder: Path, kind: str, labels: tuple[str, ...] | None = None) -> Path:
    base = make_bert(folder) if kind == "bert" else make_llama(folder)
    config = (BertConfig if kind == "bert" else LlamaConfig).from_pretrained(base, num_labels=8, pad_token_id=0)
    if labels is not None:
        config.id2label = dict(enumerate(labels))
    torch.manual_seed(4)
    model = (BertForSequenceClassification if kind == "bert" else LlamaForSequenceClassification)(config)
    head = model.classifier if kind == "bert" else model.score
    torch.nn.init.normal_(head.weight, std=1.0)
    model.save_pretrained(base)
    return base


@pytest.mark.usefixtures("unmeasured")
@pytest.mark.parametrize("kind", ["bert", "llama"])
def test_a_classifier_becomes_the_inductor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """Its logits are those of transformers; few questions are compared here, the export's own checks do the rest."""
    labels = tuple(reversed(TASKS))
    base = classifier(tmp_path / kind, kind, labels)
    monkeypatch.setattr("tam_edge.export.pretrained.inductor.check_questions", lambda: check_questions()[:200:20])
    monkeypatch.setattr("tam_edge.export.inductor.CHANGED_SHARE", 0.2)  # random weights have no opinion to keep
    (tmp_path / "out").mkdir()
    taken = take_inductor(base, tmp_path / "out")
    assert taken.spec.tasks == labels
    assert taken.parity["labels_differ"] == 0
    theirs = (BertForSequenceClassification if kind == "bert" else LlamaForSequenceClassification).from_pretrained(base)
    tokenizer = load_tokenizer(Bundle(tmp_path / "out", None), taken.spec.tokenizer, "inductor.tokenizer")  # type: ignore[arg-type]
    ids, mask = encode(tokenizer, ["how many people?", "what does the sign on the left say?"], 64)
    with torch.no_grad():
        expected = theirs.eval()(input_ids=torch.from_numpy(ids), attention_mask=torch.from_numpy(mask)).logits.numpy()
    engine = OnnxEngine(tmp_path / "out" / "inductor.onnx", threads=1, device="cpu")
    got = engine.run({"input_ids": ids, "attention_mask": mask})[0]
    assert np.abs(got - expected).max() < 0.1 * expected.std()  # 8-bit weights


def test_a_classifier_of_something_else_is_refused(tmp_path: Path) -> None:
    base = classifier(tmp_path / "bert", "bert", ("joy", "anger"))
    with pytest.raises(CheckpointError, match="its labels are joy, anger; needed: static attributes"):
        take_inductor(base, tmp_path)
    config = json.loads((base / "config.json").read_text())
    for labels in ({"first": "joy"}, ["joy"]):
        with pytest.raises(CheckpointError, match="id2label is no object from numbers to names"):
            _tasks(base, {"id2label": labels})
    config["id2label"] = {str(i): f"LABEL_{i}" for i in range(8)}
    (base / "config.json").write_text(json.dumps(config))
    weights = load_file(base / "model.safetensors")
    save_file({key: value for key, value in weights.items() if "classifier" not in key}, base / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"classifier\.weight is missing: this is no sequence classifier"):
        take_inductor(base, tmp_path)


@pytest.mark.usefixtures("unmeasured")
def test_another_bundles_inductor_is_taken_with_its_rules(bundle: Bundle, tmp_path: Path) -> None:
    taken = take_inductor(default_bundle_path(), tmp_path)
    installed = load_bundle(default_bundle_path()).manifest
    assert taken.spec.tasks == installed.inductor.tasks
    assert taken.threshold == installed.routing.confidence_threshold
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["inductor-tokenizer.json", "inductor.onnx"]
    assert bundle.manifest.inductor == taken.spec


def test_a_training_runs_inductor_is_exported(bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As test_inductor_export.py shows; here only that it is asked to."""
    (tmp_path / "inductor.json").write_text("{}")
    names = ("inductor.onnx", "inductor-tokenizer.json")
    ready = InductorExport(*(bundle.path / name for name in names), TASKS, 40, 1.25, 0.2, {"questions": 7})
    monkeypatch.setattr("tam_edge.export.pretrained.inductor.export_inductor", lambda run, folder: ready)
    taken = take_inductor(tmp_path, tmp_path / "out")
    assert (taken.spec.temperature, taken.spec.max_tokens, taken.threshold, taken.parity) == (
        1.25,
        40,
        0.2,
        {"questions": 7},
    )


def test_the_command_says_what_it_needs(tmp_path: Path) -> None:
    def said(*arguments: str) -> str:
        result = CliRunner().invoke(app, list(arguments))
        assert isinstance(result.exception, UsageError)
        return str(result.exception)

    assert "--checkpoint FOLDER --out FOLDER" in said()
    assert "--checkpoint FOLDER --out FOLDER" in said("--checkpoint", str(tmp_path))
    for grids in ("27,x", "14,27", "3,0", "4,4", ""):
        assert "--grids" in said("--checkpoint", str(tmp_path), "--out", str(tmp_path / "out"), "--grids", grids)
    assert "come after its name" in said("--out", "x", "nano", "--run", "r", "--out", "y")


def test_the_command_prints_one_json_value(bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def noted(checkpoint: Path, out: Path, options: ImportOptions, **rest: object) -> Bundle:
        seen.append((checkpoint, out, options, rest["verify"]))
        return bundle

    monkeypatch.setattr(writing, "export_checkpoint", noted)
    line = f"--checkpoint in --out {tmp_path} --grids 7,4 --upcycle --newline frame --precision Q8_0 --verify --json"
    result = CliRunner().invoke(app, line.split())
    assert json.loads(result.stdout)["parity"] == bundle.manifest.parity
    [(checkpoint, _, options, verify)] = seen
    assert checkpoint == Path("in")
    assert options == ImportOptions(None, (7, 4), upcycle=True, newline="frame", precision="Q8_0")
    assert verify is not None
