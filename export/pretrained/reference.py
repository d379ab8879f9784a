"""transformers' own LLaVA-OneVision as the reference, and what it makes of frames and text, stage by stage.

transformers 4.57.0 and 4.57.1 return SigLIP's last hidden state after its closing norm (issue 40964): features would
differ without a word, so they are refused.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional
from transformers import (
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    LlavaOnevisionImageProcessor,
    Qwen2Config,
    SiglipVisionConfig,
)
from transformers.utils import logging as transformers_logging

from tam_edge.export.pretrained.folder import CheckpointFolder
from tam_edge.export.pretrained.sizes import CheckpointSizes, Newline
from tam_edge.runtime.errors import TamEdgeError
from tam_edge.runtime.manifest import EncoderSpec

LEAST_VERSION = (4, 57, 2)


class Reference:
    """A checkpoint in transformers, float32, on the CPU."""

    def __init__(self, model: LlavaOnevisionForConditionalGeneration) -> None:
        """Wrap a model in evaluation mode."""
        self.model = model
        """The model."""

    @torch.inference_mode()
    def features(self, pixels: Tensor) -> Tensor:
        """Patch features [N, S*S, D] of pixels [N, 3, px, px], taken from the layer the config names."""
        states = self.model.model.vision_tower(pixels, output_hidden_states=True).hidden_states
        chosen: Tensor = states[self.model.config.vision_feature_layer]
        return chosen

    @torch.inference_mode()
    def frame_tokens(self, features: Tensor, grid: int, newline: Newline) -> Tensor:
        """Visual tokens [N, tokens, d] of each frame, line breaks included: project, pool, break.

        At the grid that OneVision pools to, its own pooling; at another the same with another size.
        """
        projected = self.model.model.multi_modal_projector(features)
        side = math.isqrt(projected.shape[1])
        if grid == side:
            pooled: Tensor = projected
        elif grid == -(-side // 2):
            pooled = self.model.model.apply_pooling(projected)
        else:
            square = projected.transpose(1, 2).unflatten(2, (side, side))
            pooled = functional.interpolate(square, size=(grid, grid), mode="bilinear").flatten(2).transpose(1, 2)
        if newline == "grid":
            rows = pooled.unflatten(1, (grid, grid))
            return torch.cat((rows, self._newline.expand(*rows.shape[:2], 1, -1)), 2).flatten(1, 2)
        if newline == "frame":
            return torch.cat((pooled, self._newline.expand(len(pooled), 1, -1)), 1)
        return pooled

    @torch.inference_mode()
    def video_tokens(self, features: Tensor, grid: int, newline: Newline) -> Tensor:
        """Visual tokens [T, d] of a whole video."""
        tokens = self.frame_tokens(features, grid, newline).flatten(0, 1)
        return torch.cat((tokens, self._newline[None])) if newline == "one" else tokens

    @torch.inference_mode()
    def image_tokens(self, image: NDArray[np.uint8], spec: EncoderSpec) -> Tensor:
        """Visual tokens [T, d] of one still image [H, W, 3] by OneVision's own processing, tiles and all."""
        pixels = spec.preprocessing
        processor = LlavaOnevisionImageProcessor(
            size={"height": spec.image_px, "width": spec.image_px},
            image_mean=list(pixels.mean),
            image_std=list(pixels.std),
            rescale_factor=pixels.rescale,
            image_grid_pinpoints=self.model.config.image_grid_pinpoints,
        )
        inputs = processor(Image.fromarray(image), return_tensors="pt")
        [tokens] = self.model.model.get_image_features(inputs["pixel_values"], inputs["image_sizes"])
        seen: Tensor = tokens
        return seen

    @torch.inference_mode()
    def prompt(self, before: Sequence[int], visual: Tensor, after: Sequence[int]) -> Tensor:
        """Embeddings [1, L, d] of ids, visual tokens [T, d] and ids."""
        words = self.model.get_input_embeddings()
        ids = (torch.tensor(part, dtype=torch.long) for part in (before, after))
        first, last = (words(part) for part in ids)
        return torch.cat((first, visual, last))[None]

    @torch.inference_mode()
    def logits(self, embeddings: Tensor, answer: Sequence[int]) -> Tensor:
        """Scores [len(answer) + 1, vocabulary] after the prompt [1, L, d] and after each token of `answer`."""
        words = self.model.get_input_embeddings()(torch.tensor(answer, dtype=torch.long))[None]
        keep = len(answer) + 1
        scores: Tensor = self.model(
            inputs_embeds=torch.cat((embeddings, words), 1), use_cache=False, logits_to_keep=keep
        ).logits
        return scores[0]

    @torch.inference_mode()
    def greedy(self, embeddings: Tensor, most: int, stop: Sequence[int]) -> list[int]:
        """The likeliest tokens after a prompt [1, L, d], at most `most`, without the one of `stop` that ends them."""
        out = self.model.generate(
            inputs_embeds=embeddings,
            attention_mask=torch.ones(embeddings.shape[:2], dtype=torch.long),
            max_new_tokens=most,
            do_sample=False,
            num_beams=1,
            repetition_penalty=1.0,
            eos_token_id=list(stop),
            pad_token_id=stop[0],
        )
        ids: list[int] = out[0].tolist()
        return ids[:-1] if ids and ids[-1] in stop else ids

    @property
    def _newline(self) -> Tensor:
        newline: Tensor = self.model.model.image_newline
        return newline


