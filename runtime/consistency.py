"""What the parts of a manifest must agree on: each disagreement is named by its field, before any engine is opened."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from typing import get_args

from tam_edge.runtime.manifest import Manifest
from tam_edge.runtime.routing import Group, Routing

Problem = tuple[str, str]
"""Dotted field name and what is wrong with it."""


def problems(manifest: Manifest) -> Iterator[Problem]:
    """Every disagreement within `manifest`; none in a bundle that tells the truth about itself."""
    yield from _ladder(manifest.routing)
    yield from _grids(manifest.routing)
    yield from _tasks(manifest)
    yield from _encoders(manifest)
    yield from _strategies(manifest)
    yield from _projectors(manifest)
    yield from _closing(manifest)
    yield from _images(manifest)
    yield from _context(manifest)


def _ladder(routing: Routing) -> Iterator[Problem]:
    for above, below in pairwise(routing.ladder):
        if below.grid >= above.grid or below.tokens_per_frame >= above.tokens_per_frame:
            yield "routing.ladder", f"grid {below.grid} must be smaller and cheaper than grid {above.grid} before it"
    for rung in routing.ladder:
        if rung.tokens_per_frame < rung.grid**2:
            yield "routing.ladder", f"a frame at grid {rung.grid} is at least {rung.grid**2} tokens"


def _grids(routing: Routing) -> Iterator[Problem]:
    known = {rung.grid for rung in routing.ladder}
    for field in ("balanced_grid", "high_grid_short", "high_grid_long", "more_grid"):
        if (grid := getattr(routing, field)) not in known:
            yield f"routing.{field}", f"grid {grid} is not on the ladder {sorted(known, reverse=True)}"


def _tasks(manifest: Manifest) -> Iterator[Problem]:
    rules = Counter(rule.name for rule in manifest.routing.tasks)
    labels = Counter(manifest.inductor.tasks)
    for field, names in (("routing.tasks", rules), ("inductor.tasks", labels)):
        for name, count in names.items():
            if count > 1:
                yield field, f"{name!r} is there {count} times"
    for name in labels.keys() - rules.keys():
        yield "routing.tasks", f"no rule for the Inductor's task {name!r}"
    for name in rules.keys() - labels.keys():
        yield "inductor.tasks", f"the rule {name!r} is not among the Inductor's tasks"
    for group in get_args(Group):
        if group not in manifest.routing.phrases:
            yield "routing.phrases", f"no words for the row {group!r}"


def _encoders(manifest: Manifest) -> Iterator[Problem]:
    for name, encoder in manifest.encoders.items():
        side = encoder.image_px // encoder.patch_px
        if encoder.output == "patch_features" and encoder.grid_side != side:
            yield f"encoders.{name}.grid_side", f"{encoder.image_px} px in patches of {encoder.patch_px} px are {side}"


def _strategies(manifest: Manifest) -> Iterator[Problem]:
    for name, count in Counter(strategy.name for strategy in manifest.strategies).items():
        if count > 1:
            yield "strategies", f"{name!r} is there {count} times"
    for index, strategy in enumerate(manifest.strategies):
        for name in strategy.encoders:
            if name not in manifest.encoders:
                yield f"strategies.{index}.encoders", f"there is no encoder {name!r}"


def _projectors(manifest: Manifest) -> Iterator[Problem]:
    finest = max(encoder.grid_side for encoder in manifest.encoders.values())
    for rung in manifest.routing.ladder:
        field = f"projectors.{rung.grid}"
        if rung.grid > finest:
            yield "routing.ladder", f"grid {rung.grid} is finer than any encoder's {finest}"
        if rung.grid not in manifest.projectors:
            yield field, f"grid {rung.grid} is on the ladder and has no projector"
        elif (expert := manifest.projectors[rung.grid].expert) != rung.expert:
            yield f"{field}.expert", f"is {expert}, the ladder says {rung.expert}"


def _closing(manifest: Manifest) -> Iterator[Problem]:
    needed = 4 * manifest.language.embedding_width
    if manifest.closing is not None and manifest.closing.size_bytes != needed:
        yield "closing.size_bytes", f"is {manifest.closing.size_bytes}; an embedding of the language model is {needed}"


def _images(manifest: Manifest) -> Iterator[Problem]:
    images = manifest.images
    if images is None:
        return
    if images.encoder not in manifest.encoders:
        yield "images.encoder", f"there is no encoder {images.encoder!r}"
        return
    if images.newline is not None and images.newline.size_bytes != 4 * manifest.language.embedding_width:
        yield "images.newline.size_bytes", f"is {images.newline.size_bytes}; an embedding is of another size"
    tile = manifest.encoders[images.encoder].image_px
    if any(side % tile for pair in images.resolutions_px for side in pair):
        yield "images.resolutions_px", f"heights and widths must be multiples of the encoder's {tile} px"


def _context(manifest: Manifest) -> Iterator[Problem]:
    smallest = manifest.routing.ladder[-1].tokens_per_frame + manifest.closing_tokens
    room = manifest.context_visual_tokens
    if room < smallest:
        yield "language.context", f"leaves room for {room} visual tokens, one frame is at least {smallest}"
