"""`tam-edge train`: the recipes of this folder as commands."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

train = typer.Typer(help="Train the bundled model, stage by stage.", add_completion=False, rich_markup_mode=None)


@train.callback()
def _train() -> None:
    """Train the bundled model, stage by stage."""


@train.command()
def nano(
    run: Annotated[Path, typer.Option("--run", metavar="FOLDER", help="Folder for checkpoints and logs.")] = Path(
        "runs/nano"
    ),
    seed: Annotated[int, typer.Option("--seed", metavar="N", min=0, help="Seed of weights and data.")] = 0,
    queries: Annotated[
        Path | None,
        typer.Option("--queries", metavar="FOLDER", help="Real questions for the Inductor, if you have them."),
    ] = None,
    scale: Annotated[
        float,
        typer.Option("--scale", metavar="X", min=0.001, help="Length of every stage, as a multiple of the recipe's."),
    ] = 1.0,
    processes: Annotated[
        int, typer.Option("--processes", metavar="N", min=1, help="Processes that share the work of a step.")
    ] = 1,
) -> None:
    """Train the nano model from nothing: Inductor, eye, language model, experts. A stopped run goes on where it was."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # threads that spin take the cores from those that work
    from tam_edge.models.recipe.stages import train_nano

    minutes = train_nano(run, seed=seed, queries=queries, scale=scale, processes=processes)
    print("trained in " + ", ".join(f"{name} {value:.1f} min" for name, value in minutes.items()))


@train.command()
def study(
    run: Annotated[Path, typer.Option("--run", metavar="FOLDER", help="Folder that `tam-edge train nano` filled.")],
    out: Annotated[Path, typer.Option("--out", metavar="FOLDER", help="Folder for the arms' checkpoints and logs.")],
    seed: Annotated[int, typer.Option("--seed", metavar="N", min=0, help="Seed of data and gates.")] = 0,
    steps: Annotated[
        int | None,
        typer.Option(
            "--steps",
            metavar="N",
            min=1,
            help="Steps of each plan's language model, 600 by default; what follows gets longer or shorter with it.",
        ),
    ] = None,
    processes: Annotated[
        int, typer.Option("--processes", metavar="N", min=1, help="Processes that share the work of a step.")
    ] = 1,
) -> None:
    """Train four arms equally long: planned by task or one pipeline, with experts or without. It goes on if stopped."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from tam_edge.models.recipe.study import STEPS, train_arms

    arms = train_arms(run, out, seed=seed, steps=STEPS if steps is None else steps, processes=processes)
    print(f"trained {', '.join(arms)}: `tam-edge export study --study {out} --out FOLDER` makes bundles of them")
