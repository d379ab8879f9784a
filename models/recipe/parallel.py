"""Several processes that train as one: each computes the gradients of its share of a step, and the shares are added up.

Sequences of this size leave the second core of one process idle; two processes of one thread each do more.
With one process nothing here does anything.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
import torch.distributed
from torch import nn
from torch.multiprocessing.spawn import spawn


def run_in_processes(work: Callable[[], None], processes: int) -> None:
    """Run `work` in this many processes of one thread each, which find each other; it must be picklable.

    Raises:
        torch.multiprocessing.ProcessRaisedException: one of them failed; the others are stopped.
    """
    if processes == 1:
        work()
        return
    with tempfile.TemporaryDirectory(prefix="tam-edge-train-") as folder:
        meeting = Path(folder, "meeting")
        spawn(_work, (work, processes, str(meeting)), nprocs=processes)


def _work(rank: int, work: Callable[[], None], processes: int, meeting: str) -> None:
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // processes))
    torch.distributed.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=processes)
    try:
        work()
    finally:
        torch.distributed.destroy_process_group()


def _place() -> tuple[int, int]:
    if not torch.distributed.is_initialized():
        return 0, 1
    return torch.distributed.get_rank(), torch.distributed.get_world_size()


def is_first() -> bool:
    """Whether this process is the one that logs and saves."""
    return _place()[0] == 0


def my_share(count: int) -> range:
    """Which of a step's `count` pieces this process computes."""
    rank, size = _place()
    return range(rank, count, size)


def wait_for_all() -> None:
    """Return when every process has come here."""
    if torch.distributed.is_initialized():
        torch.distributed.barrier()


def sum_gradients(modules: Iterable[nn.Module]) -> None:
    """Add up every process's gradients; a parameter that one process did not use counts as zero there."""
    if _place()[1] == 1:
        return
    for module in modules:
        for parameter in module.parameters():
            if parameter.requires_grad:
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
                torch.distributed.all_reduce(parameter.grad)
