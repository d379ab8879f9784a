"""config.json -> sizes: what the modules are built with, and facts about line breaks and tiles that no weight tells.

Hugging Face's LlavaOnevision config has a section per model. LLaVA-NeXT's is Qwen2's own with `mm_` fields, and only
names the image encoder.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

from tam_edge.export.pretrained.config import Section
from tam_edge.export.pretrained.folder import CheckpointError, CheckpointFolder
from tam_edge.export.pretrained.modules import EXPERTS_PER_TOKEN, MOST_LAYERS, language_sizes, tower, vision_sizes
from tam_edge.export.pretrained.tiles import read_tiles
from tam_edge.models.config import LanguageConfig, ProjectorConfig, TallVAConfig, VisionConfig

Newline = Literal["grid", "frame", "one", "none"]
"""Where a video's line breaks stand: after every row, after every frame, once at the end, nowhere."""
Layout = Literal["hugging-face", "llava-next"]
"""Whose config.json it is."""

STRIDES = (1, 1.5, 2, 2.5)
"""TAM's ladder: ceil(side / stride) is 27, 18, 14, 11 for a side of 27."""
UPCYCLED_EXPERTS = 4
"""TAM's mixture, for `--upcycle`."""
_NEWLINES: dict[str, Newline] = {"grid": "grid", "frame": "frame", "one_token": "one", "no_token": "none"}


@dataclass(frozen=True, slots=True)
class CheckpointSizes:
    """Everything about a checkpoint that decides what its bundle looks like."""

    config: TallVAConfig
    """Sizes of the three modules; the image encoder ends where the features are taken."""
    layout: Layout
    """Whose config.json it is."""
    newline: Newline
    """Line breaks in a video, as the checkpoint was trained."""
    resolutions: tuple[tuple[int, int], ...]
    """(height, width) in pixels that a single image is cut into tiles at; empty: it is not."""
    max_tiles: int
    """An image of more tokens than so many tiles have is scaled down (`anyres_max_9`)."""
    says_time: bool
    """Whether it was trained with the clip's length and frame count in the prompt (LLaVA-Video)."""
    notes: tuple[str, ...]
    """What the bundle does otherwise than config.json says, one sentence each."""


def read_sizes(
    folder: CheckpointFolder, grids: tuple[int, ...] | None = None, newline: Newline | None = None
) -> CheckpointSizes:
    """Sizes of a checkpoint, with its own line breaks and TAM's ladder unless others are given.

    Raises:
        CheckpointError: config.json lacks something, or describes a model that is not built like these.
    """
    reader = _Reader(folder)
    if "mm_vision_tower" in folder.config:
        return reader.llava_next(grids, newline)
    if "text_config" in folder.config or "vision_config" in folder.config:
        return reader.hugging_face(grids, newline)
    raise CheckpointError(
        folder.path,
        "config.json names no image encoder (vision_config or mm_vision_tower): this is no LLaVA checkpoint",
    )


