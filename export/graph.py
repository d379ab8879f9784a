"""ONNX graphs written node by node from a module's weights.

A traced graph changes with every torch version, unrolls the experts into a loop and bakes shapes in. Here each node is
put down on purpose, so the file is small, its batch axis is free and the same weights always give the same bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from tam_edge.quant.graph_file import EXTERNAL_BYTES, SMALL_BYTES, WeightsFile, weights_file

OPSET = 20
"""First operator set with Gelu; onnxruntime 1.23 runs it."""
IR_VERSION = 10
"""File format version that belongs to OPSET."""
CONTRIB = "com.microsoft"
"""onnxruntime's own operators, MoE among them."""

Attribute = int | float | str | Sequence[int]
"""Values an attribute of a node may have."""
Shape = Sequence[int | str]
"""Axes of a value; a name is an axis of any length."""


class Graph:
    """A graph under construction; every method returns the name of the value it made."""

    def __init__(self, weights: WeightsFile | None = None) -> None:
        """Keep large constants in `weights`, if there is such a file; `save_graph` then writes the graph beside it."""
        self._weights = weights
        self._nodes: list[onnx.NodeProto] = []
        self._constants: dict[str, onnx.TensorProto] = {}

    def constant(self, name: str, values: Tensor | NDArray[np.generic]) -> str:
        """Store an array under `name`."""
        array = values.detach().cpu().float().contiguous().numpy() if isinstance(values, Tensor) else values
        if self._weights is not None and array.nbytes > SMALL_BYTES:
            self._constants[name] = self._weights.add(name, array)
        else:
            self._constants[name] = numpy_helper.from_array(array, name)
        return name

    def node(
        self,
        op_type: str,
        inputs: Sequence[str],
        name: str,
        *,
        domain: str = "",
        attributes: Mapping[str, Attribute] | None = None,
    ) -> str:
        """Add a node with one output, which bears the node's name."""
        self._nodes.append(
            helper.make_node(op_type, inputs, [name], name=name, domain=domain, **(attributes or {}))  # type: ignore[arg-type]
        )
        return name

    def reshape(self, x: str, name: str, shape: Sequence[int]) -> str:
        """Reshape `x`; 0 keeps an axis, -1 is what is left."""
        return self.node("Reshape", [x, self.constant(f"{name}.shape", np.array(shape, np.int64))], name)

    def transpose(self, x: str, name: str, axes: Sequence[int]) -> str:
        """Reorder the axes of `x`."""
        return self.node("Transpose", [x], name, attributes={"perm": list(axes)})

    def linear(self, x: str, name: str, weight: Tensor, bias: Tensor | None) -> str:
        """x @ weight.T + bias with `weight` [out, in], as torch stores it."""
        product = self.node("MatMul", [x, self.constant(f"{name}.weight", weight.T)], f"{name}.product")
        if bias is None:
            return product
        return self.node("Add", [product, self.constant(f"{name}.bias", bias)], name)

    def layer_norm(self, x: str, name: str, norm: nn.LayerNorm) -> str:
        """LayerNorm over the last axis."""
        inputs = [x, self.constant(f"{name}.weight", norm.weight), self.constant(f"{name}.bias", norm.bias)]
        return self.node("LayerNormalization", inputs, name, attributes={"axis": -1, "epsilon": norm.eps})

    def model(self, name: str, inputs: Mapping[str, Shape], outputs: Mapping[str, Shape]) -> onnx.ModelProto:
        """The finished model; inputs and outputs are float32. It is checked here, or by `save_graph`."""
        graph = helper.make_graph(
            self._nodes,
            name,
            [helper.make_tensor_value_info(key, TensorProto.FLOAT, shape) for key, shape in inputs.items()],
            [helper.make_tensor_value_info(key, TensorProto.FLOAT, shape) for key, shape in outputs.items()],
            list(self._constants.values()),
        )
        model = helper.make_model(
            graph,
            producer_name="tam-edge",
            ir_version=IR_VERSION,
            opset_imports=[helper.make_opsetid("", OPSET), helper.make_opsetid(CONTRIB, 1)],
        )
        if self._weights is None:
            onnx.checker.check_model(model)
        return model


def save_graph(model: onnx.ModelProto, path: Path) -> None:
    """Write a model, whose weights may lie in a file beside `path`, and check it there."""
    onnx.save(model, path)
    onnx.checker.check_model(path)


def external_weights(path: Path, module: nn.Module) -> WeightsFile | None:
    """The file for the weights of a graph at `path` that computes `module`; None where they fit into the graph."""
    if sum(parameter.numel() * 4 for parameter in module.parameters()) <= EXTERNAL_BYTES:
        return None
    return WeightsFile(weights_file(path))
