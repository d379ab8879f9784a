"""Every number format against numpy, through the kernels of the installed onnxruntime."""

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays as numpy_arrays
from onnx import TensorProto, helper, numpy_helper

from tam_edge.quant import experts
from tam_edge.quant.experts import check_kernel, mixture_by_hand, quantised_mixture
from tam_edge.quant.graph import array, arrays, gate_nodes, hidden_states, sites
from tam_edge.quant.rewrite import halved, quantised, statically
from tam_edge.quant.rounding import INT8_MOST, Blocks, int4_block, to_blocks, to_int8
from tam_edge.runtime.engines.onnx import OnnxEngine
from tam_edge.runtime.errors import EngineError

WIDTH, HIDDEN, TOKENS, EXPERTS = 96, 112, 40, 4
INT8_ACTIVATIONS = 0.02
"""Error, in standard deviations, of kernels that round activations to 8 bits, against exact ones; 0.006 to 0.012."""
MATRICES = numpy_arrays(
    np.float32, st.sampled_from([(3, 32), (2, 64), (1, 2, 96)]), elements=st.floats(-50, 50, width=32)
)


def model_of(nodes, constants, inputs, out_shape):
    made = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info(nodes[-1].output[0], TensorProto.FLOAT, out_shape)],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(made, opset_imports=opsets, ir_version=10)


def run(model, path, **feed):
    onnx.save(model, path)
    engine = OnnxEngine(path, threads=1, device="cpu")
    try:
        return engine.run(feed)[0]
    finally:
        engine.close()


def error(got, expected):
    return float(np.sqrt(((got - expected) ** 2).mean()) / expected.std())


def normal(draw, *shape):
    return draw.standard_normal(shape, np.float32)


@pytest.fixture
def draw():
    return np.random.default_rng(7)


@given(MATRICES)
def test_an_int8_row_is_off_by_half_a_step_at_most(rows):
    scales, numbers = to_int8(rows)
    assert np.abs(numbers).max() <= INT8_MOST
    assert (np.abs(scales * numbers - rows) <= scales * 0.5001).all()


@given(MATRICES)
def test_a_block_of_8_bits_is_off_by_a_step_at_most(rows):
    stored = to_blocks(rows, 8, 32)
    steps = np.repeat(np.abs(stored.scales), 32, -1)
    assert stored.restored().shape == rows.shape
    assert (np.abs(stored.restored() - rows) <= steps * 1.001 + 1e-6).all()


@given(MATRICES)
def test_4_bits_are_never_worse_than_with_the_widest_scale(rows):
    """The widest scale stores every value within one step, the end of the other sign included."""
    stored = to_blocks(rows, 4, 32)
    blocks = rows.reshape(*rows.shape[:-1], -1, 32)
    widest = np.abs(blocks).max(-1, keepdims=True) / 8
    plain = np.clip(np.round(blocks / np.where(widest == 0, 1, widest)), -8, 7) * widest
    flipped = np.clip(np.round(-blocks / np.where(widest == 0, 1, widest)), -8, 7) * -widest
    sign = np.take_along_axis(blocks, np.abs(blocks).argmax(-1, keepdims=True), -1) > 0
    widest_error = ((np.where(sign, flipped, plain) - blocks) ** 2).sum(-1)
    got = ((stored.restored().reshape(blocks.shape) - blocks) ** 2).sum(-1)
    assert (got <= widest_error * 1.001 + 1e-6).all()


def test_the_earlier_of_two_4_bit_numbers_lies_in_the_low_half(draw):
    rows = normal(draw, 2, 32)
    stored = to_blocks(rows, 4, 32)
    low = (stored.packed[0, 0, 0] & 15).astype(np.float32) - 8
    assert stored.restored()[0, 0] == low * stored.scales[0, 0]
    swapped = Blocks((stored.packed << 4) | (stored.packed >> 4), stored.scales, 4)
    assert error(swapped.restored(), rows) > 10 * error(stored.restored(), rows)