def load_reference(folder: CheckpointFolder, sizes: CheckpointSizes) -> Reference:
    """The checkpoint in transformers: Hugging Face's layouts by its own loader, LLaVA-NeXT's by ours.

    Raises:
        TamEdgeError: this transformers cannot be trusted, or cannot load the checkpoint.
    """
    check_version(transformers.__version__)
    if sizes.config.vision.experts > 1 and any(".mlp.experts." in key for key in folder.tensors):
        raise TamEdgeError("transformers has no mixture of experts in its image encoder: nothing to compare with")
    if sizes.config.projector.order != "project-then-pool":
        raise TamEdgeError("transformers always projects before it pools: nothing to compare pool-then-project with")
    # transformers 4.57 cannot read what 5.x may write, without `vision_model.`; that is assembled here too.
    if sizes.layout == "hugging-face" and any("vision_model." in stored.name for stored in folder.tensors.values()):
        with _quiet():
            model, found = LlavaOnevisionForConditionalGeneration.from_pretrained(
                folder.path, local_files_only=True, use_safetensors=True, dtype=torch.float32, output_loading_info=True
            )
        # LlavaOnevision has a closing norm that no feature passes; some files leave it out.
        missing = [key for key in found["missing_keys"] if not _unused(key)]
        if missing or found["mismatched_keys"]:
            raise TamEdgeError(f"transformers finds no {(missing or found['mismatched_keys'])[0]} in {folder.path}")
        return Reference(model.eval())
    return Reference(_assembled(folder, sizes))


def check_version(version: str) -> None:
    """Refuse a transformers that takes SigLIP's features in another place.

    Raises:
        TamEdgeError: it is older than 4.57.2.
    """
    if tuple(int(number) for number in re.findall(r"\d+", version)[:3]) < LEAST_VERSION:
        least = ".".join(map(str, LEAST_VERSION))
        raise TamEdgeError(f"transformers {version} is too old to compare with: install {least} or later")


def _assembled(folder: CheckpointFolder, sizes: CheckpointSizes) -> LlavaOnevisionForConditionalGeneration:
    """LLaVA-NeXT's own class is in no library; the same layers are in LlavaOnevision."""
    vision, text = sizes.config.vision, sizes.config.language
    config = LlavaOnevisionConfig(
        SiglipVisionConfig(
            hidden_size=vision.width,
            intermediate_size=vision.mlp_width,
            num_hidden_layers=vision.layers,
            num_attention_heads=vision.heads,
            image_size=vision.image_px,
            patch_size=vision.patch_px,
            layer_norm_eps=vision.layer_norm_eps,
            vision_use_head=False,
        ),
        Qwen2Config(
            vocab_size=text.vocab_size,
            hidden_size=text.width,
            intermediate_size=text.ffn_width,
            num_hidden_layers=text.layers,
            num_attention_heads=text.heads,
            num_key_value_heads=text.kv_heads,
            rope_theta=text.rope_theta,
            rms_norm_eps=text.rms_norm_eps,
            max_position_embeddings=text.context,
            tie_word_embeddings=text.tied,
        ),
        image_grid_pinpoints=[list(pair) for pair in sizes.resolutions] or None,
        vision_aspect_ratio=f"anyres_max_{sizes.max_tiles}",
        tie_word_embeddings=text.tied,
    )
    model = LlavaOnevisionForConditionalGeneration(config)
    wanted: dict[str, Any] = dict(model.state_dict())
    with torch.no_grad():
        for name, values in wanted.items():
            if not _unused(name) and not (text.tied and name == "lm_head.weight"):
                values.copy_(folder.read(_ours(name)))
    model.eval()
    return model


def _ours(name: str) -> str:
    """Our name of a tensor of LlavaOnevision, spelled out here and not read from keys.py, which is to be checked."""
    for theirs, ours in (
        ("model.vision_tower.vision_model.embeddings.", "vision."),
        ("model.vision_tower.vision_model.encoder.", "vision."),
        ("model.multi_modal_projector.", "projector."),
        ("model.language_model.", "language."),
        ("model.image_newline", "newline"),
        ("lm_head.", "language.lm_head."),
    ):
        if name.startswith(theirs):
            return ours + name.removeprefix(theirs)
    raise TamEdgeError(f"this transformers has a tensor {name} that nothing is known about")


@contextmanager
def _quiet() -> Iterator[None]:
    """transformers draws its own bars and warns of a closing norm that is missing and not used."""
    level, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(level)
        if bars:
            transformers_logging.enable_progress_bar()


def _unused(name: str) -> bool:
    return "post_layernorm" in name or "vision_model.head." in name
