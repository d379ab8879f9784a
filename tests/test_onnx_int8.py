"""Large constant matrices and tables of a graph in 8 bits: close, smaller, and no question depends on another."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tam_edge.quant import onnx_int8
from tam_edge.quant.onnx_int8 import SMALLEST, weights_to_int8
from tam_edge.runtime.engines.onnx import OnnxEngine

ROWS, WIDTH, OUT = 600, 192, 400


def graph(width=WIDTH):
    """Look rows up, multiply them, multiply by a small matrix."""
    rng = np.random.default_rng(0)
    constants = {
        "table": rng.normal(size=(ROWS, width)) * np.exp(rng.normal(size=(ROWS, 1))),
        "large": rng.normal(size=(width, OUT)),
        "small": rng.normal(size=(OUT, 8)),
    }
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["rows"], name="lookup"),
        helper.make_node("MatMul", ["rows", "large"], ["hidden"], name="hidden"),
        helper.make_node("MatMul", ["hidden", "small"], ["out"], name="out"),
    ]
    made = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info("ids", TensorProto.INT64, ["B", "L"])],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, ["B", "L", 8])],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in constants.items()],
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def run(model, path, ids):
    onnx.save(model, str(path))
    engine = OnnxEngine(path, threads=1, device="cpu")
    try:
        return engine.run({"ids": ids})[0]
    finally:
        engine.close()


def test_the_result_is_close_and_the_file_a_quarter(tmp_path):
    exact, ids = graph(), np.random.default_rng(1).integers(0, ROWS, (3, 7))
    rounded = weights_to_int8(exact)
    expected, got = run(exact, tmp_path / "exact.onnx", ids), run(rounded, tmp_path / "rounded.onnx", ids)
    assert 0 < np.abs(got - expected).max() < 0.03 * np.abs(expected).max()
    sizes = [(tmp_path / f"{name}.onnx").stat().st_size for name in ("rounded", "exact")]
    assert sizes[0] < 0.31 * sizes[1]


def test_only_large_weights_are_rounded_and_the_given_graph_stays():
    exact = graph()
    before = exact.SerializeToString()
    rounded = weights_to_int8(exact)
    assert exact.SerializeToString() == before
    types = {one.name: one.data_type for one in rounded.graph.initializer}
    assert types == {
        "small": TensorProto.FLOAT,
        "large.int8": TensorProto.UINT8,
        "large.scales": TensorProto.FLOAT,
        "table.int8": TensorProto.INT8,
        "table.scales": TensorProto.FLOAT,
    }
    assert OUT * 8 < SMALLEST < ROWS * WIDTH
    assert [node.op_type for node in rounded.graph.node][-2:] == ["MatMulNBits", "MatMul"]


def test_a_table_row_is_rounded_on_its_own_scale(tmp_path):
    exact = graph()
    table = numpy_helper.to_array(exact.graph.initializer[0])
    del exact.graph.node[1:]
    exact.graph.node[0].output[0] = "out"
    exact.graph.output[0].type.tensor_type.shape.dim[2].dim_value = WIDTH
    got = run(weights_to_int8(exact), tmp_path / "rows.onnx", np.arange(ROWS)[None])[0]
    assert (np.abs(got - table) <= np.abs(table).max(axis=1, keepdims=True) / 254 * 1.001).all()


def test_what_stands_beside_a_row_changes_nothing(tmp_path):
    rounded = weights_to_int8(graph())
    ids = np.random.default_rng(2).integers(0, ROWS, (4, 9))
    together = run(rounded, tmp_path / "r.onnx", ids)
    for index, row in enumerate(ids):
        np.testing.assert_allclose(
            run(rounded, tmp_path / "r.onnx", row[None])[0], together[index], rtol=1e-5, atol=1e-4
        )


@pytest.mark.parametrize(("width", "block"), [(256, 128), (192, 64), (144, 16), (130, None)])
def test_the_block_divides_the_inputs_or_the_matrix_stays(width, block, monkeypatch):
    monkeypatch.setattr(onnx_int8, "SMALLEST", 1000)
    nodes = {node.name: node for node in weights_to_int8(graph(width)).graph.node}
    found = {one.name: one.i for one in nodes["hidden"].attribute}.get("block_size")
    assert found == block
