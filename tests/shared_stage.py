"""A stage that several processes share; in a module of its own, since each process imports it by name."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from tam_edge.models.recipe.loop import Stage, run_stage
from tam_edge.models.recipe.parallel import my_share


def share_work(run: Path) -> None:
    """A stage of twelve steps of four pieces each, whoever computes them."""
    torch.manual_seed(0)
    model = nn.Linear(3, 1)

    def loss_of_step(step: int) -> Tensor:
        total = torch.zeros(())
        for piece in my_share(4):
            x = torch.randn(8, 3, generator=torch.Generator().manual_seed(10 * step + piece))
            loss = ((model(x) - x.sum(1, keepdim=True)) ** 2).mean() / 4
            loss.backward()
            total += loss.detach()
        return total

    run_stage(Stage("shared", 12, 0.05, 0.05, warmup_steps=2), {"model": model}, loss_of_step, run)
