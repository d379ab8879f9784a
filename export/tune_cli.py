"""`tam-edge tune` and `tam-edge reopen`: what a bundle has learned is learned on from."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Annotated

import typer


def tune(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="Folder of the bundle to read; it is not changed.")],
    run: Annotated[Path, typer.Option("--run", metavar="FOLDER", help="Folder for checkpoints and the log.")],
    out: Annotated[
        Path, typer.Option("--out", metavar="FOLDER", help="Folder of the new bundle; an older one is replaced.")
    ],
    seed: Annotated[int, typer.Option("--seed", metavar="N", min=0, help="Seed of the data.")] = 0,
    steps: Annotated[int, typer.Option("--steps", metavar="N", min=1, help="Steps of the training.")] = 600,
    shards: Annotated[
        int, typer.Option("--shards", metavar="N", min=1, help="How much is filmed to learn from: 50 scenes each.")
    ] = 10,
    processes: Annotated[
        int, typer.Option("--processes", metavar="N", min=1, help="Processes that share the work of a step.")
    ] = 1,
    questions: Annotated[
        int, typer.Option("--questions", metavar="N", min=1, help="Questions whose answers must equal PyTorch's.")
    ] = 100,
    as_json: Annotated[bool, typer.Option("--json", help="Print the parity figures as JSON on stdout.")] = False,
) -> None:
    """Tune the language model of a bundle like the bundled one on the street camera's questions as they are now.

    Eye, projectors and Inductor stay as they are. A stopped tuning goes on where it was.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from tam_edge.export.tune import tune_bundle

    tuned = tune_bundle(
        bundle, run, out, seed=seed, steps=steps, shards=shards, processes=processes, questions=questions,
        progress=lambda what: print(what, file=sys.stderr, flush=True),
    )  # fmt: skip
    if as_json:
        print(json.dumps({"schema_version": 1, "bundle": str(out), "parity": tuned.manifest.parity}))
    else:
        print(f"wrote {out}")


def reopen(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="Folder of the bundle to read; it is not changed.")],
    run: Annotated[
        Path, typer.Option("--run", metavar="FOLDER", help="Folder of the training that shall start from it.")
    ],
) -> None:
    """Put what a bundle's language model has learned where `tam-edge train study` starts from it."""
    from tam_edge.export.reopen import reopen_bundle

    print(f"wrote {reopen_bundle(bundle, run)}")
