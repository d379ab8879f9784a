"""A mixture of experts in 8 or 4 bits: com.microsoft.MoE becomes com.microsoft.QMoE.

What the CPU's kernel reads was found by trying and is tried again, on a tiny mixture, before a graph is written: an
onnxruntime that reads weights otherwise is an error, and not a model that talks nonsense.
"""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from tam_edge.quant.graph import CONTRIB, MIXTURE, array
from tam_edge.quant.rounding import Blocks, Floats, int4_block, to_blocks
from tam_edge.runtime.engines.onnx import OnnxEngine
from tam_edge.runtime.errors import EngineError

Made = dict[str, onnx.TensorProto]
"""New constant arrays by name."""

_BLOCKS = (128, 64, 32, 16)
"""Inputs under one scale, the largest that fits: large ones are faster. In 4 bits `int4_block` is the most."""
_INT8_PRODUCTS = 4  # accuracy_level: activations are rounded to 8 bits, block by block of one token
_AGREES = 0.15  # largest error in standard deviations: rounded activations give up to 0.04, a wrong layout above 1


def quantised_mixture(
    node: onnx.NodeProto, weights: Mapping[str, onnx.TensorProto], bits: int
) -> tuple[onnx.NodeProto, Made]:
    """The mixture `node` with its experts in `bits` bits, and the arrays it needs; biases stay as they are.

    Experts [E, H, D] and [E, D, H] keep the order they have. H is padded with zeros to whole blocks where it must be,
    which changes nothing: a hidden unit without weights and bias is activation(0) = 0 and meets only zeros.

    Raises:
        EngineError: the installed onnxruntime computes something else from such weights.
    """
    width = weights[node.input[2]].dims[-1]
    most = int4_block(width) if bits == 4 else max(_BLOCKS)
    block = next((size for size in _BLOCKS if size <= most and width % size == 0), 0)
    check_kernel(bits, block)
    return _stored(node, weights, bits, block)


@functools.cache
def check_kernel(bits: int, block: int) -> None:
    """Compare the installed onnxruntime's QMoE with numpy, on a tiny mixture drawn at random; `block` 0 is a whole row.

    Raises:
        EngineError: it has no such kernel, or the kernel reads weights another way.
    """
    draw = np.random.default_rng(0)
    width, hidden = 2 * (block or 16), 4 * (block or 16)
    first = _normal(draw, (3, hidden, width)) / np.sqrt(width, dtype=np.float32)
    second = _normal(draw, (3, width, hidden)) / np.sqrt(hidden, dtype=np.float32)
    x, logits = _normal(draw, (8, width)), _normal(draw, (8, 3))
    weights = {"fc1": numpy_helper.from_array(first, "fc1"), "fc2": numpy_helper.from_array(second, "fc2")}
    inputs = ["x", "logits", "fc1", "", "fc2", ""]
    mixture = helper.make_node(
        MIXTURE, inputs, ["y"], domain=CONTRIB, k=2, normalize_routing_weights=1, activation_type="gelu"
    )
    node, made = _stored(mixture, weights, bits, block)
    got = _run_alone(node, made, x, logits)
    exact = [to_blocks(matrix, bits, block or matrix.shape[-1]).restored() for matrix in (first, second)]
    expected = mixture_by_hand(x, logits, exact[0], exact[1], 2)
    if not np.abs(got - expected).max() < _AGREES * expected.std():
        raise EngineError(f"this onnxruntime reads {bits}-bit experts another way than was tried: install 1.31")


def mixture_by_hand(x: Floats, logits: Floats, first: Floats, second: Floats, k: int) -> Floats:
    """A mixture without biases, literally: softmax over the k largest logits, tanh GELU. x [T, D] -> [T, D]."""
    out = np.zeros_like(x)
    for row, (token, scores) in enumerate(zip(x, logits, strict=True)):
        chosen = np.argsort(-scores, kind="stable")[:k]
        shares = np.exp(scores[chosen] - scores[chosen].max())
        for share, expert in zip(shares / shares.sum(), chosen, strict=True):
            hidden = first[expert] @ token
            hidden = 0.5 * hidden * (1 + np.tanh(np.sqrt(2 / np.pi) * (hidden + 0.044715 * hidden**3)))
            out[row] += share * (second[expert] @ hidden)
    return out


def _stored(
    node: onnx.NodeProto, weights: Mapping[str, onnx.TensorProto], bits: int, block: int
) -> tuple[onnx.NodeProto, Made]:
    first, second = (array(weights[node.input[index]]) for index in (2, 4))
    extra = -first.shape[1] % (block or 2)  # [E, H, D]: a byte holds two 4-bit numbers
    matrices = (np.pad(first, ((0, 0), (0, extra), (0, 0))), np.pad(second, ((0, 0), (0, 0), (0, extra))))
    made: Made = {}
    inputs = list(node.input[:2])
    for part, matrix, at, padding in zip(("fc1", "fc2"), matrices, (3, 5), (extra, 0), strict=True):
        stored = to_blocks(matrix, bits, block or matrix.shape[-1])
        name = f"{node.output[0]}.{part}"
        inputs += [
            _keep(made, f"{name}.int{bits}", _rows(stored)),
            _keep(made, f"{name}.scales", _scales(stored, block)),
        ]
        bias = node.input[at] if len(node.input) > at else ""
        if bias and padding:
            bias = _keep(made, f"{name}.bias", np.pad(array(weights[bias]), ((0, 0), (0, padding))))
        inputs.append(bias)
    attributes = {one.name: helper.get_attribute_value(one) for one in node.attribute} | {"expert_weight_bits": bits}
    if block:
        attributes |= {"block_size": block, "accuracy_level": _INT8_PRODUCTS}
    return helper.make_node("QMoE", inputs, list(node.output), name=node.name, domain=CONTRIB, **attributes), made


def _rows(stored: Blocks) -> NDArray[np.generic]:
    return stored.packed.reshape(*stored.packed.shape[:-2], -1)  # [E, N, K * bits / 8]


def _scales(stored: Blocks, block: int) -> NDArray[np.generic]:
    return stored.scales if block else stored.scales[..., 0]


def _keep(made: Made, name: str, values: NDArray[np.generic]) -> str:
    made[name] = numpy_helper.from_array(np.ascontiguousarray(values), name)
    return name


def _normal(draw: np.random.Generator, shape: tuple[int, ...]) -> Floats:
    return draw.standard_normal(shape, np.float32)


def _run_alone(node: onnx.NodeProto, made: Made, x: Floats, logits: Floats) -> Floats:
    given = {"x": x, "logits": logits}
    shapes = [helper.make_tensor_value_info(name, TensorProto.FLOAT, value.shape) for name, value in given.items()]
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, x.shape)
    graph = helper.make_graph([node], "mixture", shapes, [out], list(made.values()))
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid(CONTRIB, 1)]
    with tempfile.TemporaryDirectory(prefix="tam-edge-") as folder:
        path = Path(folder, "mixture.onnx")
        onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), path)
        engine = OnnxEngine(path, threads=1, device="cpu")
        try:
            return engine.run(given)[0]
        finally:
            engine.close()