class _Reader:
    """Reads one config.json; every refusal names the folder."""

    def __init__(self, folder: CheckpointFolder) -> None:
        self._folder = folder
        self._config = Section(folder.path, folder.config)
        self._notes: list[str] = []

    def hugging_face(self, grids: tuple[int, ...] | None, newline: Newline | None) -> CheckpointSizes:
        """LlavaOnevisionConfig."""
        config = self._config
        config.only("projector_hidden_act", "gelu")
        config.only("vision_feature_select_strategy", "full")
        config.only("multimodal_projector_bias", True)
        about = config.section("vision_config", {"model_type": "siglip_vision_model"})
        about.only("model_type", "siglip_vision_model")
        stored = about.size("num_hidden_layers", 12, MOST_LAYERS)
        layers = self._feature_layer(config.get("vision_feature_layer", -1), stored)
        text = config.section("text_config")
        return self._sizes(
            "hugging-face",
            vision=self._vision(about, layers),
            language=language_sizes(text),
            grids=grids,
            newline=newline or "one",
            says_time=False,
        )

    def llava_next(self, grids: tuple[int, ...] | None, newline: Newline | None) -> CheckpointSizes:
        """LlavaQwenConfig; the encoder's feature is its last block's input, so the last block is not built."""
        config = self._config
        config.only("mm_projector_type", "mlp2x_gelu")
        about, layers = tower(config, self._folder)
        mode = config.get("mm_spatial_pool_mode", "bilinear")
        if mode != "bilinear":
            self._notes.append(f"Frames are pooled bilinearly, at any grid; config.json says {mode}.")
        said = str(config.get("mm_newline_position", "one_token"))
        if newline is None and said not in _NEWLINES:
            raise config.error(f"mm_newline_position is {said!r}: name one with --newline")
        if newline is None and "unpad" not in str(config.get("mm_patch_merge_type", "")) and said == "one_token":
            said = "no_token"  # LLaVA-NeXT adds the closing one only where it unpads
        return self._sizes(
            "llava-next",
            vision=self._vision(about, layers),
            language=language_sizes(config),
            grids=grids,
            newline=newline or _NEWLINES[said],
            says_time=bool(config.get("add_time_instruction", said == "grid")),
        )

    def _sizes(
        self,
        layout: Layout,
        *,
        vision: VisionConfig,
        language: LanguageConfig,
        grids: tuple[int, ...] | None,
        newline: Newline,
        says_time: bool,
    ) -> CheckpointSizes:
        order = self._config.get("projector_order", "project-then-pool")
        if order not in ("project-then-pool", "pool-then-project"):
            raise self._config.error(f"projector_order is {order!r}: project-then-pool and pool-then-project are known")
        projector = ProjectorConfig(
            grids=grids or ladder_of(vision.grid_side),
            input_width=vision.width,
            output_width=language.width,
            order=order,
        )
        if newline != "none" and "newline" not in self._folder.tensors:
            raise self._config.error("image_newline is missing: add it, or export with --newline none")
        tiles = read_tiles(self._config, vision.image_px)
        try:
            config = TallVAConfig(vision, projector, language)
        except ValueError as error:
            raise self._config.error(str(error)) from error
        notes = (*self._notes, *tiles.notes)
        return CheckpointSizes(config, layout, newline, tiles.resolutions, tiles.most, says_time=says_time, notes=notes)

    def _vision(self, about: Section, layers: int) -> VisionConfig:
        keys = self._folder.tensors
        experts = len({key.split(".")[5] for key in keys if key.startswith("vision.layers.0.mlp.experts.")})
        sizes, notes = vision_sizes(about, layers, experts)
        self._notes += notes
        return sizes

    def _feature_layer(self, layer: object, stored: int) -> int:
        """How many blocks run before the features are taken: hidden state 0 is the embedding, -1 the last block's."""
        if not isinstance(layer, int) or isinstance(layer, bool):
            raise self._config.error(f"vision_feature_layer is {layer!r}: one layer is what can be imported")
        used = layer if layer >= 0 else stored + 1 + layer
        if not 1 <= used <= stored:
            raise self._config.error(f"vision_feature_layer {layer} does not exist: the image encoder has {stored}")
        return used


def ladder_of(side: int) -> tuple[int, ...]:
    """TAM's grids for an encoder with `side` patches a side, largest first."""
    return tuple(sorted({math.ceil(side / stride) for stride in STRIDES}, reverse=True))


def upcycled(sizes: CheckpointSizes) -> CheckpointSizes:
    """The same with TAM's mixture of experts in every block of the image encoder."""
    vision = replace(sizes.config.vision, experts=UPCYCLED_EXPERTS, experts_per_token=EXPERTS_PER_TOKEN)
    return replace(sizes, config=replace(sizes.config, vision=vision))


def newline_tokens(newline: Newline, grid: int) -> int:
    """Visual tokens of one frame at `grid`, its line breaks included; the one that closes a video is not a frame's."""
    return grid * grid + {"grid": grid, "frame": 1}.get(newline, 0)
