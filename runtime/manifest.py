"""What a bundle says about itself: the models behind ``manifest.json``.

The runtime knows no model names. Every width, file, prompt and rule it needs is a field here, so a bundle made from
other weights, another grid ladder or a ninth task type runs without a line of code. Loading a bundle and checking what
it says is in `bundle.py`.
"""

from __future__ import annotations

import string
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, PositiveFloat, PositiveInt

from tam_edge.runtime.routing import Routing
from tam_edge.runtime.schema import Engines, Entry, FileSpec, Name, named_files

SCHEMA_VERSION: Literal[1] = 1


def _check_fields(template: str, values: dict[str, str | int | float]) -> str:
    """Accept only plain ``{name}`` or ``{name:.2f}`` fields: a template is data, it must not reach into objects."""
    for _, name, spec, conversion in string.Formatter().parse(template):
        if name is None:
            continue
        if name not in values:
            raise ValueError(f"unknown field {{{name}}}; known are {', '.join(values)}")
        if conversion is not None or spec not in {"", "d", ".0f", ".1f", ".2f", ".3f"}:
            raise ValueError(f"{{{name}}} may be written plain or with one of :d :.0f :.1f :.2f :.3f")
    template.format(**values)
    return template


def _visual_template(template: str) -> str:
    fields = [name for _, name, _, _ in string.Formatter().parse(template)]
    if fields.count("question") != 1 or template.count("{question}") != 1:
        raise ValueError("{question} must be there exactly once")
    return _check_fields(template, {"metadata": "", "instruction": "", "question": ""})


def _metadata_template(template: str) -> str:
    return _check_fields(template, {"frames": 1, "duration_seconds": 1.5, "interval_seconds": 0.5})


def _instruction_template(template: str) -> str:
    return _check_fields(template, {"task_name": "", "phrase": ""})


class ImagePreprocessing(Entry):
    """From uint8 RGB to the numbers an encoder was trained on: (pixel * rescale - mean) / std."""

    resize: Literal["bicubic"] = "bicubic"
    """Resampling filter; the picture is squashed to the square, its aspect ratio is not kept."""
    bars: Literal["keep", "crop"] = "keep"
    """Whether black bars on both sides of the picture are squashed with it, or cut off first."""
    mean: tuple[float, float, float]
    """Mean per channel, RGB, after rescaling."""
    std: tuple[PositiveFloat, PositiveFloat, PositiveFloat]
    """Standard deviation per channel, RGB, after rescaling."""
    rescale: PositiveFloat = 1 / 255
    """Factor on the uint8 values."""


class EncoderSpec(Entry):
    """A named vision encoder: frames [N, 3, image_px, image_px] -> [N, grid_side * grid_side, width]."""

    image_px: PositiveInt
    """Side of the square input in pixels."""
    patch_px: PositiveInt
    """Side of one patch in pixels."""
    grid_side: PositiveInt
    """Patches per side of the output."""
    width: PositiveInt
    """Numbers per patch feature."""
    prefix_tokens: Annotated[int, Field(ge=0)] = 0
    """Tokens before the patches (such as CLS) that are dropped."""
    preprocessing: ImagePreprocessing
    """How pixels become input."""
    output: Literal["patch_features", "visual_tokens"] = "patch_features"
    """visual_tokens where the encoder already holds its projector, as a GGUF mmproj does."""
    engines: Engines
    """Files that hold this encoder, preferred first."""


ProjectorInput = Literal["features", "previous_features", "time_fraction"]


class ProjectorSpec(Entry):
    """Pooling to one grid and its expert in one graph: features [N, S*S, D] -> tokens [N, grid*grid, d]."""

    expert: PositiveInt
    """Number of the projector expert, 1 for the largest grid."""
    inputs: tuple[ProjectorInput, ...] = ("features",)
    """Inputs of the graph; time_fraction is float32 [N], each frame's time over the clip's duration, 0 to 1;
    previous_features those of the frame of the plan before each, for the first frame its own."""
    engines: Engines
    """Files that hold this expert, preferred first."""


class InductorSpec(Entry):
    """The text model that names the task type: input_ids, attention_mask int64 [B, L] -> logits float32 [B, tasks]."""

    engines: Engines
    """Files that hold the classifier, preferred first."""
    tokenizer: FileSpec
    """The checkpoint's own tokenizers file."""
    tasks: Annotated[tuple[Name, ...], Field(min_length=1)]
    """Task name of each logit, in order."""
    max_tokens: Annotated[int, Field(ge=8)]
    """Longest question the classifier reads, in its own tokens; the middle of a longer one is left out."""
    temperature: PositiveFloat = 1.0
    """Logits are divided by this before the softmax (calibration)."""


class LanguageSpec(Entry):
    """The language model and what must hold for visual embeddings to enter it."""

    engines: Engines
    """GGUF files, preferred first."""
    tokenizer: FileSpec
    """The checkpoint's own tokenizers file; token ids never come from the GGUF's copy."""
    embedding_width: PositiveInt
    """Numbers per embedding; the projectors' output has this width."""
    context: PositiveInt
    """Tokens in the context: visual, text and answer together."""
    rope: Literal["1d", "mrope"] = "1d"
    """Position encoding."""
    visual_attention: Literal["causal", "full"] = "causal"
    """Attention among visual tokens."""
    stop: tuple[Name, ...] = ()
    """Texts that end the answer."""
    max_output_tokens: PositiveInt
    """Tokens kept free for the answer."""


