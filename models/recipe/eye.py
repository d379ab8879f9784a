"""Pretrains the eye: the dense encoder learns, frame by frame, what every patch of the street shows.

The renderer knows the truth about each patch, so a frame teaches 144 answers at once; the language model would need
days to
find the same out from answers to questions. The linear heads stay with the run: they ground the projectors later.
"""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import torch
from cv2.typing import MatLike
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from tam_edge.models.config import VisionConfig
from tam_edge.models.recipe.accelerator import mixed_precision, training_device
from tam_edge.models.recipe.loop import Stage, run_stage
from tam_edge.models.recipe.nano import ENCODER
from tam_edge.models.recipe.parallel import my_share
from tam_edge.models.street.labels import GROUPS, label_frame
from tam_edge.models.street.render import render
from tam_edge.models.street.world import FIRST_UNSEEN_SEED, make_scene
from tam_edge.models.vision import VisionTransformer
from tam_edge.runtime.vision import preprocess

FRAMES_PER_STEP, PIECES = 16, 2  # two processes take a piece each
GROUP_WEIGHTS = {"character": 2.0, "doing": 2.0, "kind": 1.0, "colour": 1.0, "expression": 0.7, "gaze": 0.7}
OTHER_WEIGHT = 0.5  # place, weather, light, obstacle: easy
EYE = Stage("eye", steps=7000, muon_lr=3e-3, adam_lr=2e-3, warmup_steps=100)
EVALUATION_FRAMES = 192


class DenseHeads(nn.Module):
    """One linear layer that names what a patch shows, group by group."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.sizes = [len(words) + 1 for words in GROUPS.values()]
        self.head = nn.Linear(width, sum(self.sizes))

    def forward(self, features: Tensor) -> list[Tensor]:
        """Features [N, T, D] -> per group logits [N, T, choices + 1]."""
        return list(self.head(features).split(self.sizes, dim=-1))


def dense_loss(logits: list[Tensor], labels: Tensor) -> Tensor:
    """Cross-entropy, patches with and without something weighing the same; labels [N, T, groups] int64."""
    total = torch.zeros((), device=labels.device)
    for index, (group, scores) in enumerate(zip(GROUPS, logits, strict=True)):
        target = labels[..., index].flatten()
        losses = functional.cross_entropy(scores.flatten(0, 1).float(), target, reduction="none")
        shown = (target > 0).float()
        mean_shown = (losses * shown).sum() / shown.sum().clamp(min=1)
        mean_empty = (losses * (1 - shown)).sum() / (1 - shown).sum().clamp(min=1)
        total = total + GROUP_WEIGHTS.get(group, OTHER_WEIGHT) * (mean_shown + mean_empty)
    return total


def frames_of_step(seed: int, step: int, count: int) -> tuple[Tensor, Tensor]:
    """Pixels [N, 3, px, px] as served and labels [N, T, groups], the same for the same seed and step."""
    rng = random.Random(f"eye-{seed}-{step}")
    scenes = [make_scene(rng.randrange(FIRST_UNSEEN_SEED)) for _ in range(count)]
    times = [rng.random() * scene.duration_seconds for scene in scenes]
    frames = np.stack([roughen(render(scene, t), rng) for scene, t in zip(scenes, times, strict=True)])
    labels = np.stack([label_frame(scene, t) for scene, t in zip(scenes, times, strict=True)])
    return torch.from_numpy(preprocess(frames, ENCODER)), torch.from_numpy(labels.astype(np.int64))


def roughen(frame: NDArray[np.uint8], rng: random.Random) -> NDArray[np.uint8]:
    """What lenses, codecs and mounts do to a frame: compression, blur, exposure, a few pixels of shift and zoom."""
    rough: MatLike = frame
    if rng.random() < 0.4:
        quality = [int(cv2.IMWRITE_JPEG_QUALITY), rng.randrange(20, 80)]
        decoded = cv2.imdecode(cv2.imencode(".jpg", rough, quality)[1], cv2.IMREAD_COLOR)
        rough = rough if decoded is None else decoded
    if rng.random() < 0.5:
        side, zoom = frame.shape[0], rng.uniform(0.98, 1.03)
        shift = [(1 - zoom) * side / 2 + rng.uniform(-4, 4) for _ in range(2)]
        matrix = np.array([[zoom, 0, shift[0]], [0, zoom, shift[1]]], np.float32)
        rough = cv2.warpAffine(rough, matrix, (side, side), borderMode=cv2.BORDER_REPLICATE)
    if rng.random() < 0.25:
        rough = cv2.GaussianBlur(rough, (3, 3), 0)
    if rng.random() < 0.4:
        rough = cv2.convertScaleAbs(rough, alpha=rng.uniform(0.85, 1.15), beta=rng.uniform(-10, 10))
    return np.asarray(rough, np.uint8)


def train_eye(run: Path, config: VisionConfig, *, seed: int = 0, stage: Stage = EYE) -> None:
    """Train, or go on training, the dense encoder and its heads; leaves RUN/eye.pt."""
    torch.manual_seed(seed)
    device = training_device()
    vision = VisionTransformer(replace(config, experts=1)).to(device)
    heads = DenseHeads(config.width).to(device)
    forward = torch.compile(vision)

    def loss_of_step(step: int) -> Tensor:
        total = torch.zeros((), device=device)
        for piece in my_share(PIECES):
            pixels, labels = frames_of_step(seed, PIECES * step + piece, FRAMES_PER_STEP // PIECES)
            with mixed_precision(device):
                loss = dense_loss(heads(forward(pixels.to(device)).features), labels.to(device)) / PIECES
            loss.backward()
            total += loss.detach()
        return total

    def evaluate() -> str:
        return accuracy_of_eye(vision, heads, seed)

    run_stage(stage, {"vision": vision, "heads": heads}, loss_of_step, run, evaluate=evaluate)


@torch.no_grad()
def accuracy_of_eye(vision: VisionTransformer, heads: DenseHeads, seed: int) -> str:
    """Per group, how often a patch that shows something is named rightly, and one that does not is left alone."""
    pixels, labels = frames_of_step(seed, -1, EVALUATION_FRAMES)
    device = heads.head.weight.device
    pixels, labels = pixels.to(device), labels.to(device)
    with mixed_precision(device):
        logits = [
            torch.cat(parts)
            for parts in zip(*(heads(vision(chunk).features) for chunk in pixels.split(16)), strict=True)
        ]
    words = []
    for index, (group, scores) in enumerate(zip(GROUPS, logits, strict=True)):
        target, guess = labels[..., index], scores.argmax(-1)
        shown, empty = target > 0, target == 0
        right, quiet = (guess == target)[shown].float().mean(), (guess == 0)[empty].float().mean()
        words.append(f"{group} {right:.3f}/{quiet:.3f}")
    return "  ".join(words)


def load_eye(run: Path, config: VisionConfig) -> tuple[VisionTransformer, DenseHeads]:
    """The trained dense encoder and its heads, in evaluation mode."""
    state = torch.load(run / "eye.pt", weights_only=True)["modules"]
    vision, heads = VisionTransformer(replace(config, experts=1)), DenseHeads(config.width)
    vision.load_state_dict(state["vision"])
    heads.load_state_dict(state["heads"])
    return vision.eval(), heads.eval()
