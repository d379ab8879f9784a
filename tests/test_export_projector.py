"""Projector graphs against their PyTorch modules, and the mutants the comparison must notice."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from rough_models import PROJECTOR, roughen

from tam_edge.export.parity import FEATURE_TOLERANCE, ParityError, compare_projector
from tam_edge.export.projector import projector_graph
from tam_edge.models.config import NANO
from tam_edge.models.projector import Projectors
from tam_edge.runtime.engines.onnx import OnnxEngine

SIDE = 4
DRAW = np.random.default_rng(4)
FEATURES = DRAW.normal(size=(5, SIDE * SIDE, 32)).astype(np.float32)
TIMES = np.array([0.0, 0.137, 0.5, 0.99, 1.0], np.float32)
INPUTS = {
    "features": FEATURES,
    "previous_features": np.concatenate((FEATURES[:1], FEATURES[:-1])),
    "time_fraction": TIMES,
}


def _projectors(**changes: object) -> Projectors:
    torch.set_num_threads(1)
    projectors = Projectors(replace(PROJECTOR, **changes))
    roughen(projectors)
    return projectors


def _engine(model: onnx.ModelProto, folder: Path) -> OnnxEngine:
    onnx.save(model, folder / "projector.onnx")
    return OnnxEngine(folder / "projector.onnx", threads=1)


@pytest.mark.parametrize("grid", PROJECTOR.grids)
@pytest.mark.parametrize("order", ["pool-then-project", "project-then-pool"])
@pytest.mark.parametrize("position", [PROJECTOR.position, None])
@pytest.mark.parametrize("change", [True, False])
def test_graph_computes_the_module(tmp_path: Path, grid: int, order: str, position: object, change: bool) -> None:
    projectors = _projectors(order=order, position=position, change=change)
    engine = _engine(projector_graph(projectors, grid, SIDE), tmp_path)
    marks = [*["previous_features"] * change, *["time_fraction"] * (position is not None)]
    assert engine.input_names == ("features", *marks)
    error = compare_projector(projectors, grid, engine, FEATURES, TIMES)
    assert error < FEATURE_TOLERANCE / 5
    [tokens] = engine.run({name: INPUTS[name] for name in engine.input_names})
    assert tokens.shape == (5, grid * grid, 64)


@pytest.mark.parametrize("grid", [12, 8, 6, 5, 11, 7])
def test_pooling_is_exact_on_the_nano_ladder(tmp_path: Path, grid: int) -> None:
    projectors = Projectors(replace(NANO.projector, grids=(grid,), input_width=8, output_width=16))
    roughen(projectors)
    features = DRAW.normal(size=(3, 144, 8)).astype(np.float32)
    engine = _engine(projector_graph(projectors, grid, 12), tmp_path)
    assert compare_projector(projectors, grid, engine, features, TIMES[:3]) < FEATURE_TOLERANCE / 5


def test_unknown_grid_is_refused() -> None:
    with pytest.raises(ValueError, match="ladder"):
        projector_graph(_projectors(), 5, SIDE)


@pytest.mark.parametrize(
    ("name", "value"),
    [("coordinate_transformation_mode", "align_corners"), ("mode", "nearest"), ("antialias", 1), ("mode", "cubic")],
)
def test_comparison_notices_another_pooling(tmp_path: Path, name: str, value: object) -> None:
    projectors = _projectors()
    model = projector_graph(projectors, 3, SIDE)
    for node in model.graph.node:
        if node.op_type == "Resize":
            kept = [a for a in node.attribute if a.name != name]
            del node.attribute[:]
            node.attribute.extend([*kept, onnx.helper.make_attribute(name, value)])
    with pytest.raises(ParityError, match="grid 3"):
        compare_projector(projectors, 3, _engine(model, tmp_path), FEATURES, TIMES)


@pytest.mark.parametrize("which", ["gelu", "position.gelu"])
def test_comparison_notices_the_other_gelu(tmp_path: Path, which: str) -> None:
    projectors = _projectors()
    model = projector_graph(projectors, 3, SIDE)
    [node] = [node for node in model.graph.node if node.name == which]
    del node.attribute[:]
    node.attribute.append(onnx.helper.make_attribute("approximate", "tanh"))
    with pytest.raises(ParityError, match="grid 3"):
        compare_projector(projectors, 3, _engine(model, tmp_path), FEATURES, TIMES)


def test_comparison_notices_the_other_order(tmp_path: Path) -> None:
    projectors = _projectors()
    other = _projectors(order="project-then-pool")
    engine = _engine(projector_graph(other, 3, SIDE), tmp_path)
    with pytest.raises(ParityError, match="grid 3"):
        compare_projector(projectors, 3, engine, FEATURES, TIMES)


def test_comparison_notices_the_wrong_expert(tmp_path: Path) -> None:
    projectors = _projectors()
    engine = _engine(projector_graph(projectors, 3, SIDE), tmp_path)
    projectors.experts = projectors.experts[::-1]
    projectors.experts[1].linear_2.bias.data.add_(0.01)
    with pytest.raises(ParityError, match="grid 3"):
        compare_projector(projectors, 3, engine, FEATURES, TIMES)


@pytest.mark.parametrize("times", [TIMES[::-1].copy(), TIMES * 0.99, np.zeros(5, np.float32)])
def test_time_reaches_the_tokens(tmp_path: Path, times: np.ndarray) -> None:
    projectors = _projectors()
    engine = _engine(projector_graph(projectors, 2, SIDE), tmp_path)
    same, other = (engine.run({**INPUTS, "time_fraction": t})[0] for t in (TIMES, times))
    assert np.abs(same - other).max() > 0.01


def test_a_frame_like_the_one_before_says_nothing_of_change(tmp_path: Path) -> None:
    projectors = _projectors()
    engine = _engine(projector_graph(projectors, 2, SIDE), tmp_path)
    still, [other] = engine.run({**INPUTS, "previous_features": FEATURES})[0], engine.run(INPUTS)
    projectors.change = None
    unmarked = projectors(torch.from_numpy(FEATURES), 2, torch.from_numpy(TIMES)).detach().numpy()
    np.testing.assert_allclose(still, unmarked, atol=FEATURE_TOLERANCE / 5)
    np.testing.assert_array_equal(still[0], other[0])  # the first frame has none before it
    assert np.abs(still[1:] - other[1:]).max(axis=(1, 2)).min() > 0.01


def test_comparison_notices_the_frame_behind_instead_of_the_one_before(tmp_path: Path) -> None:
    projectors = _projectors()
    model = projector_graph(projectors, 3, SIDE)
    [difference] = [node for node in model.graph.node if node.name == "change.difference"]
    difference.input[:] = difference.input[::-1]
    with pytest.raises(ParityError, match="grid 3"):
        compare_projector(projectors, 3, _engine(model, tmp_path), FEATURES, TIMES)
