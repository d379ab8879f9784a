"""Checkpoint -> modules: which tensors there must be, that they are all there, and the two modules that are built.

The language model is never built: its tensors go from file to file (`language_source`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from tam_edge.export.language import TensorSource
from tam_edge.export.pretrained.folder import CheckpointError, CheckpointFolder
from tam_edge.models.config import ProjectorConfig, TallVAConfig, VisionConfig
from tam_edge.models.projector import Projectors
from tam_edge.models.tallva import TallVA
from tam_edge.models.vision import VisionTransformer, upcycle_vision

COMPARED_BYTES = 32 * 1024**2
"""A table is compared with its head so many bytes of float32 at a time."""
Shapes = dict[str, tuple[int, ...]]
"""Shape of each tensor by its one name."""

_VISION_LAYER = re.compile(r"^vision\.layers\.(\d+)\.")


def check_tensors(folder: CheckpointFolder, config: TallVAConfig) -> None:
    """Compare names and shapes with what `config` needs, before a weight is read.

    Raises:
        CheckpointError: names the first tensor that is missing, of another shape, or of no known part.
    """
    expected = expected_shapes(folder, config)
    for key, shape in expected.items():
        stored = folder.tensors.get(key)
        if stored is None:
            raise CheckpointError(folder.path, f"{key} is missing")
        if stored.shape != shape:
            raise CheckpointError(
                folder.path, f"{stored.name} has shape {list(stored.shape)}, config.json makes it {list(shape)}"
            )
    for key, stored in folder.tensors.items():
        if key not in expected and not _spare(key, config):
            raise CheckpointError(folder.path, f"{stored.name} belongs to no part of this model")


def expected_shapes(folder: CheckpointFolder, config: TallVAConfig) -> Shapes:
    """Shape of every tensor of a model of these sizes; a projector has experts where the folder has some."""
    with torch.device("meta"):
        model = TallVA(config)
    shapes = {f"vision.{key}": tuple(value.shape) for key, value in model.vision.state_dict().items()}
    for key, value in model.projectors.experts[0].state_dict().items():
        names = [f"experts.{i}.{key}" for i in range(len(config.projector.grids))] if _has_experts(folder) else [key]
        shapes |= {f"projector.{name}": tuple(value.shape) for name in names}
    shapes |= {f"language.{key}": tuple(value.shape) for key, value in model.language.state_dict().items()}
    if "newline" in folder.tensors:
        shapes["newline"] = (config.language.width,)
    return shapes


def load_vision(folder: CheckpointFolder, config: VisionConfig, *, upcycle: bool) -> VisionTransformer:
    """The image encoder in float32; with `upcycle` each dense block becomes the mixture that computes the same.

    Raises:
        CheckpointError: a tensor cannot be read.
    """
    stored = replace(config, experts=1, experts_per_token=1) if upcycle else config
    with torch.device("meta"):
        encoder = VisionTransformer(stored)
    _fill(encoder, {key: f"vision.{key}" for key in encoder.state_dict()}, folder)
    if upcycle:
        torch.manual_seed(0)  # the gates: the same checkpoint gives the same bundle
        encoder = upcycle_vision(encoder, config)
    return encoder.eval()


def load_projectors(folder: CheckpointFolder, config: ProjectorConfig) -> Projectors:
    """The projector of every grid in float32: the folder's own experts, or its one projector for all of them.

    Raises:
        CheckpointError: a tensor cannot be read.
    """
    with torch.device("meta"):
        projectors = Projectors(config)
    for index, expert in enumerate(projectors.experts):
        prefix = f"projector.experts.{index}." if _has_experts(folder) else "projector."
        _fill(expert, {key: prefix + key for key in expert.state_dict()}, folder)
    return projectors.eval()


def language_source(folder: CheckpointFolder, config: TallVAConfig) -> dict[str, TensorSource]:
    """The language model's tensors by LanguageModel's names, none of them read yet."""
    with torch.device("meta"):
        keys = list(TallVA(config).language.state_dict())
    return {key: _source(folder, f"language.{key}") for key in keys}


def check_tied_head(folder: CheckpointFolder, config: TallVAConfig) -> None:
    """Refuse a stored head that is none of the table's copies where config.json ties the two: one of them is wrong.

    Raises:
        CheckpointError: they differ.
    """
    head, table = "language.lm_head.weight", "language.embed_tokens.weight"
    if not config.language.tied or head not in folder.tensors:
        return
    rows = max(1, COMPARED_BYTES // (4 * config.language.width))
    alike = folder.stored(head).shape == folder.stored(table).shape and all(
        torch.equal(one, other)
        for one, other in zip(folder.blocks(head, rows), folder.blocks(table, rows), strict=True)
    )
    if not alike:
        raise CheckpointError(
            folder.path,
            f"{folder.stored(head).name} is not the embedding table, to which config.json ties it: set "
            "tie_word_embeddings to false to use it, or take it out",
        )


def read_newline(folder: CheckpointFolder) -> Tensor:
    """The line break's embedding [d] in float32.

    Raises:
        CheckpointError: there is none.
    """
    return folder.read("newline")


def _source(folder: CheckpointFolder, key: str) -> TensorSource:
    return TensorSource(folder.stored(key).shape, lambda rows: folder.blocks(key, rows))


def _fill(module: nn.Module, names: Mapping[str, str], folder: CheckpointFolder) -> None:
    module.load_state_dict({key: folder.read(name) for key, name in names.items()}, assign=True)


def _has_experts(folder: CheckpointFolder) -> bool:
    return any(key.startswith("projector.experts.") for key in folder.tensors)


def _spare(key: str, config: TallVAConfig) -> bool:
    """A block behind the one whose output is the feature; the head's own copy of a tied table."""
    layer = _VISION_LAYER.match(key)
    if layer is not None:
        return int(layer[1]) >= config.vision.layers
    return config.language.tied and key == "language.lm_head.weight"
