"""Sections of config.json -> sizes of the image encoder and of the language model, as transformers would read them.

LLaVA-NeXT only names its image encoder, so SigLIP's published sizes stand here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from tam_edge.export.pretrained.config import Section
from tam_edge.export.pretrained.folder import CheckpointFolder
from tam_edge.models.config import LanguageConfig, VisionConfig

MOST_LAYERS = 1000
"""No published model has as many blocks."""
MAX_CONTEXT = 21000
"""TAM's context; a longer one would only cost memory."""
EXPERTS_PER_TOKEN = 2
"""Experts that compute a token, in TAM."""


@dataclass(frozen=True, slots=True)
class SiglipTower:
    """Sizes of a published SigLIP encoder that a LLaVA-NeXT config only names."""

    layers: int
    """Blocks before LLaVA drops the last one."""
    heads: int
    """Attention heads."""


SIGLIP_TOWERS = {"so400m": SiglipTower(27, 16), "large": SiglipTower(24, 16), "base": SiglipTower(12, 12)}


def vision_sizes(about: Section, layers: int, experts: int) -> tuple[VisionConfig, tuple[str, ...]]:
    """The image encoder whose first `layers` blocks are used, and what is done otherwise than `about` says.

    Where a size is not written, SiglipVisionConfig's own default holds. `experts` is how many are stored in a block.

    Raises:
        CheckpointError: sizes that are none, or do not fit together.
    """
    about.only("hidden_act", "gelu_pytorch_tanh")
    if layers < 1:
        raise about.error("config.json: num_hidden_layers leaves the image encoder without a block")
    width, heads = about.size("hidden_size", 768), about.size("num_attention_heads", 12)
    notes: tuple[str, ...] = ()
    if width % heads and width == 1152:  # files written before transformers 4.54 may say 14 heads; so400m has 16
        notes = (f"The image encoder has 16 heads; config.json says {heads}, which do not divide 1152.",)
        heads = 16
    try:
        sizes = VisionConfig(
            image_px=about.size("image_size", 224),
            patch_px=about.size("patch_size", 16),
            width=width,
            layers=layers,
            heads=heads,
            mlp_width=about.size("intermediate_size", 3072),
            experts=max(1, experts),
            experts_per_token=min(EXPERTS_PER_TOKEN, max(1, experts)),
            layer_norm_eps=about.number("layer_norm_eps", 1e-6),
        )
    except ValueError as error:
        raise about.error(f"vision_config: {error}") from error
    return sizes, notes


def language_sizes(text: Section) -> LanguageConfig:
    """The language model. Where a size is not written, Qwen2Config's own default holds.

    Raises:
        CheckpointError: another model than Qwen2, or sizes that do not fit together.
    """
    text.only("hidden_act", "silu")
    if text.get("model_type", "qwen2") not in ("qwen2", "llava", "llava_qwen", "llava_qwen2"):
        raise text.error(f"its language model is {text.get('model_type')}: qwen2 is what can be imported")
    _refuse_scaling(text)
    if text.get("use_sliding_window"):
        raise text.error("use_sliding_window is not supported: take the checkpoint without it")
    trained = "tokenizer_model_max_length" if text.get("tokenizer_model_max_length") else "max_position_embeddings"
    try:
        return LanguageConfig(
            vocab_size=text.size("vocab_size", 151936),
            width=text.size("hidden_size", 4096),
            layers=text.size("num_hidden_layers", 32, MOST_LAYERS),
            heads=text.size("num_attention_heads", 32),
            kv_heads=text.size("num_key_value_heads", 32),
            ffn_width=text.size("intermediate_size", 22016),
            rope_theta=text.either("rope_parameters").number("rope_theta", 10000.0),
            tied=bool(text.get("tie_word_embeddings", False)),
            context=min(MAX_CONTEXT, text.size(trained, 32768)),
            rms_norm_eps=text.number("rms_norm_eps", 1e-6),
        )
    except ValueError as error:
        raise text.error(f"the language model's sizes: {error}") from error


def tower(config: Section, folder: CheckpointFolder) -> tuple[Section, int]:
    """The image encoder of a LLaVA-NeXT config, its own vision_config if there is one, else the published sizes of the
    one it names; and how many blocks are used.

    Raises:
        CheckpointError: an encoder that is no SigLIP.
    """
    if config.get("vision_config"):
        own = config.section("vision_config")
        return own, own.size("num_hidden_layers", most=MOST_LAYERS) - 1
    name = str(config.get("mm_vision_tower"))
    found = re.search(r"siglip-(so400m|large|base)-patch(\d{1,3})-(\d{1,4})", name)
    if found is None:
        raise config.error(f"mm_vision_tower is {name!r}: SigLIP encoders such as siglip-so400m-patch14-384 are known")
    published = SIGLIP_TOWERS[found[1]]
    stored = folder.stored("vision.layers.0.mlp.fc1.weight")
    if len(stored.shape) != 2:
        raise config.error(f"{stored.name} has shape {list(stored.shape)}, not two axes")
    about = config.with_sizes(
        hidden_size=stored.shape[1],
        intermediate_size=stored.shape[0],
        patch_size=int(found[2]),
        image_size=int(found[3]),
        num_attention_heads=published.heads,
    )
    return about, published.layers - 1


def _refuse_scaling(text: Section) -> None:
    """Rotary angles that are stretched are none of Qwen2's; transformers 5 writes them as rope_parameters."""
    for field in ("rope_scaling", "rope_parameters"):
        if text.get(field) is None:
            continue
        scaling = text.section(field)
        if scaling.get("rope_type", scaling.get("type", "default")) != "default":
            raise text.error(f"{field} is not supported: take the checkpoint without it")