def mixture(draw, width=WIDTH, hidden=HIDDEN, biases=True):
    constants = {
        "fc1": normal(draw, EXPERTS, hidden, width) / np.sqrt(width, dtype=np.float32),
        "fc2": normal(draw, EXPERTS, width, hidden) / np.sqrt(hidden, dtype=np.float32),
    }
    if biases:
        constants |= {"b1": normal(draw, EXPERTS, hidden) * 0.3, "b2": normal(draw, EXPERTS, width) * 0.3}
    names = ["x", "logits", "fc1", "b1" if biases else "", "fc2", "b2" if biases else ""]
    node = helper.make_node(
        "MoE", names, ["y"], name="mixture", domain="com.microsoft",
        k=2, normalize_routing_weights=1, activation_type="gelu",
    )  # fmt: skip
    return node, constants


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize(("width", "hidden"), [(96, 112), (128, 256), (24, 40), (1024, 64)])
def test_experts_compute_what_their_weights_say(draw, tmp_path, bits, width, hidden):
    """96: blocks of 32 and a padded hidden width; 24: whole rows; 1024: larger 4-bit blocks."""
    node, constants = mixture(draw, width, hidden, biases=False)
    tensors = {name: numpy_helper.from_array(value, name) for name, value in constants.items()}
    new, made = quantised_mixture(node, tensors, bits)
    x, logits = normal(draw, TOKENS, width), normal(draw, TOKENS, EXPERTS)
    inputs = {"x": x.shape, "logits": logits.shape}
    got = run(
        model_of([new], {k: numpy_helper.to_array(v) for k, v in made.items()}, inputs, x.shape),
        tmp_path / "m.onnx",
        x=x,
        logits=logits,
    )
    block = next((a.i for a in new.attribute if a.name == "block_size"), 0)
    extra = -hidden % (block or 2)
    padded = (
        np.pad(constants["fc1"], ((0, 0), (0, extra), (0, 0))),
        np.pad(constants["fc2"], ((0, 0), (0, 0), (0, extra))),
    )
    first, second = (to_blocks(matrix, bits, block or matrix.shape[-1]).restored() for matrix in padded)
    exact = mixture_by_hand(x, logits, first, second, 2)
    assert error(got, exact) < INT8_ACTIVATIONS
    other = mixture_by_hand(x, logits, np.ascontiguousarray(first[::-1]), second, 2)
    assert error(got, other) > 0.5  # another order of experts would be seen
    assert block == {96: 32, 128: 128 if bits == 8 else 32, 24: 0, 1024: 128 if bits == 8 else 64}[width]


@pytest.mark.parametrize("bits", [8, 4])
def test_biases_of_experts_stay(draw, tmp_path, bits):
    node, constants = mixture(draw)
    x, logits = normal(draw, TOKENS, WIDTH), normal(draw, TOKENS, EXPERTS)
    exact = model_of([node], constants, {"x": x.shape, "logits": logits.shape}, x.shape)
    small = quantised(exact, {"y": bits})
    before, after = (run(one, tmp_path / "m.onnx", x=x, logits=logits) for one in (exact, small))
    assert error(after, before) < {8: 0.02, 4: 0.15}[bits]
    stored = {name for node in small.graph.node for name in node.input}
    assert "b2" in stored and "y.fc1.bias" in stored  # fc1's was padded with zeros


def test_a_kernel_that_reads_weights_otherwise_is_refused(monkeypatch):
    real = experts._rows
    monkeypatch.setattr(experts, "_rows", lambda stored: real(stored)[:, ::-1])
    check_kernel.cache_clear()
    with pytest.raises(EngineError, match="another way than was tried"):
        check_kernel(8, 32)
    check_kernel.cache_clear()


def products(draw, inputs=WIDTH):
    """Two products of one value, whose sum goes through a third."""
    constants = {
        "q": normal(draw, inputs, 128) / np.sqrt(inputs, dtype=np.float32),
        "k": normal(draw, inputs, 128) / np.sqrt(inputs, dtype=np.float32),
        "o": normal(draw, 128, 72) / 12,
    }
    nodes = [
        helper.make_node("MatMul", ["x", "q"], ["xq"]),
        helper.make_node("MatMul", ["x", "k"], ["xk"]),
        helper.make_node("Add", ["xq", "xk"], ["sum"]),
        helper.make_node("MatMul", ["sum", "o"], ["y"]),
    ]
    return model_of(nodes, constants, {"x": ["N", "T", inputs]}, ["N", "T", 72]), constants


def test_an_int8_product_is_the_one_of_rounded_tokens_and_columns(draw, tmp_path):
    model, constants = products(draw)
    x = normal(draw, 2, TOKENS, WIDTH) * np.exp(normal(draw, 2, TOKENS, 1))
    x[0, 3] = 0  # a token without a scale

    def rounded(values, axis):
        steps = np.abs(values).max(axis, keepdims=True) / INT8_MOST
        return np.round(values / np.where(steps == 0, 1, steps)) * steps

    def product(values, name):
        return rounded(values, -1) @ rounded(constants[name], 0)

    expected = product(product(x, "q") + product(x, "k"), "o")
    got = run(quantised(model, dict.fromkeys(("xq", "xk", "y"), 8)), tmp_path / "m.onnx", x=x)
    assert np.abs(got - expected).max() < 2e-3 * expected.std()  # a number that rounds the other way: 1/254 of a weight
    assert error(got, run(model, tmp_path / "m.onnx", x=x)) < 0.02


