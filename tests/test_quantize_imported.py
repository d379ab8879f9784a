"""`tam-edge quantize` on what `tam-edge export --checkpoint` writes: weights beside graphs, a projector for images."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from tiny_checkpoint import save_checkpoint, tiny_model

from tam_edge.export import graph as exported
from tam_edge.export import manifest
from tam_edge.export.pretrained.bundle import export_checkpoint
from tam_edge.export.pretrained.source import ImportOptions
from tam_edge.quant import graph_file, parts
from tam_edge.quant.graph import sites
from tam_edge.quant.graph_file import graph_bytes, move_graph, read_graph, save_graph
from tam_edge.quant.quantise import quantise
from tam_edge.quant.request import Request
from tam_edge.runtime import Bundle, VideoQA, load_bundle
from tam_edge.runtime.bundle import default_bundle_path
from tam_edge.runtime.calibrate import memory
from tam_edge.runtime.engines.onnx import OnnxEngine
from tam_edge.runtime.errors import EngineError

SAMPLE = default_bundle_path().parent / "street" / "sample.mp4"


@pytest.fixture(scope="module", autouse=True)
def small() -> Iterator[None]:
    """Every graph is a large one, and every matrix worth rounding; nobody measures memory."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exported, "EXTERNAL_BYTES", 1000)
        patch.setattr(graph_file, "EXTERNAL_BYTES", 1000)
        patch.setattr(sites, "__defaults__", (500,))
        patch.setattr(manifest, "graph_figures", lambda path, inputs, axis=0: {"peak_bytes": 1})
        patch.setattr(parts, "graph_figures", lambda path, inputs, axis=0: {"peak_bytes": 1})
        yield


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_checkpoint(tmp_path_factory.mktemp("checkpoint") / "tiny", tiny_model())


@pytest.fixture(scope="module")
def bundle(checkpoint: Path) -> Bundle:
    return export_checkpoint(checkpoint, checkpoint.with_name("bundle"))


def smaller(bundle: Bundle, out: Path, **options: object) -> dict:
    request = Request(bundle.path, out, calibrate=(SAMPLE,), ask=("how many people?",), error_most=5.0)
    return quantise(replace(request, **options))


def test_graphs_with_weights_beside_them_become_smaller_ones(bundle: Bundle, tmp_path: Path) -> None:
    before = {path.name: path.read_bytes() for path in bundle.path.iterdir()}
    os.link(bundle.path / "vision.onnx.weights", tmp_path / "backup")
    report = smaller(bundle, tmp_path / "B2", vision="int8", projectors="int8")
    assert {path.name: path.read_bytes() for path in bundle.path.iterdir()} == before
    new = load_bundle(tmp_path / "B2", verify=True)
    [eye] = new.manifest.encoders["siglip"].engines
    assert eye.weights is not None and eye.weights.file == "vision-int8.onnx.weights"
    named = {spec.file for spec in new.manifest.files().values()}
    assert {path.name for path in new.path.iterdir()} == named | {"manifest.json"}
    rows = {row["role"]: row for row in report["files"]}
    assert rows["encoder siglip"]["old"]["size_bytes"] == graph_bytes(bundle.path / "vision.onnx") > 200_000
    assert rows["encoder siglip"]["new"]["size_bytes"] == graph_bytes(new.path / "vision-int8.onnx")
    with VideoQA.load(new.path, threads=1, device="cpu") as qa:
        assert qa.ask(qa.open(SAMPLE), "how many people?", max_tokens=2).plan.frames > 0


def test_images_get_the_projector_that_videos_get(bundle: Bundle, tmp_path: Path) -> None:
    report = smaller(bundle, tmp_path / "B2", projectors="int8")
    said = load_bundle(tmp_path / "B2").manifest
    assert said.images is not None
    assert said.images.projector == said.projectors[7].engines
    assert not (tmp_path / "B2" / "projector-7.onnx").exists()
    files = {row["new"]["file"]: row["new"]["size_bytes"] for row in report["files"]}
    assert report["size"]["new_bytes"] == sum(files.values())  # a file of two roles counts once


def test_a_projector_of_images_alone_is_rounded_too(checkpoint: Path, tmp_path: Path) -> None:
    """Line breaks in videos: images have a graph without."""
    rows = export_checkpoint(checkpoint, tmp_path / "rows", ImportOptions(newline="grid"))
    smaller(rows, tmp_path / "B2", projectors="int8")
    said = load_bundle(tmp_path / "B2").manifest
    assert said.images is not None
    assert [engine.file for engine in said.images.projector] == ["projector-image-int8.onnx"]


