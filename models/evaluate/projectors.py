"""Tokens through another grid's projector expert, or through none that was ever trained (paper, table 11).

A projector's graph holds its pooling, its expert and its position embedding. Only the expert is exchanged: the weights
and biases that every grid has in the same shape. So plans, token counts and places stay what they were.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import GraphProto, helper, numpy_helper

from tam_edge.runtime import UsageError

Weights = dict[str, NDArray[np.float32]]


def swapped(paths: Mapping[int, Path]) -> dict[int, bytes]:
    """Graphs by grid, the finest with the expert of the coarsest and the other way round; the others keep their own.

    Raises:
        UsageError: the graphs have no expert that could be exchanged.
    """
    models = {grid: onnx.load(path) for grid, path in paths.items()}
    experts = _experts(models)
    finest, coarsest = max(models), min(models)
    for grid, other in ((finest, coarsest), (coarsest, finest)):
        _store(models[grid].graph, experts[other])
    return {grid: model.SerializeToString() for grid, model in models.items()}


def untrained(paths: Mapping[int, Path]) -> dict[int, bytes]:
    """Graphs by grid, each expert drawn anew with the mean and spread of every trained weight and bias.

    Raises:
        UsageError: the graphs have no expert that could be exchanged.
    """
    models = {grid: onnx.load(path) for grid, path in paths.items()}
    rng = np.random.default_rng(0)
    for grid, weights in _experts(models).items():
        drawn = {name: rng.normal(w.mean(), w.std(), w.shape).astype(np.float32) for name, w in weights.items()}
        _store(models[grid].graph, drawn)
    return {grid: model.SerializeToString() for grid, model in models.items()}


def shuffled(paths: Mapping[int, Path]) -> dict[int, bytes]:
    """Graphs by grid, each frame through the expert of a grid drawn at random, its own among them.

    Seeded: a session that is opened again draws the same ones in the same order.

    Raises:
        UsageError: the graphs have no expert that could be exchanged.
    """
    models = {grid: onnx.load(path) for grid, path in paths.items()}
    experts = list(_experts(models).values())
    for number, model in enumerate(models.values()):
        _draw_expert(model.graph, experts, seed=number + 1)
    return {grid: model.SerializeToString() for grid, model in models.items()}


def _draw_expert(graph: GraphProto, experts: list[Weights], seed: int) -> None:
    """Every weight becomes a row for each frame [N, ...] of a table with one for each expert [E, ...]."""
    zero = _store_new(graph, "shuffle.zero", np.array([0], np.int64))
    count = _store_new(graph, "shuffle.count", np.array(len(experts), np.float32))
    nodes = [
        helper.make_node("Shape", ["features"], ["shuffle.shape"]),
        helper.make_node("Gather", ["shuffle.shape", zero], ["shuffle.frames"]),
        helper.make_node("ConstantOfShape", ["shuffle.frames"], ["shuffle.blank"]),
        helper.make_node("RandomUniformLike", ["shuffle.blank"], ["shuffle.drawn"], seed=float(seed)),
        helper.make_node("Mul", ["shuffle.drawn", count], ["shuffle.scaled"]),
        helper.make_node("Cast", ["shuffle.scaled"], ["shuffle.own"], to=onnx.TensorProto.INT64),
        # A frame and the one before it, where the graph compares the two, go through the same expert.
        helper.make_node("Concat", ["shuffle.own"] * len(_pictures(graph)), ["shuffle.expert"], axis=0),
    ]
    for name in experts[0]:
        rows = [weights[name] if weights[name].ndim > 1 else weights[name][None] for weights in experts]
        table = _store_new(graph, f"{name}.table", np.stack(rows))
        nodes.append(helper.make_node("Gather", [table, "shuffle.expert"], [f"{name}.drawn"], axis=0))
        for node in graph.node:
            node.input[:] = [f"{name}.drawn" if given == name else given for given in node.input]
    for node in reversed(nodes):
        graph.node.insert(0, node)
    for tensor in [tensor for tensor in graph.initializer if tensor.name in experts[0]]:
        graph.initializer.remove(tensor)


def _pictures(graph: GraphProto) -> list[str]:
    return [given.name for given in graph.input if given.name.endswith("features")]


def _experts(models: Mapping[int, onnx.ModelProto]) -> dict[int, Weights]:
    """Of each graph, the float initializers of matrix products and sums that all have, in one shape and unlike values.

    Raises:
        UsageError: there are none.
    """
    found = {grid: _weights(model.graph) for grid, model in models.items()}
    first, *others = found.values()
    names = [
        name
        for name, weight in first.items()
        if all(name in other and other[name].shape == weight.shape for other in others)
        and any(not np.array_equal(other[name], weight) for other in others)
    ]
    if not names:
        raise UsageError(
            "the projectors of this bundle have no experts to exchange: leave projector-swap, projector-random and "
            "projector-untrained out"
        )
    return {grid: {name: weights[name] for name in names} for grid, weights in found.items()}


def _weights(graph: GraphProto) -> Weights:
    used = {name for node in graph.node if node.op_type in {"MatMul", "Add"} for name in node.input}
    tensors = (tensor for tensor in graph.initializer if tensor.name in used)
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in tensors if tensor.data_type == tensor.FLOAT}


def _store(graph: GraphProto, weights: Weights) -> None:
    for tensor in graph.initializer:
        if tensor.name in weights:
            tensor.CopyFrom(numpy_helper.from_array(weights[tensor.name], tensor.name))


def _store_new(graph: GraphProto, name: str, values: NDArray[np.generic]) -> str:
    graph.initializer.append(numpy_helper.from_array(values, name))
    return name
