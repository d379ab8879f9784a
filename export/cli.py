"""`tam-edge export`: a checkpoint, or what was trained here, becomes a bundle. The folder's commands are found here."""

from __future__ import annotations

import json
import os
import sys
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Literal

import typer

from tam_edge.export.inductor_cli import inductor
from tam_edge.runtime.errors import UsageError

__all__ = ["app", "inductor"]

app = typer.Typer(
    help="Turn a checkpoint, or what was trained here, into a bundle for the device.",
    add_completion=False,
    rich_markup_mode=None,
)

_JSON = typer.Option("--json", help="Print JSON on stdout and nothing else there.")


@app.callback(invoke_without_command=True)
def checkpoint(
    ctx: typer.Context,
    folder: Annotated[
        Path | None,
        typer.Option(
            "--checkpoint", metavar="FOLDER", help="LLaVA-OneVision, LLaVA-Video, or what is built like them."
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FOLDER", help="Folder of the bundle; an older one is replaced.")
    ] = None,
    inductor_from: Annotated[
        Path | None,
        typer.Option(
            "--inductor",
            metavar="FOLDER",
            help="Bundle, training run, or BERT- or Llama-style classifier. [default: the installed bundle's]",
        ),
    ] = None,
    grids: Annotated[
        str | None,
        typer.Option("--grids", metavar="LIST", help="Tokens per side, largest first. [default: 27,18,14,11 or alike]"),
    ] = None,
    upcycle: Annotated[
        bool, typer.Option("--upcycle", help="Give every block of a dense eye four experts, for training.")
    ] = False,
    newline: Annotated[
        Literal["grid", "frame", "one", "none"] | None,
        typer.Option("--newline", help="Line break after rows, frames, once, never. [default: the checkpoint's]"),
    ] = None,
    precision: Annotated[
        Literal["f32", "f16", "bf16", "Q8_0"], typer.Option("--precision", help="Weights of the language model.")
    ] = "f16",
    verify: Annotated[
        bool, typer.Option("--verify", help="Compare every stage with transformers; a mismatch writes nothing.")
    ] = False,
    as_json: Annotated[bool, _JSON] = False,
) -> None:
    """Turn a checkpoint, or what was trained here, into a bundle for the device."""
    if ctx.invoked_subcommand is not None:
        _refuse_options(ctx)
        return
    if folder is None or out is None:
        raise UsageError("name a checkpoint folder and a place: --checkpoint FOLDER --out FOLDER, or see --help")
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from tam_edge.export.pretrained.bundle import export_checkpoint
    from tam_edge.export.pretrained.source import ImportOptions
    from tam_edge.export.pretrained.verify import verify_bundle

    options = ImportOptions(inductor_from, _grids(grids), upcycle, newline, precision)
    compare = verify_bundle if verify else None
    bundle = export_checkpoint(folder, out, options, verify=compare, progress=_say)
    if as_json:
        print(json.dumps({"schema_version": 1, "bundle": str(out), "parity": bundle.manifest.parity}))
    else:
        print(f"wrote {out}")


def _say(what: str) -> None:
    print(what, file=sys.stderr)


def _refuse_options(ctx: typer.Context) -> None:
    """Options before a sub-command's name would be read and forgotten."""
    if any(value not in (None, False, "f16") for value in ctx.params.values()):
        raise UsageError(f"options of {ctx.invoked_subcommand} come after its name; --checkpoint goes without it")


def _grids(text: str | None) -> tuple[int, ...] | None:
    if text is None:
        return None
    try:
        grids = tuple(int(part) for part in text.split(","))
    except ValueError:
        raise UsageError(f"--grids {text!r} is no list of numbers such as 27,18,14,11") from None
    if grids[-1] < 1 or any(small >= large for large, small in pairwise(grids)):
        raise UsageError(f"--grids {text!r}: grids get smaller from one to the next and end at 1 or above")
    return grids


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