def test_pictures_calibrate_as_frames(bundle: Bundle, tmp_path: Path) -> None:
    """A tile and a frame go through the same graph; the plan of a tiled image has no grid."""
    picture = tmp_path / "a.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (180, 260, 3), np.uint8)).save(picture)
    report = smaller(bundle, tmp_path / "B2", vision="int8", calibrate=(picture,), compare=(SAMPLE,))
    assert report["calibrated_on"]["questions"] == 1
    assert report["stages"]["vision"] > 0


def test_figures_of_the_import_are_not_said_of_other_files(bundle: Bundle, tmp_path: Path) -> None:
    said = json.loads((bundle.path / "manifest.json").read_text())
    figures = {
        "vision_rms_error": 1e-6,
        "image_rms_error": 1e-6,
        "language_rms_error": 1e-3,
        "language_answers_same": 4,
    }
    said["parity"] |= {**figures, "projector_7_rms_error": 1e-6, "verified": "transformers 4.57.6"}
    verified = tmp_path / "verified"
    verified.mkdir()
    for path in bundle.path.iterdir():
        (verified / path.name).write_bytes(path.read_bytes())
    (verified / "manifest.json").write_text(json.dumps(said))
    smaller(load_bundle(verified), tmp_path / "B2", vision="int8")
    parity = load_bundle(tmp_path / "B2").manifest.parity
    assert parity["verified"] == "transformers 4.57.6; before it was quantised"
    assert parity.keys() & {*figures, "projector_7_rms_error"} == {"language_rms_error", "projector_7_rms_error"}


def product(matrix: np.ndarray) -> onnx.ModelProto:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", matrix.shape[0]])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", matrix.shape[1]])
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    made = helper.make_graph(nodes, "product", [x], [y], [numpy_helper.from_array(matrix, "w")])
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def test_a_graph_is_written_moved_and_read_with_its_weights(tmp_path: Path) -> None:
    matrix = np.random.default_rng(1).standard_normal((30, 40), np.float32)
    model = product(matrix)
    exact = model.SerializeToString()
    save_graph(model, tmp_path / "a.onnx")
    assert model.SerializeToString() == exact
    assert (tmp_path / "a.onnx.weights").stat().st_size == matrix.nbytes
    os.link(tmp_path / "a.onnx.weights", tmp_path / "kept")
    move_graph(tmp_path / "a.onnx", tmp_path / "b.onnx")
    save_graph(product(-matrix), tmp_path / "a.onnx")  # the file that has another link is not written into
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "a.onnx", "a.onnx.weights", "b.onnx", "b.onnx.weights", "kept",
    ]  # fmt: skip
    assert np.array_equal(numpy_helper.to_array(read_graph(tmp_path / "b.onnx").graph.initializer[0]), matrix)
    x = np.ones((2, 30), np.float32)
    np.testing.assert_allclose(
        OnnxEngine(tmp_path / "b.onnx", threads=1, device="cpu").run({"x": x})[0], x @ matrix, atol=1e-4
    )
    assert (tmp_path / "kept").read_bytes() == matrix.tobytes()


def test_nothing_is_imported_from_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may be a checkpoint's, and hold a numpy.py as checkpoints hold a modeling.py."""
    for name in ("numpy", "onnxruntime", "llama_cpp", "json", "runpy", "tam_edge"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('code of the folder was run')")
    monkeypatch.chdir(tmp_path)
    save_graph(product(np.ones((30, 40), np.float32)), tmp_path / "a.onnx")
    assert memory.graph_figures(tmp_path / "a.onnx", {"x": ("float32", (2, 30))})["peak_bytes"] > 0


@pytest.mark.parametrize("damage", ["cut", "gone", "outside", "length"])
def test_weights_that_are_not_where_a_graph_says(tmp_path: Path, damage: str) -> None:
    save_graph(product(np.ones((30, 40), np.float32)), tmp_path / "a.onnx")
    beside = tmp_path / "a.onnx.weights"
    if damage == "cut":
        os.truncate(beside, 4000)
    elif damage == "gone":
        beside.unlink()
    else:
        model = onnx.load(tmp_path / "a.onnx", load_external_data=False)
        for entry in model.graph.initializer[0].external_data:
            if damage == "outside" and entry.key == "location":
                beside.rename(tmp_path.parent / f"{tmp_path.name}.w")
                entry.value = f"../{tmp_path.name}.w"
            elif damage == "length" and entry.key == "length":
                entry.value = "-1"
        onnx.save(model, tmp_path / "a.onnx")
    with pytest.raises(EngineError, match="is no readable ONNX file"):
        read_graph(tmp_path / "a.onnx")
