"""Facts of the bundle that ships: those of its training, and what it is honest about."""

from __future__ import annotations

from tam_edge.export.facts import BundleFacts
from tam_edge.models.recipe.nano import MAX_OUTPUT_TOKENS, PREPROCESSING, PROMPT, ROUTING, STOP

NANO_FACTS = BundleFacts(
    name="tallva-nano",
    version="1",
    license="Apache-2.0",
    description=(
        "TallVA at nano size, trained from scratch on a synthetic street camera. It knows that camera's people, cars, "
        "dogs, signs, light and weather; about real footage its words may be wrong."
    ),
    encoder="siglip",
    preprocessing=PREPROCESSING,
    prompt=PROMPT,
    routing=ROUTING,
    stop=STOP,
    max_output_tokens=MAX_OUTPUT_TOKENS,
)
"""Facts of `models/tallva-nano`."""
