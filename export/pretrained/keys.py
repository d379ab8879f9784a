"""Key names of a checkpoint, whichever of its four public layouts it is in, to one name each.

A: LLaVA-NeXT's own files; B: Hugging Face's files, and its modules before 4.52; C: its modules since; D: those of 5.x,
without `vision_model.`. One name is what `tam_edge.models` calls the tensor, behind `vision.`, `projector.` or
`language.`; the line break is `newline`. A mixture is stored as `...layers.i.experts.e.fc1` and `...layers.i.gate`,
projectors of several grids as `...experts.e.linear_1`.
"""

from __future__ import annotations

import re

_IGNORED = re.compile(
    r"(^|\.)(inv_freq|position_ids|faster_token)$|(^|\.)vision_resampler\.|^vision\.(post_layernorm|head)\."
)
_VISION = re.compile(r"^vision_tower\.(?:vision_tower\.)?(?:vision_model\.)?(?P<rest>.+)$")
_VISION_BLOCK = re.compile(r"^encoder\.(?P<layer>layers\.\d+\.)(?:mlp\.)?(?P<moe>experts\.|gate\.)(?P<rest>.+)$")
_PROJECTOR = re.compile(r"^(?:multi_modal_projector|mm_projector)\.(?P<rest>.+)$")
_LANGUAGE = re.compile(r"^(?:language_model\.(?:model\.)?)?(?P<rest>(?:embed_tokens|layers|norm|lm_head)\..+)$")
_ORIGINAL_LAYERS = {"0.": "linear_1.", "2.": "linear_2."}


def canonical_key(key: str) -> str | None:
    """The one name of a stored tensor.

    Returns:
        `vision.`, `projector.` or `language.` and the module's own name, or `newline`; None for what is never used
        (rotary tables, the encoder's closing norm and head, resamplers). A key of none of the layouts comes back as
        `unknown.` and the key, so that it can be refused by its name.
    """
    bare = key.removeprefix("model.")
    name = _named(bare)
    if _IGNORED.search(name) or _IGNORED.search(bare):
        return None
    return name


def _named(bare: str) -> str:
    if bare == "image_newline":
        return "newline"
    if found := _VISION.match(bare):
        return "vision." + _vision(found["rest"])
    if found := _PROJECTOR.match(bare):
        return "projector." + _projector(found["rest"])
    if found := _LANGUAGE.match(bare):
        return "language." + found["rest"]
    return f"unknown.{bare}"


def _vision(rest: str) -> str:
    if found := _VISION_BLOCK.match(rest):
        return f"{found['layer']}mlp.{found['moe']}{found['rest']}"
    return rest.removeprefix("embeddings.").removeprefix("encoder.")


def _projector(rest: str) -> str:
    return _ORIGINAL_LAYERS.get(rest[:2], rest[:2]) + rest[2:]
