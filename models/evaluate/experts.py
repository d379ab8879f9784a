"""Another router for an encoder's mixtures of experts, put into its graph (paper, table 10); or none, for table 3e.

The fused `com.microsoft.MoE` node takes the k largest of the gate logits it is given. So another choice is made before
it: the logits of the experts that shall not be taken are lowered out of reach, those of the others stay as they are.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from onnx import NodeProto, helper, numpy_helper

from tam_edge.runtime import UsageError

OUT_OF_REACH = -1e4  # far below any gate logit, and its exp() is 0
Rank = Callable[[str, str, int], NodeProto]
"""Logits and where to write, by name, and the number of the mixture -> a node that ranks experts, largest first."""


def random_experts(path: Path) -> bytes:
    """The graph in `path` with k experts drawn at random, token by token, weighted by their own logits.

    Seeded, each layer by another number: a session that is opened again draws the same ones in the same order.

    Raises:
        UsageError: there is no mixture of experts in it.
    """
    return _rerouted(
        path,
        lambda logits, rank, index: helper.make_node("RandomUniformLike", [logits], [rank], seed=float(index + 1)),
    )


def least_likely_experts(path: Path) -> bytes:
    """The graph in `path` with the k experts of each token that its router thinks least of, by their own logits.

    Raises:
        UsageError: there is no mixture of experts in it.
    """
    return _rerouted(path, lambda logits, rank, _: helper.make_node("Neg", [logits], [rank]))


def mean_expert(path: Path) -> bytes:
    """The graph in `path` with the experts of every mixture averaged into a single one: a dense encoder.

    Raises:
        UsageError: there is no mixture of experts in it.
    """
    model = onnx.load(path)
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    for index, node in reversed(_mixtures(model, path)):
        for name in filter(None, node.input[2:]):
            mean = numpy_helper.to_array(weights[name]).mean(0, keepdims=True)  # [1, ...]
            weights[name].CopyFrom(numpy_helper.from_array(mean.astype(np.float32), name))
        logits, prefix = node.input[1], node.output[0]
        bounds = [_constant(model, f"{prefix}.{name}", [value]) for name, value in (("0", 0), ("1", 1), ("last", -1))]
        one = helper.make_node("Slice", [logits, *bounds], [f"{prefix}.one"])
        node.input[1] = f"{prefix}.one"
        _attribute(node, "k").i = 1
        model.graph.node.insert(index, one)
    return bytes(model.SerializeToString())


def _rerouted(path: Path, rank: Rank) -> bytes:
    model = onnx.load(path)
    for number, (index, node) in reversed(list(enumerate(_mixtures(model, path)))):
        logits, prefix = node.input[1], node.output[0]
        node.input[1] = f"{prefix}.rerouted"
        count = _constant(model, f"{prefix}.k", [_attribute(node, "k").i])
        fill = numpy_helper.from_array(np.array([OUT_OF_REACH], np.float32))
        nodes = [
            rank(logits, f"{prefix}.rank", number),
            helper.make_node("TopK", [f"{prefix}.rank", count], [f"{prefix}.ranked", f"{prefix}.chosen"]),
            helper.make_node("GatherElements", [logits, f"{prefix}.chosen"], [f"{prefix}.kept"], axis=-1),
            helper.make_node("Shape", [logits], [f"{prefix}.shape"]),
            helper.make_node("ConstantOfShape", [f"{prefix}.shape"], [f"{prefix}.low"], value=fill),
            helper.make_node(
                "ScatterElements",
                [f"{prefix}.low", f"{prefix}.chosen", f"{prefix}.kept"],
                [f"{prefix}.rerouted"],
                axis=-1,
            ),
        ]
        for new in reversed(nodes):
            model.graph.node.insert(index, new)
    return bytes(model.SerializeToString())


def _mixtures(model: onnx.ModelProto, path: Path) -> list[tuple[int, NodeProto]]:
    """Every mixture and its place among the nodes."""
    found = [(index, node) for index, node in enumerate(model.graph.node) if node.op_type == "MoE"]
    if not found:
        raise UsageError(f"{path.name} has no mixture of experts: leave dense, random-top2 and lowest-2 out")
    return found


def _constant(model: onnx.ModelProto, name: str, values: list[int]) -> str:
    model.graph.initializer.append(numpy_helper.from_array(np.array(values, np.int64), name))
    return name


def _attribute(node: NodeProto, name: str) -> onnx.AttributeProto:
    found: onnx.AttributeProto = next(attribute for attribute in node.attribute if attribute.name == name)
    return found
