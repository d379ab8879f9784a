"""What the projectors of a bundle add to every token, as modules again: the way back from `projector.py`."""

from __future__ import annotations

from pathlib import Path

import onnx
import torch
from onnx import numpy_helper
from torch import Tensor

from tam_edge.models.config import PositionConfig
from tam_edge.models.projector import ChangeEmbedding, PositionEmbedding, fourier_features, token_coordinates
from tam_edge.runtime.errors import UsageError


def read_marks(paths: dict[int, Path]) -> tuple[PositionEmbedding, ChangeEmbedding]:
    """The embeddings of position and change that the projectors in `paths`, by grid, share.

    A graph holds what the position's first layer gives for each cell, not its weights: those read here are the
    smallest that give the same for every cell of every grid.

    Raises:
        UsageError: a file is no projector with both embeddings.
    """
    constants = {grid: _constants(path) for grid, path in paths.items()}
    if not constants:
        raise UsageError("the bundle has no projectors: only those of the nano model can be read")
    try:
        first = constants[min(constants)]
        change = ChangeEmbedding(first["change.weight"].shape[1])
        change.load_state_dict({"linear.weight": first["change.weight"].T.contiguous()})
        return _position({grid: values["position.place"] for grid, values in constants.items()}, first), change
    except KeyError as error:
        raise UsageError(f"the projectors hold no {error.args[0]}: only those of the nano model can be read") from None


def _constants(path: Path) -> dict[str, Tensor]:
    return {item.name: torch.tensor(numpy_helper.to_array(item)) for item in onnx.load(path).graph.initializer}


def _position(places: dict[int, Tensor], shared: dict[str, Tensor]) -> PositionEmbedding:
    by_time = shared["position.time.weight"]  # [1 + 2 * bands, h]
    bands, hidden = (by_time.shape[0] - 1) // 2, by_time.shape[1]
    second = shared["position.linear_2.weight"]  # [h, d]
    position = PositionEmbedding(PositionConfig(bands=bands, hidden=hidden), second.shape[1])
    features = [fourier_features(token_coordinates(grid, torch.zeros(1)), bands)[0] for grid in places]
    is_time = torch.tensor(
        [index == 2 or (index >= 3 and (index - 3) // bands % 3 == 2) for index in range(3 + 6 * bands)]
    )
    known = torch.cat(features)[:, ~is_time].double()
    known = torch.cat((known, torch.ones(len(known), 1, dtype=known.dtype)), 1)  # the last column is for the bias
    found = torch.linalg.lstsq(known, torch.cat(list(places.values())).double(), driver="gelsd").solution.float()
    with torch.no_grad():
        position.linear_1.weight[:, ~is_time] = found[:-1].T
        position.linear_1.weight[:, is_time] = by_time.T
        position.linear_1.bias.copy_(found[-1])
        position.linear_2.weight.copy_(second.T)
        position.linear_2.bias.copy_(shared["position.linear_2.bias"])
    return position
