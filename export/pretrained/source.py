"""A checkpoint that is to become a bundle and what may be chosen about that: refused here, before a weight is read."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer

from tam_edge.export.language import Precision
from tam_edge.export.pretrained.folder import CheckpointError, CheckpointFolder, open_checkpoint
from tam_edge.export.pretrained.processing import Chat, read_chat, read_preprocessing, read_tokenizer
from tam_edge.export.pretrained.rules import least_context
from tam_edge.export.pretrained.sizes import CheckpointSizes, Newline, read_sizes, upcycled
from tam_edge.export.pretrained.weights import check_tensors
from tam_edge.runtime.errors import UsageError
from tam_edge.runtime.manifest import ImagePreprocessing

_BYTES: dict[Precision, float] = {"f32": 4, "f16": 2, "bf16": 2, "Q8_0": 34 / 32}
"""Of a number in each format of the language model."""


@dataclass(frozen=True, slots=True)
class ImportOptions:
    """What a person may choose about an import."""

    inductor: Path | None = None
    """Where the Inductor comes from; None: the installed bundle."""
    grids: tuple[int, ...] | None = None
    """Ladder, largest first; None: TAM's, which is 27, 18, 14, 11 for 27 patches a side."""
    upcycle: bool = False
    """Whether every block of a dense image encoder becomes a mixture of experts that computes the same."""
    newline: Newline | None = None
    """Line breaks of a video; None: the checkpoint's."""
    precision: Precision = "f16"
    """Number format of the language model's matrices."""


AS_IT_IS = ImportOptions()
"""Nothing is chosen."""


@dataclass(frozen=True, slots=True)
class Source:
    """A checkpoint that was found to be whole, before a weight is read."""

    folder: CheckpointFolder
    """The folder."""
    sizes: CheckpointSizes
    """Its sizes, experts by upcycling included."""
    preprocessing: ImagePreprocessing
    """How pixels become input."""
    tokenizer: str
    """Its `tokenizers` file."""
    chat: Chat
    """The text around visual tokens."""


def read_source(checkpoint: Path, options: ImportOptions) -> Source:
    """Everything about a checkpoint but its weights.

    Raises:
        CheckpointError: something is missing or does not fit.
        UsageError: an option does not fit the checkpoint.
    """
    folder = open_checkpoint(checkpoint)
    sizes = read_sizes(folder, options.grids, options.newline)
    check_tensors(folder, sizes.config)
    if options.upcycle:
        if sizes.config.vision.experts > 1:
            raise UsageError(f"{checkpoint} has experts already: leave out --upcycle")
        sizes = upcycled(sizes)
    if (least := least_context(sizes)) > sizes.config.language.context:
        raise CheckpointError(
            folder.path, f"a context of {sizes.config.language.context} tokens is too short: {least} are needed"
        )
    text = read_tokenizer(folder)
    tokenizer: Tokenizer = Tokenizer.from_str(text)
    return Source(folder, sizes, read_preprocessing(folder, sizes), text, read_chat(folder, sizes, tokenizer))


def needed_bytes(source: Source, precision: Precision) -> int:
    """Disk that the bundle of a checkpoint takes, in about: graphs in float32, a projector for every grid."""
    grids, experts = len(source.sizes.config.projector.grids), source.sizes.config.vision.experts
    stored_experts = any(".mlp.experts." in key for key in source.folder.tensors)
    total = 0.0
    for key, stored in source.folder.tensors.items():
        each: float = 4
        if key.startswith("language."):
            each = _BYTES[precision]
        elif key.startswith("projector."):
            each = 4 * (grids + 1)
        elif ".mlp." in key and not stored_experts:
            each = 4 * experts
        total += each * math.prod(stored.shape)
    return int(total)
