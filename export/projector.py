"""One projector expert as an ONNX graph, its pooling and its position embedding inside.

features float32 [N, S*S, D] (and, where tokens are told their time and what has changed, time_fraction float32 [N] and
previous_features float32 [N, S*S, D]) -> tokens float32 [N, grid*grid, d], N free; a checkpoint with line breaks has
one more token after every row, or after every frame.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import onnx
import torch
from torch import Tensor

from tam_edge.export.graph import Attribute, Graph, Shape
from tam_edge.models.projector import (
    ChangeEmbedding,
    PositionEmbedding,
    ProjectorExpert,
    Projectors,
    fourier_features,
    token_coordinates,
)


@dataclass(frozen=True, slots=True, eq=False)
class LineBreaks:
    """A learned embedding that ends rows or frames (LLaVA's `image_newline`)."""

    embedding: Tensor
    """[d]."""
    after: Literal["row", "frame"]
    """What it ends."""


def projector_graph(
    projectors: Projectors, grid: int, grid_side: int, breaks: LineBreaks | None = None
) -> onnx.ModelProto:
    """The graph of the expert of `grid`, for features with `grid_side` patches per side.

    Raises:
        ValueError: the ladder has no such grid.
    """
    config = projectors.config
    if grid not in config.grids:
        raise ValueError(f"grid {grid} is not on the ladder {config.grids}")
    expert = projectors.experts[config.grids.index(grid)]
    assert isinstance(expert, ProjectorExpert)
    graph = Graph()
    inputs: dict[str, Shape] = {"features": ("N", grid_side * grid_side, config.input_width)}
    x = "features"
    if projectors.change is not None:
        inputs["previous_features"] = inputs["features"]
        x = graph.node("Concat", ["features", "previous_features"], "both", attributes={"axis": 0})  # [2N, S*S, D]
    if config.order == "pool-then-project":
        x = _expert(graph, _pool(graph, x, grid_side, grid, config.input_width), expert)
    else:
        x = _pool(graph, _expert(graph, x, expert), grid_side, grid, config.output_width)
    if projectors.change is not None:
        x = _with_change(graph, x, grid * grid, config.output_width, projectors.change)
    if projectors.position is not None:
        inputs["time_fraction"] = ("N",)
        x = graph.node("Add", [x, _position(graph, projectors.position, grid)], "marked")
    tokens = grid * grid
    if breaks is not None:
        x = _with_breaks(graph, x, grid, config.output_width, breaks)
        tokens += grid if breaks.after == "row" else 1
    graph.node("Identity", [x], "tokens")
    return graph.model(f"projector-{grid}", inputs, {"tokens": ("N", tokens, config.output_width)})


def _with_breaks(graph: Graph, x: str, grid: int, width: int, breaks: LineBreaks) -> str:
    """[N, g*g, d] -> [N, g*(g+1), d] or [N, g*g + 1, d]: one more column of the same embedding, or one more token."""
    rows, columns = (grid, grid) if breaks.after == "row" else (1, grid * grid)
    lines = graph.reshape(x, "breaks.lines", [-1, rows, columns, width])
    embedding = graph.constant("breaks.embedding", breaks.embedding.detach().reshape(1, 1, 1, width))
    first = graph.node("Shape", [x], "breaks.frames", attributes={"start": 0, "end": 1})
    rest = graph.constant("breaks.rest", np.array([rows, 1, width], np.int64))
    shape = graph.node("Concat", [first, rest], "breaks.shape", attributes={"axis": 0})
    column = graph.node("Expand", [embedding, shape], "breaks.column")
    ended = graph.node("Concat", [lines, column], "breaks.ended", attributes={"axis": 2})
    return graph.reshape(ended, "breaks.tokens", [-1, rows * (columns + 1), width])


def _pool(graph: Graph, x: str, side: int, grid: int, width: int) -> str:
    if grid == side:
        return x
    square = graph.reshape(graph.transpose(x, "pool.channels", (0, 2, 1)), "pool.square", [0, 0, side, side])
    sizes = graph.constant("pool.sizes", np.array([grid, grid], np.int64))
    # Sizes of two axes instead of scales of four: 5/12 in float32 times 12 may floor to 4.
    attributes: dict[str, Attribute] = {
        "mode": "linear",
        "coordinate_transformation_mode": "half_pixel",
        "axes": [2, 3],
    }
    pooled = graph.node("Resize", [square, "", "", sizes], "pool", attributes=attributes)
    return graph.transpose(graph.reshape(pooled, "pool.flat", [0, width, -1]), "pool.tokens", (0, 2, 1))


def _expert(graph: Graph, x: str, expert: ProjectorExpert) -> str:
    hidden = graph.linear(x, "linear_1", expert.linear_1.weight, expert.linear_1.bias)
    hidden = graph.node("Gelu", [hidden], "gelu", attributes={"approximate": "none"})
    return graph.linear(hidden, "linear_2", expert.linear_2.weight, expert.linear_2.bias)


def _with_change(graph: Graph, both: str, tokens: int, width: int, change: ChangeEmbedding) -> str:
    """[2N, g*g, d], frames and then those before them -> [N, g*g, d] with what has changed."""
    stacked = graph.reshape(both, "change.both", [2, -1, tokens, width])
    now, before = (
        graph.node("Gather", [stacked, graph.constant(f"change.{name}.index", np.array(index, np.int64))], name)
        for index, name in enumerate(("now", "before"))
    )
    difference = graph.node("Sub", [now, before], "change.difference")
    return graph.node("Add", [now, graph.linear(difference, "change", change.linear.weight, None)], "changed")


def _position(graph: Graph, position: PositionEmbedding, grid: int) -> str:
    """First layer split into a constant for the place and a product for the time, which broadcast to [N, g*g, h]."""
    weight, bands = position.linear_1.weight.detach(), position.bands
    is_time = torch.zeros(weight.shape[1], dtype=torch.bool)
    is_time[2] = True
    for first in (3 + 2 * bands, 3 + 5 * bands):
        is_time[first : first + bands] = True
    place = fourier_features(token_coordinates(grid, torch.zeros(1, dtype=weight.dtype)), bands)[0]
    by_place = place[:, ~is_time] @ weight[:, ~is_time].T + position.linear_1.bias.detach()  # [g*g, h]
    by_time = graph.linear(_time_features(graph, bands), "position.time", weight[:, is_time], None)  # [N, 1, h]
    hidden = graph.node("Add", [graph.constant("position.place", by_place), by_time], "position.linear_1")
    hidden = graph.node("Gelu", [hidden], "position.gelu", attributes={"approximate": "none"})
    return graph.linear(hidden, "position.linear_2", position.linear_2.weight, position.linear_2.bias)


def _time_features(graph: Graph, bands: int) -> str:
    """[N] -> [N, 1, 1 + 2 * bands], in the order of `fourier_features`."""
    time = graph.reshape("time_fraction", "time", [-1, 1, 1])
    frequencies: Tensor = math.pi * torch.exp2(torch.arange(bands, dtype=torch.float32))
    angles = graph.node("Mul", [time, graph.constant("time.frequencies", frequencies)], "time.angles")
    parts = [time, graph.node("Sin", [angles], "time.sin"), graph.node("Cos", [angles], "time.cos")]
    return graph.node("Concat", parts, "time.features", attributes={"axis": -1})
