"""A graph's large matrices and tables in 8 bits instead of 32: a quarter of the size, and on a CPU faster.

Matrices become onnxruntime's MatMulNBits, whose activations get a scale per row and block: what a question's result is
does not depend on which others are in the batch, as it would with one scale for a whole tensor.
"""

from __future__ import annotations

import copy

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from tam_edge.quant.rounding import to_int8

SMALLEST = 65_536
"""Weights with fewer numbers stay as they are: they weigh nothing, and heads and norms feel rounding most."""

_BLOCKS = (128, 64, 32, 16)  # inputs that share a scale; the largest that divides their number
_INT8_PRODUCTS = 4  # MatMulNBits' accuracy_level: activations are rounded to 8 bits, block by block
_MIDDLE = 128


def weights_to_int8(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of `model` whose constant matrices of MatMul and tables of Gather are int8, scaled per block or row."""
    graph = copy.deepcopy(model)
    weights = {one.name: one for one in graph.graph.initializer}
    nodes: list[onnx.NodeProto] = []
    made: dict[str, onnx.TensorProto] = {}
    for node in graph.graph.node:
        if node.op_type == "MatMul" and (matrix := _large(weights.get(node.input[1]))) is not None:
            nodes += _product(node, matrix, made)
        elif node.op_type == "Gather" and (table := _large(weights.get(node.input[0]))) is not None:
            nodes += _lookup(node, table, made)
        else:
            nodes.append(node)
    used = {name for node in nodes for name in node.input}
    kept = [one for one in weights.values() if one.name in used]
    del graph.graph.node[:], graph.graph.initializer[:]
    graph.graph.node.extend(nodes)
    graph.graph.initializer.extend([*kept, *made.values()])
    if all(one.domain != "com.microsoft" for one in graph.opset_import):
        graph.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    return graph


def _large(weight: onnx.TensorProto | None) -> NDArray[np.float32] | None:
    if weight is None or weight.data_type != TensorProto.FLOAT or len(weight.dims) != 2:
        return None
    return numpy_helper.to_array(weight) if int(np.prod(weight.dims)) >= SMALLEST else None


def _product(
    node: onnx.NodeProto, matrix: NDArray[np.float32], made: dict[str, onnx.TensorProto]
) -> list[onnx.NodeProto]:
    inputs, outputs = matrix.shape
    block = next((size for size in _BLOCKS if inputs % size == 0), None)
    if block is None:
        return [node]
    rows = matrix.T.reshape(outputs, inputs // block, block)
    scales, numbers = to_int8(rows)
    name = node.input[1]
    made[f"{name}.int8"] = numpy_helper.from_array(
        (numbers.astype(np.int16) + _MIDDLE).astype(np.uint8), f"{name}.int8"
    )
    made[f"{name}.scales"] = numpy_helper.from_array(scales.reshape(-1), f"{name}.scales")
    product = helper.make_node(
        "MatMulNBits",
        [node.input[0], f"{name}.int8", f"{name}.scales"],
        list(node.output),
        name=node.name,
        domain="com.microsoft",
        K=inputs,
        N=outputs,
        bits=8,
        block_size=block,
        accuracy_level=_INT8_PRODUCTS,
    )
    return [product]


def _lookup(
    node: onnx.NodeProto, table: NDArray[np.float32], made: dict[str, onnx.TensorProto]
) -> list[onnx.NodeProto]:
    scales, numbers = to_int8(table)
    name, output = node.input[0], node.output[0]
    made[f"{name}.int8"] = numpy_helper.from_array(numbers, f"{name}.int8")
    made[f"{name}.scales"] = numpy_helper.from_array(scales, f"{name}.scales")
    numbers_of, numbers_as_float, scales_of = (f"{output}.{part}" for part in ("int8", "float", "scales"))
    return [
        helper.make_node("Gather", [f"{name}.int8", node.input[1]], [numbers_of], name=f"{node.name}.int8"),
        helper.make_node("Cast", [numbers_of], [numbers_as_float], name=f"{node.name}.float", to=TensorProto.FLOAT),
        helper.make_node("Gather", [f"{name}.scales", node.input[1]], [scales_of], name=f"{node.name}.scales"),
        helper.make_node("Mul", [numbers_as_float, scales_of], [output], name=node.name),
    ]
