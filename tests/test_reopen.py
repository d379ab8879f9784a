"""`tam-edge reopen`: language model, positions and changes come out of a bundle as they went in."""

import numpy as np
import pytest
import torch
from command import call
from tiny_bundle import make_tiny_bundle

from tam_edge.export.language_reader import read_language
from tam_edge.export.reopen import reopen_bundle
from tam_edge.models.config import NANO
from tam_edge.models.projector import Projectors, frames_before
from tam_edge.models.recipe.study import LANGUAGE_FILE
from tam_edge.runtime import load_bundle
from tam_edge.runtime.bundle import default_bundle_path
from tam_edge.runtime.engines.onnx import OnnxEngine

BUNDLED = default_bundle_path()
TOLERANCE = 1e-4
"""Of the visual tokens, whose standard deviation is above 1: positions are solved for, in 64 bits."""


@pytest.fixture(scope="module")
def reopened(tmp_path_factory):
    run = tmp_path_factory.mktemp("run")
    path = reopen_bundle(BUNDLED, run)
    assert path == run / LANGUAGE_FILE
    return run, torch.load(path, weights_only=True)["modules"]


@pytest.mark.parametrize("grid", NANO.projector.grids)
def test_positions_and_changes_are_those_of_the_projectors(reopened, grid):
    """The expert's weights are taken from the graph, so that only the marks can differ."""
    projectors = Projectors(NANO.projector)
    projectors.position.load_state_dict(reopened[1]["position"])
    projectors.change.load_state_dict(reopened[1]["change"])
    bundle = load_bundle(BUNDLED)
    _take_expert(bundle, projectors.experts[NANO.projector.grids.index(grid)], grid)
    features = torch.randn(3, NANO.vision.grid_side**2, NANO.vision.width)
    times = torch.tensor([0.0, 0.31, 0.9])
    with torch.no_grad():
        ours = projectors(features, grid, times, frames_before(features)).numpy()
    values = {"features": features, "previous_features": frames_before(features), "time_fraction": times}
    engine = OnnxEngine(bundle.file(bundle.manifest.projectors[grid].engines[0]), threads=1, device="cpu")
    [theirs] = engine.run({name: value.numpy() for name, value in values.items()})
    assert theirs.std() > 1
    assert np.abs(ours - theirs).max() < TOLERANCE


def _take_expert(bundle, expert, grid):
    import onnx
    from onnx import numpy_helper

    graph = onnx.load(bundle.file(bundle.manifest.projectors[grid].engines[0])).graph
    found = {item.name: torch.tensor(numpy_helper.to_array(item)) for item in graph.initializer}
    state = {name: value.T if name.endswith("weight") else value for name, value in found.items()}
    expert.load_state_dict({name: state[name] for name in expert.state_dict()})


def test_the_language_model_is_the_bundles(reopened):
    bundle = load_bundle(BUNDLED)
    language = read_language(bundle.file(bundle.manifest.language.engines[0])).state_dict()
    assert language.keys() == reopened[1]["language"].keys()
    assert all(torch.equal(value, reopened[1]["language"][name]) for name, value in language.items())


def test_a_run_with_another_tokenizer_is_refused(reopened, tmp_path):
    (tmp_path / "tokenizer.json").write_text("{}")
    done = call("reopen", str(BUNDLED), "--run", str(tmp_path))
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert "was begun with another tokenizer" in done.err
    assert [path.name for path in tmp_path.iterdir()] == ["tokenizer.json"]


def test_the_bundle_itself_is_no_place():
    done = call("reopen", str(BUNDLED), "--run", str(BUNDLED))
    assert (done.code, done.out) == (2, "")
    assert "is the bundle that is read" in done.err
    assert not (BUNDLED / LANGUAGE_FILE).exists()


def test_projectors_without_marks_are_refused(tmp_path):
    bundle = make_tiny_bundle(tmp_path / "tiny")
    done = call("reopen", str(bundle), "--run", str(tmp_path / "run"))
    assert (done.code, done.err.count("\n")) == (2, 1), done.err
    assert "only those of the nano model can be read" in done.err
    assert not (tmp_path / "run").exists()


def test_it_says_what_it_wrote(tmp_path):
    done = call("reopen", str(BUNDLED), "--run", str(tmp_path / "run"))
    assert (done.code, done.out) == (0, f"wrote {tmp_path / 'run' / LANGUAGE_FILE}\n")
