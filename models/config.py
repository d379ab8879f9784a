"""Sizes of TallVA: one set of classes describes SigLIP-so400m with Qwen2-7B and the nano model alike.

Every number a module needs comes from here, so a checkpoint is its weights and one JSON file of these fields.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any, Literal


@dataclass(frozen=True, slots=True)
class VisionConfig:
    """Sizes of the SigLIP-style image encoder."""

    image_px: int
    """Side of the square input image, pixels."""
    patch_px: int
    """Side of one patch, pixels; what is left over at the right and bottom edge is not seen."""
    width: int
    """Channels of a patch feature, D."""
    layers: int
    """Number of transformer blocks."""
    heads: int
    """Attention heads; divides `width`."""
    mlp_width: int
    """Hidden channels of one MLP (of one expert)."""
    experts: int = 4
    """MLP experts per block; 1 is the dense encoder without a gate."""
    experts_per_token: int = 2
    """Experts that compute a token (top-k); 1 <= k <= `experts` where `experts` > 1."""
    layer_norm_eps: float = 1e-6
    """Epsilon of every LayerNorm."""
    post_norm: bool = False
    """Whether a LayerNorm closes the encoder; SigLIP's feature is taken before it."""

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise ValueError(f"width ({self.width}) must be a multiple of heads ({self.heads})")
        if self.experts > 1 and not 1 <= self.experts_per_token <= self.experts:
            raise ValueError(f"experts_per_token ({self.experts_per_token}) must lie in 1..experts ({self.experts})")

    @property
    def grid_side(self) -> int:
        """Patches per image side, S."""
        return self.image_px // self.patch_px


@dataclass(frozen=True, slots=True)
class PositionConfig:
    """Sizes of the MLP that tells each visual token its place and time."""

    bands: int
    """Fourier frequencies pi * 2**k per coordinate, k = 0..bands-1."""
    hidden: int
    """Hidden channels of the MLP."""


@dataclass(frozen=True, slots=True)
class ProjectorConfig:
    """Grid ladder and sizes of the projector experts, one two-layer MLP per grid."""

    grids: tuple[int, ...]
    """Tokens per side after pooling, largest first; grid i uses expert i + 1."""
    input_width: int
    """Channels of a patch feature, D."""
    output_width: int
    """Channels of a visual token, d; also the hidden width of the MLP, as in LLaVA."""
    order: Literal["pool-then-project", "project-then-pool"]
    """The two do not commute: TAM's text pools first, LLaVA's checkpoints project first."""
    position: PositionConfig | None = None
    """Embedding of (x, y, t/T) added to each visual token; None leaves tokens unmarked."""
    change: bool = False
    """Whether each visual token also tells how its place differs from the same one in the frame before."""


@dataclass(frozen=True, slots=True)
class LanguageConfig:
    """Sizes of the Qwen2-style decoder."""

    vocab_size: int
    """Rows of the embedding table."""
    width: int
    """Channels of a hidden state, d."""
    layers: int
    """Number of decoder blocks."""
    heads: int
    """Query heads; divides `width`."""
    kv_heads: int
    """Key and value heads; divides `heads`."""
    ffn_width: int
    """Hidden channels of the SwiGLU MLP."""
    rope_theta: float
    """Base of the rotary frequencies."""
    tied: bool
    """Whether the output head is the embedding table."""
    context: int
    """Longest sequence, tokens."""
    rms_norm_eps: float = 1e-6
    """Epsilon of every RMSNorm."""

    def __post_init__(self) -> None:
        if self.width % self.heads or self.heads % self.kv_heads:
            raise ValueError(f"heads ({self.heads}) must divide width and be a multiple of kv_heads ({self.kv_heads})")

    @property
    def head_width(self) -> int:
        """Channels of one head."""
        return self.width // self.heads


@dataclass(frozen=True, slots=True)
class TallVAConfig:
    """Sizes of the whole model."""

    vision: VisionConfig
    """Image encoder."""
    projector: ProjectorConfig
    """Grid ladder and projector experts."""
    language: LanguageConfig
    """Decoder."""

    def __post_init__(self) -> None:
        if self.projector.input_width != self.vision.width:
            raise ValueError("projector.input_width must equal vision.width")
        if self.projector.output_width != self.language.width:
            raise ValueError("projector.output_width must equal language.width")
        if max(self.projector.grids) > self.vision.grid_side:
            raise ValueError("no grid may be larger than vision.grid_side")

    def to_json(self) -> str:
        """The fields as a JSON object, one per section."""
        return json.dumps(asdict(self), indent=2)

    @staticmethod
    def from_json(text: str) -> TallVAConfig:
        """Read what `to_json` wrote.

        Raises:
            KeyError: a section is missing.
            TypeError: a field is missing or unknown.
            ValueError: sizes that do not fit together, or no JSON.
        """
        data: dict[str, Any] = json.loads(text)
        projector = dict(data["projector"], grids=tuple(data["projector"]["grids"]))
        if projector.get("position") is not None:
            projector["position"] = PositionConfig(**projector["position"])
        return TallVAConfig(
            vision=VisionConfig(**data["vision"]),
            projector=ProjectorConfig(**projector),
            language=LanguageConfig(**data["language"]),
        )


NANO = TallVAConfig(
    vision=VisionConfig(image_px=168, patch_px=14, width=128, layers=4, heads=4, mlp_width=512, post_norm=True),
    projector=ProjectorConfig(
        grids=(12, 8, 6, 5),
        input_width=128,
        output_width=256,
        order="pool-then-project",
        position=PositionConfig(bands=8, hidden=256),
        change=True,
    ),
    language=LanguageConfig(
        vocab_size=1200,
        width=256,
        layers=5,
        heads=4,
        kv_heads=2,
        ffn_width=512,
        rope_theta=1e8,  # slow enough that a word finds a patch by content 600 tokens away; places are told otherwise
        tied=True,
        context=2048,
    ),
)
"""The model that ships; the trainer replaces `language.vocab_size` by its tokenizer's."""

FULL = TallVAConfig(
    # 26 of so400m's 27 blocks: the feature is the input of the last one, which is dropped.
    vision=VisionConfig(image_px=384, patch_px=14, width=1152, layers=26, heads=16, mlp_width=4304),
    projector=ProjectorConfig(grids=(27, 18, 14, 11), input_width=1152, output_width=3584, order="project-then-pool"),
    language=LanguageConfig(
        vocab_size=152064,
        width=3584,
        layers=28,
        heads=28,
        kv_heads=4,
        ffn_width=18944,
        rope_theta=1000000.0,
        tied=False,
        context=32768,
    ),
)
"""TAM's own sizes: SigLIP-so400m-patch14-384 with experts in every block, Qwen2-7B."""
