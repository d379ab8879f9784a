"""What can be made smaller in an ONNX graph, and where to look inside it while it runs.

A graph is known by its structure, never by its names: a bundle made by another exporter is read the same way.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

SMALLEST = 8_192
"""Matrices with fewer numbers stay as they are: they weigh nothing."""
MIXTURE = "MoE"
"""onnxruntime's fused mixture of experts."""
CONTRIB = "com.microsoft"

_PLAIN_INPUTS = 6  # tokens, logits, two matrices with their biases; a third matrix belongs to gated units
_GATE_WALK = ("Reshape", "Cast", "Identity", "Squeeze", "Flatten")  # what may stand between a gate and its mixture


@dataclass(frozen=True, slots=True)
class Site:
    """One node whose constant weights can be stored in fewer bits."""

    key: str
    """Its first output, which is unique in a graph, as node names need not be."""
    kind: Literal["dense", "experts"]
    """A matrix product, or a mixture of experts."""
    stage: str
    """The hidden state it adds to: the first residual sum after it; "" behind the last one."""
    numbers: int
    """How many numbers its matrices hold."""


def arrays(model: onnx.ModelProto) -> dict[str, onnx.TensorProto]:
    """Constant arrays by name."""
    return {tensor.name: tensor for tensor in model.graph.initializer}


def array(tensor: onnx.TensorProto) -> NDArray[np.float32]:
    """A stored array, in float32."""
    return numpy_helper.to_array(tensor).astype(np.float32, copy=False)


def sites(model: onnx.ModelProto, smallest: int = SMALLEST) -> list[Site]:
    """Every node whose weights can be made smaller, in the order it runs.

    Gates of mixtures are left out: a rounded gate sends tokens that nearly tie to another expert, and weighs nothing.
    """
    constants, kept = arrays(model), gate_nodes(model)
    states = set(hidden_states(model))
    found: list[Site] = []
    waiting: list[tuple[str, Literal["dense", "experts"], int]] = []
    for node in model.graph.node:
        key = node.output[0]
        if key in states:
            found += [Site(name, kind, key, numbers) for name, kind, numbers in waiting]
            waiting = []
        elif node.op_type == MIXTURE and len(node.input) <= _PLAIN_INPUTS:
            waiting.append((key, "experts", sum(_numbers(constants.get(node.input[i])) for i in (2, 4))))
        elif node.op_type == "MatMul" and key not in kept:
            numbers = _numbers(constants.get(node.input[1]))
            if numbers >= smallest and len(constants[node.input[1]].dims) == 2:
                waiting.append((key, "dense", numbers))
    return found + [Site(name, kind, "", numbers) for name, kind, numbers in waiting]


def hidden_states(model: onnx.ModelProto) -> list[str]:
    """Outputs of residual sums, in order: sums of two values of which neither is a constant."""
    constants = set(arrays(model)) | {name for node in model.graph.node if not node.input for name in node.output}
    return [
        node.output[0]
        for node in model.graph.node
        if node.op_type == "Add" and not constants.intersection(node.input) and len(set(node.input)) == 2
    ]


def mixtures(model: onnx.ModelProto) -> dict[str, tuple[str, int]]:
    """Gate logits [tokens, experts] of every mixture, quantised or not, and how many experts a token gets."""
    return {
        node.output[0]: (node.input[1], next((a.i for a in node.attribute if a.name == "k"), 1))
        for node in model.graph.node
        if node.op_type in (MIXTURE, "QMoE")
    }


def gate_nodes(model: onnx.ModelProto) -> set[str]:
    """First outputs of the nodes that make the gate logits of mixtures, from their matrix product on."""
    makers = {name: node for node in model.graph.node for name in node.output}
    found: set[str] = set()
    for name, _ in mixtures(model).values():
        node = makers.get(name)
        while node is not None:
            found.add(node.output[0])
            node = makers.get(node.input[0]) if node.op_type in (*_GATE_WALK, "Add") else None
    return found


@contextmanager
def with_outputs(model: onnx.ModelProto, names: Iterable[str]) -> Iterator[onnx.ModelProto]:
    """The graph with more of its values as outputs for as long as the block lasts; a copy would double gigabytes."""
    before = len(model.graph.output)
    have = {output.name for output in model.graph.output}
    model.graph.output.extend(
        helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names if name not in have
    )
    try:
        yield model
    finally:
        del model.graph.output[before:]


@contextmanager
def cut_at(model: onnx.ModelProto, states: Sequence[str]) -> Iterator[onnx.ModelProto]:
    """The graph in pieces for as long as the block lasts: each reads `states` from inputs of that name with ".given".

    So every piece can be given what the exact graph computes, and what it adds to the error is seen by itself.
    """
    inside, before = set(states), len(model.graph.input)
    cuts = [(node, i, name) for node in model.graph.node for i, name in enumerate(node.input) if name in inside]
    read = {name for _, _, name in cuts}
    for node, index, name in cuts:
        node.input[index] = f"{name}.given"
    model.graph.input.extend(
        helper.make_tensor_value_info(f"{name}.given", TensorProto.FLOAT, None) for name in states if name in read
    )
    try:
        with with_outputs(model, states):
            yield model
    finally:
        for node, index, name in cuts:
            node.input[index] = name
        del model.graph.input[before:]


def replaced(
    model: onnx.ModelProto, nodes: Sequence[onnx.NodeProto], made: Mapping[str, onnx.TensorProto]
) -> onnx.ModelProto:
    """The graph with other nodes, what they need of the old constants, and the `made` ones."""
    copy = onnx.ModelProto(ir_version=model.ir_version, producer_name="tam-edge")
    copy.opset_import.extend(model.opset_import)
    if all(one.domain != CONTRIB for one in copy.opset_import):
        copy.opset_import.append(helper.make_opsetid(CONTRIB, 1))
    copy.graph.name = model.graph.name
    copy.graph.input.extend(model.graph.input)
    copy.graph.output.extend(model.graph.output)
    copy.graph.node.extend(nodes)
    used = {name for node in nodes for name in node.input} | {output.name for output in model.graph.output}
    copy.graph.initializer.extend(one for one in model.graph.initializer if one.name in used)
    copy.graph.initializer.extend(made.values())
    return copy


def _numbers(tensor: onnx.TensorProto | None) -> int:
    return 0 if tensor is None or tensor.data_type != TensorProto.FLOAT else int(np.prod(tensor.dims))