class PromptTexts(Entry):
    """Text around the visual tokens. Control tokens written here are control tokens; in a question they are not."""

    system: Annotated[str, Field(max_length=8000)]
    """Everything before the visual tokens; no fields, so the prefix is the same for every question."""
    after_visual: Annotated[str, Field(max_length=8000), AfterValidator(_visual_template)]
    """Everything after them: {metadata}, {instruction} and, once, {question}."""
    metadata: Annotated[str, Field(max_length=2000), AfterValidator(_metadata_template)]
    """What the model is told about the clip: {frames}, {duration_seconds}, {interval_seconds}."""
    instruction: Annotated[str, Field(max_length=2000), AfterValidator(_instruction_template)]
    """What it is told about the task: {task_name} (the title below) and {phrase}."""
    follow_up: Annotated[str, Field(max_length=8000), AfterValidator(_visual_template)] | None = None
    """Everything between an earlier answer and the next, with the same fields as after_visual; null where the language
    model was not trained on earlier turns: each question is then answered by itself."""


class StrategySpec(Entry):
    """One way from patch features to visual tokens that this bundle has the parts for."""

    name: Name
    """Name of the strategy, such as tam."""
    encoders: Annotated[tuple[Name, ...], Field(min_length=1)]
    """Encoders it needs, by name."""
    engines: dict[Name, Engines] = Field(default_factory=dict)
    """Engines of its own, by role."""


class ImagesSpec(Entry):
    """How still images are seen where nothing else is asked about: one whole and in tiles, several each whole."""

    encoder: Name
    """Encoder that sees them."""
    projector: Engines
    """Projector without pooling and line breaks: features [N, S*S, D] -> tokens [N, S*S, d]."""
    newline: FileSpec | None
    """Embedding that ends each row of a tiled image and each whole one, as `closing`; null where none does."""
    resolutions_px: tuple[tuple[PositiveInt, PositiveInt], ...] = ()
    """Heights and widths a single image may be fitted into, multiples of the encoder's input; none: it is not tiled."""
    max_tiles: PositiveInt = 1
    """A tiled image of more tokens than so many tiles is scaled down."""
    prompt: PromptTexts
    """Text around the visual tokens."""
    between: Annotated[str, Field(max_length=200)] = ""
    """Text between two images."""


class Manifest(Entry):
    """Everything a bundle says about itself."""

    schema_version: Literal[1] = SCHEMA_VERSION
    """Version of this format."""
    name: Name
    """Name of the bundle."""
    version: Name
    """Version of the bundle."""
    license: Name
    """License of the weights."""
    description: str
    """What the model knows and does not know, in a sentence or two."""
    created_by: Name
    """Program and version that wrote the bundle."""
    inductor: InductorSpec
    """Question -> task type."""
    encoders: Annotated[dict[Name, EncoderSpec], Field(min_length=1)]
    """Vision encoders by name."""
    projectors: dict[PositiveInt, ProjectorSpec]
    """Projector expert of each grid."""
    closing: FileSpec | None = None
    """One embedding that ends every clip, float32 [embedding_width] as bytes, little-endian; null where none does."""
    images: ImagesSpec | None = None
    """How still images are seen; null: as frames of a video."""
    strategies: Annotated[tuple[StrategySpec, ...], Field(min_length=1)]
    """Strategies, the default first."""
    language: LanguageSpec
    """Visual tokens and text -> answer."""
    prompt: PromptTexts
    """Text around the visual tokens."""
    routing: Routing
    """Task type and duration -> frames and grid."""
    parity: dict[str, float | int | str] = Field(default_factory=dict)
    """How far each exported file is from the module it was made from."""
    training: dict[str, float | int | str] = Field(default_factory=dict)
    """How the weights came to be."""

    @property
    def context_visual_tokens(self) -> int:
        """Visual tokens the context leaves beside text and answer; may be negative in a bundle that lies."""
        left = self.language.context - self.language.max_output_tokens - self.routing.context_reserve_tokens
        most = self.routing.max_visual_tokens
        return left if most is None else min(left, most)

    @property
    def least_visual_tokens(self) -> int:
        """Visual tokens of the smallest plan: one frame at the smallest grid."""
        return min(rung.tokens_per_frame for rung in self.routing.ladder) + self.closing_tokens

    @property
    def closing_tokens(self) -> int:
        """Visual tokens that end a clip, however many frames it has."""
        return 0 if self.closing is None else 1

    def files(self) -> dict[str, FileSpec]:
        """Every file the manifest names, by the dotted name of the field that names it."""
        return named_files(self)


def manifest_schema() -> dict[str, Any]:
    """JSON schema of ``manifest.json``, for editors and other tools that write bundles."""
    return Manifest.model_json_schema()
