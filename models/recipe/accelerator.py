"""Where training runs: the GPU when there is one, else the CPU; bfloat16 products either way."""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch


def training_device() -> torch.device:
    """The device every stage trains on."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def mixed_precision(device: torch.device) -> AbstractContextManager[object]:
    """Matrix products in bfloat16, sums in float32."""
    return torch.autocast(device.type, torch.bfloat16)