def test_no_token_depends_on_the_others_of_its_chunk(draw, tmp_path):
    small = quantised(products(draw)[0], dict.fromkeys(("xq", "xk", "y"), 8))
    x = normal(draw, 3, TOKENS, WIDTH)
    x[1] *= 1000
    together = run(small, tmp_path / "m.onnx", x=x)
    for index in range(3):
        np.testing.assert_array_equal(run(small, tmp_path / "m.onnx", x=x[index : index + 1])[0], together[index])


def test_values_that_share_an_input_are_rounded_once(draw):
    small = quantised(products(draw)[0], dict.fromkeys(("xq", "xk", "y"), 8))
    assert sum(node.op_type == "QuantizeLinear" for node in small.graph.node) == 2
    kinds = {one.name: one.data_type for one in small.graph.initializer}
    assert kinds["q.int8"] == TensorProto.INT8
    assert "q" not in kinds


@pytest.mark.parametrize("inputs", [96, 80, 1040])
def test_an_int4_product_computes_what_its_weights_say(draw, tmp_path, inputs):
    """80 and 1040 are no multiples of their blocks, 32 and 64."""
    model, constants = products(draw, inputs)
    x = normal(draw, 1, TOKENS, inputs)
    columns = np.pad(constants["q"].T, ((0, 0), (0, -inputs % int4_block(inputs))))
    stored = to_blocks(columns, 4, int4_block(inputs)).restored()[:, :inputs].T
    del model.graph.node[1:]
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("xq", TensorProto.FLOAT, ["N", "T", 128]))
    got = run(quantised(model, {"xq": 4}), tmp_path / "m.onnx", x=x)
    assert error(got, x @ stored) < INT8_ACTIVATIONS
    assert error(got, x @ constants["q"]) > 2 * INT8_ACTIVATIONS  # so the line above would notice another rounding


def gated(draw):
    """A residual layer with a product and a mixture, as an encoder has them."""
    node, constants = mixture(draw, WIDTH, 128)
    node.input[0], node.input[1] = "h1", "rows"
    constants |= {"w": normal(draw, WIDTH, WIDTH) / 10, "gate": normal(draw, WIDTH, EXPERTS)}
    constants |= {"size": np.array([-1, EXPERTS], np.int64)}
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["attended"]),
        helper.make_node("Add", ["x", "attended"], ["h1"]),
        helper.make_node("MatMul", ["h1", "gate"], ["logits"]),
        helper.make_node("Reshape", ["logits", "size"], ["rows"]),
        node,
        helper.make_node("Add", ["h1", "y"], ["h2"]),
    ]
    return model_of(nodes, constants, {"x": ["N", TOKENS, WIDTH]}, ["N", TOKENS, WIDTH])


def test_a_graph_is_read_by_its_structure(draw):
    model = gated(draw)
    assert hidden_states(model) == ["h1", "h2"]
    assert gate_nodes(model) == {"logits", "rows"}
    found = [(site.key, site.kind, site.stage) for site in sites(model, smallest=100)]
    assert found == [("attended", "dense", "h1"), ("y", "experts", "h2")]
    assert [site.key for site in sites(model, smallest=10_000)] == ["y"]


def test_float16_keeps_gates_in_float32(draw, tmp_path):
    model, x = gated(draw), normal(draw, 2, TOKENS, WIDTH)
    half = halved(model)
    assert {one.name: one.data_type for one in half.graph.initializer if one.data_type == TensorProto.FLOAT} == {
        "gate": TensorProto.FLOAT
    }
    assert error(run(half, tmp_path / "m.onnx", x=x), run(model, tmp_path / "m.onnx", x=x)) < 5e-3


def test_static_scales_fit_what_was_seen_and_cut_what_was_not(draw, tmp_path):
    model, x = gated(draw), normal(draw, 2, TOKENS, WIDTH)
    expected = run(model, tmp_path / "m.onnx", x=x)
    errors = []
    for seen in (x, x / 10):
        statically(model, ["attended"], [{"x": seen}], tmp_path / "s.onnx")
        errors.append(error(run(onnx.load(tmp_path / "s.onnx"), tmp_path / "m.onnx", x=x), expected))
    assert errors[0] < 0.02 < 0.2 < errors[1]
    assert array(arrays(onnx.load(tmp_path / "s.onnx"))["gate"]).shape == (WIDTH, EXPERTS)
