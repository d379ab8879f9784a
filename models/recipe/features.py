"""Films the training scenes once and keeps what the frozen eye sees, so that the language model trains without it.

RUN/features/NNNN.safetensors holds the views of SCENES_PER_SHARD scenes: patch features already pooled to the view's
grid, float16, under "<seed>/<row>". A shard that exists is not made again.
"""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from tam_edge.models.config import VisionConfig
from tam_edge.models.projector import pool
from tam_edge.models.recipe.accelerator import mixed_precision, training_device
from tam_edge.models.recipe.eye import load_eye, roughen
from tam_edge.models.recipe.nano import ENCODER, ROUTING
from tam_edge.models.recipe.parallel import my_share, wait_for_all
from tam_edge.models.recipe.views import GROUPS, View, clip_view, still_view, whole_view
from tam_edge.models.street.render import render
from tam_edge.models.street.world import make_scene
from tam_edge.models.vision import VisionTransformer
from tam_edge.runtime.vision import preprocess

SCENES_PER_SHARD = 50
SHARDS = 40
ROWS = (*GROUPS, "still")
FIXED, FIXED_GROUP = "fixed", GROUPS[1]
"""The row of one pipeline for all tasks: the balanced row's frames, asked everything. It is filmed with that row."""


def view_of(seed: int, row: str, again: int = 0) -> View:
    """The view that a key of the store names; `again` > 0 words its questions anew."""
    scene = make_scene(seed)
    if row == "still":
        moment = random.Random(f"still-{seed}").random() * scene.duration_seconds
        return still_view(scene, moment, ROUTING.ladder[0].grid, again)
    if row == FIXED:
        return whole_view(scene, FIXED_GROUP, again)
    group = next(group for group in GROUPS if group == row)
    return clip_view(scene, group, again=again)


def view_pixels(view: View, row: str) -> Tensor:
    """The view's frames as the encoder is served them, [N, 3, px, px]; one clip has one lens, codec and mount."""
    frames = [roughen(render(view.scene, t), random.Random(f"camera-{view.scene.seed}-{row}")) for t in view.times]
    return torch.from_numpy(preprocess(np.stack(frames), ENCODER))


@torch.no_grad()
def encode_view(vision: VisionTransformer, view: View, row: str, device: torch.device) -> Tensor:
    """Pooled patch features of a view: [N, grid*grid, D] float16 on the CPU."""
    with mixed_precision(device):
        features = vision(view_pixels(view, row).to(device)).features.float()
    return pool(features, view.grid).half().cpu().contiguous()


def film(run: Path, config: VisionConfig, *, shards: int = SHARDS, first_seed: int = 0) -> None:
    """Make every missing one of `shards` shards from a scene on, with the run's eye; processes take them in turn."""
    device = training_device()
    vision, _ = load_eye(run, config)
    vision.to(device)
    film_views(run, lambda view, row: encode_view(vision, view, row, device), shards, first_seed)


def film_views(run: Path, seen: Callable[[View, str], Tensor], shards: int, first_seed: int = 0) -> None:
    """Keep what is `seen` in the views of every missing one of `shards` shards, from the scene `first_seed` on."""
    folder = run / "features"
    folder.mkdir(parents=True, exist_ok=True)
    began, made = time.monotonic(), 0
    first = first_seed // SCENES_PER_SHARD
    for shard in (first + index for index in my_share(shards)):
        path = folder / f"{shard:04d}.safetensors"
        if path.exists():
            continue
        tensors = dict(_film_shard(seen, shard))
        save_file(tensors, path.with_suffix(".partial"))
        path.with_suffix(".partial").replace(path)
        made += 1
        minutes = (time.monotonic() - began) / 60
        print(
            f"features: shard {shard}, the last is {first + shards - 1}, {minutes / made:.2f} min each",
            file=sys.stderr,
            flush=True,
        )
    wait_for_all()


def _film_shard(seen: Callable[[View, str], Tensor], shard: int) -> Iterator[tuple[str, Tensor]]:
    for seed in range(shard * SCENES_PER_SHARD, (shard + 1) * SCENES_PER_SHARD):
        for row in ROWS:
            view = view_of(seed, row)
            if view.asked:
                yield f"{seed}/{row}", seen(view, row)


class Store:
    """Every filmed view, read from disk when it is asked for."""

    def __init__(self, run: Path) -> None:
        self._files = [safe_open(path, "pt") for path in sorted((run / "features").glob("*.safetensors"))]
        self.keys = [(index, key) for index, file in enumerate(self._files) for key in file.keys()]  # noqa: SIM118

    def by_row(self, row: str) -> list[tuple[int, str]]:
        """The keys of one row."""
        if row == FIXED:
            return [(index, key.replace(FIXED_GROUP, FIXED)) for index, key in self.by_row(FIXED_GROUP)]
        return [(index, key) for index, key in self.keys if key.endswith(f"/{row}")]

    def load(self, key: tuple[int, str], again: int = 0) -> tuple[View, Tensor]:
        """A view and what was seen in it, float32: pooled features [N, grid*grid, D] where `film` kept them."""
        seed, row = key[1].split("/")
        return view_of(int(seed), row, again), self._files[key[0]].get_tensor(
            key[1].replace(FIXED, FIXED_GROUP)
        ).float()
