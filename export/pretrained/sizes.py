"""config.json -> sizes: what the modules are built with, and facts about line breaks and tiles that no weight tells.

Hugging Face's LlavaOnevision config has a section per model. LLaVA-NeXT's is Qwen2's own with `mm_` fields, and only
names the image encoder, so SigLIP's published sizes stand here.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from tam_edge.export.pretrained.folder import CheckpointError, CheckpointFolder
from tam_edge.models.config import LanguageConfig, ProjectorConfig, TallVAConfig, VisionConfig

Newline = Literal["grid", "frame", "one", "none"]
"""Where a video's line breaks stand: after every row, after every frame, once at the end, nowhere."""
Layout = Literal["hugging-face", "llava-next"]
"""Whose config.json it is."""

STRIDES = (1, 1.5, 2, 2.5)
"""TAM's ladder: ceil(side / stride) is 27, 18, 14, 11 for a side of 27."""
MAX_CONTEXT = 21000
"""TAM's context; a longer one would only cost memory."""
EXPERTS, EXPERTS_PER_TOKEN = 4, 2
"""TAM's mixture, for `--upcycle`."""
_NEWLINES: dict[str, Newline] = {"grid": "grid", "frame": "frame", "one_token": "one", "no_token": "none"}


@dataclass(frozen=True, slots=True)
class SiglipTower:
    """Sizes of a published SigLIP encoder that a LLaVA-NeXT config only names."""

    layers: int
    """Blocks before LLaVA drops the last one."""
    heads: int
    """Attention heads."""


