"""`tam-edge export`: turns what was trained into the bundle a device runs."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    help="Turn trained weights into a bundle for the device.", add_completion=False, rich_markup_mode=None
)


@app.callback()
def _export() -> None:
    """Turn trained weights into a bundle for the device."""


@app.command()
def nano(
    run: Annotated[Path, typer.Option("--run", metavar="FOLDER", help="Folder that `tam-edge train nano` filled.")],
    out: Annotated[
        Path, typer.Option("--out", metavar="FOLDER", help="Folder of the bundle; an older one is replaced.")
    ],
    questions: Annotated[
        int, typer.Option("--questions", metavar="N", min=1, help="Questions whose answers must equal PyTorch's.")
    ] = 100,
    as_json: Annotated[bool, typer.Option("--json", help="Print the parity figures as JSON on stdout.")] = False,
) -> None:
    """Export a trained nano model, compare every file with PyTorch and write the bundle."""
    # PyTorch's and llama.cpp's waiting threads would spin against each other: minutes instead of seconds.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from tam_edge.export.bundle import export_bundle

    bundle = export_bundle(run, out, questions=questions, progress=lambda what: print(what, file=sys.stderr))
    if as_json:
        print(json.dumps({"schema_version": 1, "bundle": str(out), "parity": bundle.manifest.parity}))
    else:
        print(f"wrote {out}")


@app.command()
def study(
    study: Annotated[
        Path, typer.Option("--study", metavar="FOLDER", help="Folder that `tam-edge train study` filled.")
    ],
    out: Annotated[
        Path, typer.Option("--out", metavar="FOLDER", help="Folder for the four bundles; older ones are replaced.")
    ],
    questions: Annotated[
        int, typer.Option("--questions", metavar="N", min=1, help="Questions whose answers must equal PyTorch's.")
    ] = 100,
    as_json: Annotated[bool, typer.Option("--json", help="Print the parity figures as JSON on stdout.")] = False,
) -> None:
    """Export the four arms of a study, each with the rules it was trained for, and compare every file with PyTorch."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from tam_edge.export.study import export_study

    bundles = export_study(study, out, questions=questions, progress=lambda what: print(what, file=sys.stderr))
    if as_json:
        parity = {name: bundle.manifest.parity for name, bundle in bundles.items()}
        print(json.dumps({"schema_version": 1, "bundles": str(out), "parity": parity}))
    else:
        print(f"wrote {', '.join(str(bundle.path) for bundle in bundles.values())}")
