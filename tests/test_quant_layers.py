"""Which layers keep more bits is decided by measured error, and the measurement finds where error is made."""

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from tam_edge.quant import graph
from tam_edge.quant.encoder import shrink
from tam_edge.quant.graph import sites
from tam_edge.quant.graph_file import read_graph
from tam_edge.quant.keep import EXACT, StageNoise, bits_within, steps
from tam_edge.quant.layers import OUTPUT, Observed
from tam_edge.quant.rewrite import quantised
from tam_edge.runtime.errors import EngineError, UsageError

WIDTH, LAYERS, TOKENS = 64, 4, 32
ROUGH = 2
"""The layer with one huge weight a column, which 8 bits for a column and 4 for a block store badly."""


@st.composite
def noisy_stages(draw):
    count = draw(st.integers(1, 6))
    stages = []
    for index in range(count):
        four = draw(st.floats(1e-6, 10))
        eight = four * draw(st.floats(1e-4, 1))
        noise = {4: four, 8: eight} if draw(st.booleans()) else {8: eight}
        stages.append(StageNoise(f"s{index}", draw(st.integers(1, 10**7)), noise))
    return stages


def total(stages, bits):
    return sum(0.0 if bits[one.name] == EXACT else one.noise[bits[one.name]] for one in stages)


@given(noisy_stages(), st.floats(0, 20), st.floats(0, 20))
def test_a_stricter_limit_never_gives_fewer_bits_and_every_limit_is_kept(stages, one, other):
    strict, loose = (bits_within(stages, most) for most in sorted((one, other)))
    assert all(strict[name] >= loose[name] for name in strict)
    for most, bits in ((min(one, other), strict), (max(one, other), loose)):
        assert total(stages, bits) <= most + 1e-6


@given(noisy_stages())
def test_every_stage_can_become_exact_and_none_is_touched_without_need(stages):
    assert set(bits_within(stages, 0).values()) == {EXACT}
    assert bits_within(stages, 1e9) == {one.name: min(one.noise) for one in stages}
    assert len(steps(stages)) <= sum(len(one.noise) for one in stages)


def encoder(path, seed=0):
    """Residual layers of one product each, one of them hard to store."""
    draw = np.random.default_rng(seed)
    constants, nodes, x = {}, [], "x"
    for layer in range(LAYERS):
        weight = draw.normal(size=(WIDTH, WIDTH)).astype(np.float32) / 16
        if layer == ROUGH:
            weight[5] *= 40
        constants[f"w{layer}"] = weight
        nodes.append(helper.make_node("MatMul", [x, f"w{layer}"], [f"p{layer}"]))
        nodes.append(helper.make_node("Add", [x, f"p{layer}"], [f"h{layer}"]))
        x = f"h{layer}"
    nodes.append(helper.make_node("Identity", [x], ["features"]))
    shape = ["N", TOKENS, WIDTH]
    made = helper.make_graph(
        nodes,
        "encoder",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
    onnx.save(helper.make_model(made, opset_imports=opsets, ir_version=10), path)
    return path


@pytest.fixture
def source(tmp_path, monkeypatch):
    monkeypatch.setattr(graph, "SMALLEST", 100)
    monkeypatch.setattr(sites, "__defaults__", (100,))
    return encoder(tmp_path / "encoder.onnx")


@pytest.fixture
def feeds():
    draw = np.random.default_rng(1)
    return [{"x": draw.standard_normal((1, TOKENS, WIDTH), np.float32)} for _ in range(3)]


def shrunk(source, feeds, **options):
    wanted = {"dense": "int4", "experts": None, "error_most": None, "threads": 1, "progress": lambda _: None} | options
    return shrink(source, source.with_name("out.onnx"), feeds, **wanted)


def test_the_error_is_found_in_the_layer_that_makes_it(source, feeds, tmp_path):
    model = read_graph(source)
    observed = Observed(model, feeds, tmp_path, 1)
    assert observed.stages == ["h0", "h1", "h2", "h3", OUTPUT]
    only = quantised(model, {f"p{ROUGH}": 4})
    added, _ = observed.added(only)
    assert [name for name, error in added.items() if error] == [f"h{ROUGH}"]
    so_far, _ = observed.so_far(only)
    assert so_far["h1"] == 0 < so_far["h2"]
    assert so_far["h3"] == pytest.approx(so_far[OUTPUT])
    all_added, _ = observed.added(quantised(model, {f"p{layer}": 4 for layer in range(LAYERS)}))
    assert all_added[f"h{ROUGH}"] == pytest.approx(added[f"h{ROUGH}"], rel=1e-6)  # whatever the layers before it do


def test_the_worst_layer_gets_more_bits_until_the_limit_is_kept(source, feeds):
    free = shrunk(source, feeds, error_most=1.0)
    assert free.raised == ()
    held = shrunk(source, feeds, error_most=free.error / 2)
    assert held.error <= free.error / 2
    assert held.raised[0] == f"h{ROUGH}" or f"h{ROUGH}" in held.raised
    stages = {stage["stage"]: stage for stage in held.stages}
    assert stages[f"h{ROUGH}"]["bits"]["dense"] > 4
    assert 4 in {stage["bits"]["dense"] for stage in held.stages if stage["bits"]}
    assert stages["output"]["so_far"] == pytest.approx(held.error, rel=1e-3)


def test_a_limit_that_only_exact_weights_keep_is_kept_too(source, feeds):
    result = shrunk(source, feeds, error_most=1e-7)
    assert result.error <= 1e-7
    assert {stage["bits"]["dense"] for stage in result.stages if stage["bits"]} == {EXACT}


@pytest.mark.parametrize("kind", ["int8", "int8-static", "fp16"])
def test_every_type_of_matrix_stays_within_its_own_limit(source, feeds, kind):
    result = shrunk(source, feeds, dense=kind)
    assert 0 < result.error <= result.error_most
    assert result.precision == kind


def test_what_cannot_be_done_is_said_in_one_line(source, feeds, tmp_path):
    with pytest.raises(UsageError, match="no mixture of experts: leave --experts out"):
        shrunk(source, feeds, dense=None, experts="int4")
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(source.read_bytes()[:-400])
    with pytest.raises(EngineError, match="no readable ONNX file"):
        shrunk(broken, feeds)


def test_a_graph_without_large_matrices_has_nothing_to_make_smaller(tmp_path, feeds):
    with pytest.raises(UsageError, match="nothing to make smaller"):
        shrunk(encoder(tmp_path / "small.onnx"), feeds)