SIGLIP_TOWERS = {"so400m": SiglipTower(27, 16), "large": SiglipTower(24, 16), "base": SiglipTower(12, 12)}


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
        self._config = folder.config
        self._notes: list[str] = []

    def hugging_face(self, grids: tuple[int, ...] | None, newline: Newline | None) -> CheckpointSizes:
        """LlavaOnevisionConfig."""
        config = self._config
        self._only(config, "projector_hidden_act", "gelu")
        self._only(config, "vision_feature_select_strategy", "full")
        self._only(config, "multimodal_projector_bias", True)
        about = {"model_type": "siglip_vision_model"} | self._section("vision_config")
        self._only(about, "model_type", "siglip_vision_model")
        stored = self._size(about, "num_hidden_layers", 12)
        layers = self._feature_layer(config.get("vision_feature_layer", -1), stored)
        text = self._section("text_config")
        return self._sizes(
            "hugging-face",
            vision=self._vision(about, layers),
            language=self._language(text, tied=bool(text.get("tie_word_embeddings", False))),
            grids=grids,
            newline=newline or "one",
            says_time=False,
        )

    def llava_next(self, grids: tuple[int, ...] | None, newline: Newline | None) -> CheckpointSizes:
        """LlavaQwenConfig; the encoder's feature is its last block's input, so the last block is not built."""
        config = self._config
        self._only(config, "mm_projector_type", "mlp2x_gelu")
        about, layers = self._tower()
        mode = config.get("mm_spatial_pool_mode", "bilinear")
        if mode != "bilinear":
            self._notes.append(f"Frames are pooled bilinearly, at any grid; config.json says {mode}.")
        said = str(config.get("mm_newline_position", "one_token"))
        if newline is None and said not in _NEWLINES:
            raise self._error(f"mm_newline_position is {said!r}: name one with --newline")
        if newline is None and "unpad" not in str(config.get("mm_patch_merge_type", "")) and said == "one_token":
            said = "no_token"  # LLaVA-NeXT adds the closing one only where it unpads
        chosen = newline or _NEWLINES[said]
        return self._sizes(
            "llava-next",
            vision=self._vision(about, layers),
            language=self._language(config, tied=bool(config.get("tie_word_embeddings", False))),
            grids=grids,
            newline=chosen,
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
            raise self._error(f"projector_order is {order!r}: project-then-pool and pool-then-project are known")
        projector = ProjectorConfig(
            grids=grids or ladder_of(vision.grid_side),
            input_width=vision.width,
            output_width=language.width,
            order=order,
        )
        if newline != "none" and "newline" not in self._folder.tensors:
            raise self._error("image_newline is missing: add it, or export with --newline none")
        resolutions, max_tiles = self._tiles(vision.image_px)
        try:
            config = TallVAConfig(vision, projector, language)
        except ValueError as error:
            raise self._error(str(error)) from error
        return CheckpointSizes(
            config, layout, newline, resolutions, max_tiles, says_time=says_time, notes=tuple(self._notes)
        )

    def _vision(self, about: Mapping[str, Any], layers: int) -> VisionConfig:
        """Where a size is not written, SiglipVisionConfig's own default holds, as in transformers."""
        self._only(about, "hidden_act", "gelu_pytorch_tanh")
        experts = len(
            {key.split(".")[5] for key in self._folder.tensors if key.startswith("vision.layers.0.mlp.experts.")}
        )
        width = self._size(about, "hidden_size", 768)
        try:
            return VisionConfig(
                image_px=self._size(about, "image_size", 224),
                patch_px=self._size(about, "patch_size", 16),
                width=width,
                layers=layers,
                heads=self._heads(about, width),
                mlp_width=self._size(about, "intermediate_size", 3072),
                experts=max(1, experts),
                experts_per_token=min(EXPERTS_PER_TOKEN, max(1, experts)),
                layer_norm_eps=self._number(about, "layer_norm_eps", 1e-6),
            )
        except ValueError as error:
            raise self._error(f"vision_config: {error}") from error

    def _heads(self, about: Mapping[str, Any], width: int) -> int:
        """Files written before transformers 4.54 may say 14 heads for a width of 1152; so400m has 16."""
        heads = self._size(about, "num_attention_heads", 12)
        if width % heads and width == 1152:
            self._notes.append(f"The image encoder has 16 heads; config.json says {heads}, which do not divide 1152.")
            return 16
        return heads

    def _language(self, text: Mapping[str, Any], *, tied: bool) -> LanguageConfig:
        """Where a size is not written, Qwen2Config's own default holds."""
        self._only(text, "hidden_act", "silu")
        if text.get("model_type", "qwen2") not in ("qwen2", "llava", "llava_qwen", "llava_qwen2"):
            raise self._error(f"its language model is {text['model_type']}: qwen2 is what can be imported")
        scaling = text.get("rope_scaling")
        if scaling and scaling.get("rope_type", scaling.get("type")) != "default":
            raise self._error("rope_scaling is not supported: take the checkpoint without it")
        if text.get("use_sliding_window"):
            raise self._error("use_sliding_window is not supported: take the checkpoint without it")
        heads = self._size(text, "num_attention_heads", 32)
        trained = int(text.get("tokenizer_model_max_length") or self._size(text, "max_position_embeddings", 32768))
        try:
            return LanguageConfig(
                vocab_size=self._size(text, "vocab_size", 151936),
                width=self._size(text, "hidden_size", 4096),
                layers=self._size(text, "num_hidden_layers", 32),
                heads=heads,
                kv_heads=self._size(text, "num_key_value_heads", 32),
                ffn_width=self._size(text, "intermediate_size", 22016),
                rope_theta=self._number(text.get("rope_parameters") or text, "rope_theta", 10000.0),
                tied=tied,
                context=min(MAX_CONTEXT, trained),
                rms_norm_eps=self._number(text, "rms_norm_eps", 1e-6),
            )
        except ValueError as error:
            raise self._error(f"the language model's sizes: {error}") from error

    def _tower(self) -> tuple[Mapping[str, Any], int]:
        """vision_config if there is one, else the published sizes of the named tower; and the blocks that are used."""
        name = str(self._config["mm_vision_tower"])
        if own := self._config.get("vision_config"):
            return own, self._size(own, "num_hidden_layers") - 1
        found = re.search(r"siglip-(so400m|large|base)-patch(\d+)-(\d+)", name)
        if found is None:
            raise self._error(
                f"mm_vision_tower is {name!r}: SigLIP encoders such as siglip-so400m-patch14-384 are known"
            )
        tower = SIGLIP_TOWERS[found[1]]
        stored = self._folder.stored("vision.layers.0.mlp.fc1.weight")
        if len(stored.shape) != 2:
            raise self._error(f"{stored.name} has shape {list(stored.shape)}, not two axes")
        about = {
            "hidden_size": stored.shape[1],
            "intermediate_size": stored.shape[0],
            "patch_size": int(found[2]),
            "image_size": int(found[3]),
            "num_attention_heads": tower.heads,
        }
        return about, tower.layers - 1

    def _feature_layer(self, layer: object, stored: int) -> int:
        """How many blocks run before the features are taken: hidden state 0 is the embedding, -1 the last block's."""
        if not isinstance(layer, int) or isinstance(layer, bool):
            raise self._error(f"vision_feature_layer is {layer!r}: one layer is what can be imported")
        used = layer if layer >= 0 else stored + 1 + layer
        if not 1 <= used <= stored:
            raise self._error(f"vision_feature_layer {layer} does not exist: the image encoder has {stored}")
        return used

    def _tiles(self, image_px: int) -> tuple[tuple[tuple[int, int], ...], int]:
        aspect = str(
            self._config.get("vision_aspect_ratio") or self._config.get("image_aspect_ratio") or "anyres_max_9"
        )
        found = re.fullmatch(r"anyres_max_(\d+)", aspect)
        points = self._config.get("image_grid_pinpoints")
        if found is None:
            if aspect.startswith("anyres"):
                self._notes.append(f"A single image is seen whole, without tiles; config.json says {aspect}.")
            return (), 1
        if isinstance(points, str):  # "(1x1),...,(6x6)" in tiles
            ends = [int(number) for number in re.findall(r"\d+", points)]
            low, high = (min(ends), max(ends)) if ends else (1, 6)
            points = [[i * image_px, j * image_px] for i in range(low, high + 1) for j in range(low, high + 1)]
        if points is None:
            points = [[i * image_px, j * image_px] for i in range(1, 7) for j in range(1, 7)]
        try:
            resolutions = tuple((int(height), int(width)) for height, width in points)
        except (TypeError, ValueError):
            raise self._error("image_grid_pinpoints is no list of [height, width]") from None
        if any(side < image_px or side % image_px for pair in resolutions for side in pair):
            raise self._error(f"image_grid_pinpoints must be multiples of the encoder's {image_px} px")
        return resolutions, int(found[1])

    def _section(self, name: str) -> dict[str, Any]:
        section = self._config.get(name)
        if not isinstance(section, dict):
            raise self._error(f"config.json lacks {name}")
        return section

    def _size(self, section: Mapping[str, Any], field: str, default: int | None = None) -> int:
        value = section.get(field, default)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise self._error(f"config.json: {field} is {value!r}, a positive whole number is needed")
        return value

    def _number(self, section: Mapping[str, Any], field: str, default: float) -> float:
        value = section.get(field, default)
        if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value) or value <= 0:
            raise self._error(f"config.json: {field} is {value!r}, a positive number is needed")
        return float(value)

    def _only(self, section: Mapping[str, Any], field: str, known: object) -> None:
        if (value := section.get(field, known)) != known:
            raise self._error(f"config.json: {field} is {value!r}; {known!r} is what can be imported")

    def _error(self, message: str) -> CheckpointError:
        return CheckpointError(self._folder.path, message)


def ladder_of(side: int) -> tuple[int, ...]:
    """TAM's grids for an encoder with `side` patches a side, largest first."""
    return tuple(sorted({math.ceil(side / stride) for stride in STRIDES}, reverse=True))


def upcycled(sizes: CheckpointSizes) -> CheckpointSizes:
    """The same with TAM's mixture of experts in every block of the image encoder."""
    vision = replace(sizes.config.vision, experts=EXPERTS, experts_per_token=EXPERTS_PER_TOKEN)
    return replace(sizes, config=replace(sizes.config, vision=vision))


def newline_tokens(newline: Newline, grid: int) -> int:
    """Visual tokens of one frame at `grid`, its line breaks included; the one that closes a video is not a frame's."""
    return grid * grid + {"grid": grid, "frame": 1}.get(newline, 0)
