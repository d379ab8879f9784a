"""What a bundle says that no weight file knows: its name, its words and its rules."""

from __future__ import annotations

from dataclasses import dataclass

from tam_edge.runtime.manifest import ImagePreprocessing, PromptTexts
from tam_edge.runtime.routing import Routing


@dataclass(frozen=True, slots=True)
class BundleFacts:
    """The part of a manifest that a person writes; files, sizes and figures are filled in by the export."""

    name: str
    """Name of the bundle."""
    version: str
    """Version of the bundle."""
    license: str
    """License of the weights, SPDX."""
    description: str
    """What the model knows and does not know, in a sentence or two."""
    encoder: str
    """Name of the image encoder."""
    preprocessing: ImagePreprocessing
    """How pixels become the encoder's input."""
    prompt: PromptTexts
    """Text around the visual tokens."""
    routing: Routing
    """Task type and duration -> frames and grid; the confidence threshold comes from the Inductor's own measurement."""
    stop: str
    """Token that ends an answer."""
    max_output_tokens: int
    """Tokens kept free for the answer."""
