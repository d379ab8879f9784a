"""The loop every stage shares: seeded steps, a schedule, progress, and checkpoints that a stopped run resumes from.

What a step trains on depends only on the seed and the step's number, so a resumed run sees the same data as an
uninterrupted one.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from tam_edge.models.recipe.parallel import is_first, sum_gradients, wait_for_all

LOG_EVERY_STEPS = 50
SAVE_EVERY_SECONDS = 120.0


@dataclass(frozen=True, slots=True)
class Stage:
    """How long and how fast one stage trains."""

    name: str
    steps: int
    muon_lr: float
    adam_lr: float
    warmup_steps: int = 50
    final_fraction: float = 0.05
    """Learning rate at the last step, as a fraction of the full one."""
    decay_from: float = 0.4
    """Part of the stage after which the learning rate falls linearly."""


def make_optimizers(modules: Iterable[nn.Module], stage: Stage) -> list[Optimizer]:
    """Muon for the matrices inside the network, AdamW for embeddings, heads, norms and biases."""
    matrices: list[Tensor] = []
    others: list[Tensor] = []
    for module in modules:
        for name, parameter in module.named_parameters():
            if not parameter.requires_grad:
                continue
            inner = parameter.ndim == 2 and not any(word in name for word in ("embed", "head", "gate", "position"))
            (matrices if inner else others).append(parameter)
    optimizers: list[Optimizer] = [torch.optim.AdamW(others, lr=stage.adam_lr, betas=(0.9, 0.98), weight_decay=0.0)]
    if matrices:
        muon = torch.optim.Muon(
            matrices, lr=stage.muon_lr, weight_decay=0.01, momentum=0.95, adjust_lr_fn="match_rms_adamw"
        )
        optimizers.append(muon)
    return optimizers


def learning_rate_factor(stage: Stage, step: int) -> float:
    """Warm-up, then flat, then linear to `final_fraction`."""
    if step < stage.warmup_steps:
        return (step + 1) / stage.warmup_steps
    start = stage.decay_from * stage.steps
    if step < start:
        return 1.0
    return 1.0 - (1.0 - stage.final_fraction) * (step - start) / max(1.0, stage.steps - start)


def run_stage(
    stage: Stage,
    modules: dict[str, nn.Module],
    loss_of_step: Callable[[int], Tensor],
    run: Path,
    *,
    evaluate: Callable[[], str] | None = None,
    evaluate_every: int = 1000,
    optimizers: list[Optimizer] | None = None,
) -> None:
    """Train until `stage.steps`, from the last checkpoint in `run` where there is one.

    `optimizers` are for what is only tuned; left out, `make_optimizers` makes those of a training from nothing.

    `loss_of_step(step)` is the loss on the data of that step; one that has added up its gradients piece by piece
    returns it detached. Writes RUN/<stage>.pt and RUN/<stage>.log.

    Raises:
        FloatingPointError: the loss is no number any more.
    """
    run.mkdir(parents=True, exist_ok=True)
    optimizers = make_optimizers(modules.values(), stage) if optimizers is None else optimizers
    base = [[group["lr"] for group in optimizer.param_groups] for optimizer in optimizers]
    log = _Log(run / f"{stage.name}.log", stage.steps)
    step = _resume(run / f"{stage.name}.pt", modules, optimizers)
    log.start(step)
    saved = time.monotonic()
    while step < stage.steps:
        _set_rates(optimizers, base, learning_rate_factor(stage, step))
        loss = _step(optimizers, modules, loss_of_step, step)
        step += 1
        log.step(step, loss)
        if evaluate is not None and step % evaluate_every == 0 and is_first():
            log.line(f"step {step}: {evaluate()}")
        if is_first() and (time.monotonic() - saved > SAVE_EVERY_SECONDS or step == stage.steps):
            _save(run / f"{stage.name}.pt", modules, optimizers, step)
            saved = time.monotonic()
    wait_for_all()  # the next stage reads what the first process wrote


def _set_rates(optimizers: list[Optimizer], base: list[list[float]], factor: float) -> None:
    for optimizer, rates in zip(optimizers, base, strict=True):
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * factor


def _step(
    optimizers: list[Optimizer], modules: dict[str, nn.Module], loss_of_step: Callable[[int], Tensor], step: int
) -> Tensor:
    for optimizer in optimizers:
        optimizer.zero_grad(set_to_none=True)
    loss = loss_of_step(step)
    if loss.requires_grad:
        loss.backward()
    sum_gradients(modules.values())
    for module in modules.values():
        nn.utils.clip_grad_norm_(module.parameters(), 1.0)
    for optimizer in optimizers:
        optimizer.step()
    return loss


class _Log:
    """Progress on stderr and in a file: loss, speed, time left."""

    def __init__(self, path: Path, steps: int) -> None:
        self.path, self.steps = path, steps
        self.loss, self.count = 0.0, 0
        self.began, self.first = time.monotonic(), 0

    def start(self, step: int) -> None:
        self.began, self.first = time.monotonic(), step
        self.line(f"start at step {step} of {self.steps}")

    def step(self, step: int, loss: Tensor) -> None:
        self.loss, self.count = self.loss + float(loss.detach()), self.count + 1
        if step % LOG_EVERY_STEPS and step != self.steps:
            return
        if not math.isfinite(self.loss):
            raise FloatingPointError(f"the loss is {self.loss} at step {step}")
        per_second = (step - self.first) / (time.monotonic() - self.began)
        left = (self.steps - step) / per_second / 60
        self.line(
            f"step {step}/{self.steps}  loss {self.loss / self.count:.4f}  "
            f"{per_second:.2f} steps/s  {left:.1f} min left"
        )
        self.loss, self.count = 0.0, 0

    def line(self, text: str) -> None:
        if not is_first():
            return
        print(text, file=sys.stderr, flush=True)
        with self.path.open("a") as file:
            file.write(text + "\n")


def _save(path: Path, modules: dict[str, nn.Module], optimizers: list[Optimizer], step: int) -> None:
    state = {
        "step": step,
        "modules": {name: module.state_dict() for name, module in modules.items()},
        "optimizers": [optimizer.state_dict() for optimizer in optimizers],
    }
    partial = path.with_suffix(".partial")
    torch.save(state, partial)
    partial.replace(path)


def _resume(path: Path, modules: dict[str, nn.Module], optimizers: list[Optimizer]) -> int:
    if not path.exists():
        return 0
    state = torch.load(path, weights_only=True)
    for name, module in modules.items():
        module.load_state_dict(state["modules"][name])
    for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
        optimizer.load_state_dict(saved)
    return int(state["step"])
