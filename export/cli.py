"""`tam-edge export` turns what was trained into a bundle; `tam-edge inductor` looks after the Inductor alone."""

from __future__ import annotations

import json
import os
import sys
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Literal

import typer

from tam_edge.runtime.errors import UsageError

app = typer.Typer(
    help="Turn a checkpoint, or what was trained here, into a bundle for the device.",
    add_completion=False,
    rich_markup_mode=None,
)

inductor = typer.Typer(
    help="Train, measure and extend the model that names a question's task type.",
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
    from tam_edge.export.pretrained.bundle import ImportOptions, export_checkpoint
    from tam_edge.export.pretrained.verify import verify_bundle

    options = ImportOptions(inductor_from, _grids(grids), upcycle, newline, precision)
    bundle = export_checkpoint(
        folder,
        out,
        options,
        verify=verify_bundle if verify else None,
        progress=lambda what: print(what, file=sys.stderr),
    )
    if as_json:
        print(json.dumps({"schema_version": 1, "bundle": str(out), "parity": bundle.manifest.parity}))
    else:
        print(f"wrote {out}")


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


@inductor.callback()
def _inductor() -> None:
    """Train, measure and extend the model that names a question's task type."""


@inductor.command("train")
def train(
    run: Annotated[Path, typer.Option("--run", metavar="FOLDER", help="Folder for checkpoints and figures.")],
    base: Annotated[
        str, typer.Option("--base", metavar="NAME", help="minilm, or a BERT- or Llama-style checkpoint folder.")
    ] = "minilm",
    queries: Annotated[
        Path | None,
        typer.Option("--queries", metavar="FOLDER", help="Labelled and public questions, if you have them."),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", metavar="N", min=0, help="Seed of head and data.")] = 0,
    threads: Annotated[int, typer.Option("--threads", metavar="N", min=1, help="CPU threads.")] = 1,
    as_json: Annotated[bool, _JSON] = False,
) -> None:
    """Fine-tune an Inductor and measure it by cross-validation. A stopped run goes on where it was."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    import torch

    from tam_edge.models.inductor_report import figures_table
    from tam_edge.models.recipe.inductor import default_queries, train_inductor

    if queries is not None and not queries.is_dir():
        raise UsageError(f"--queries {queries} is no folder: leave it out where you have none")
    torch.set_num_threads(threads)
    metrics = train_inductor(run, base=base, queries=queries or default_queries(), seed=seed).metrics
    print(json.dumps(metrics) if as_json else figures_table(metrics))


@inductor.command("report")
def report(
    run: Annotated[Path, typer.Option("--run", metavar="FOLDER", help="Folder of a finished training.")],
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FOLDER", help="Write the confusion matrix and reliability as PNG.")
    ] = None,
    as_exported: Annotated[
        bool, typer.Option("--as-exported", help="Also ask the 8-bit graphs of all folds: a minute or two.")
    ] = False,
    queries: Annotated[
        Path | None, typer.Option("--queries", metavar="FOLDER", help="Labelled questions, as in the training.")
    ] = None,
    as_json: Annotated[bool, _JSON] = False,
) -> None:
    """Print what a finished training measured, and draw it."""
    from tam_edge.models.inductor_report import draw_figures, figures_table, read_metrics

    metrics = read_metrics(run)
    if as_exported:
        from tam_edge.export.inductor_held_out import measure_as_exported
        from tam_edge.models.recipe.inductor import default_queries

        metrics |= measure_as_exported(run, (queries or default_queries()) if metrics["public_sets"] else None)
    if out is not None:
        for path in draw_figures(metrics, out):
            print(f"wrote {path}", file=sys.stderr)
    print(json.dumps(metrics) if as_json else figures_table(metrics))


@inductor.command("extend")
def extend(
    task: Annotated[str, typer.Option("--task", metavar="NAME", help="Name of the new task type.")],
    data: Annotated[Path, typer.Option("--data", metavar="FILE", help='Its questions, one {"question": ...} a line.')],
    out: Annotated[
        Path, typer.Option("--out", metavar="FOLDER", help="Folder of the new bundle; an older one is replaced.")
    ],
    bundle: Annotated[
        Path | None,
        typer.Option("--bundle", metavar="FOLDER", help="Bundle to extend. [default: the one that is installed]"),
    ] = None,
    group: Annotated[
        Literal["more", "balanced", "high"],
        typer.Option("--group", help="Many frames, a balance, or high detail."),
    ] = "balanced",
    title: Annotated[
        str | None, typer.Option("--title", metavar="TEXT", help="Name in the prompt. [default: from --task]")
    ] = None,
    asks: Annotated[str, typer.Option("--asks", metavar="TEXT", help='Continues "The question asks ...".')] = "",
    test: Annotated[
        Path | None,
        typer.Option("--test", metavar="FILE", help="Questions to measure on. [default: a fifth of --data]"),
    ] = None,
    as_json: Annotated[bool, _JSON] = False,
) -> None:
    """Teach a bundle's Inductor one more task type and write the bundle that knows it; no other file changes."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from dataclasses import asdict

    from tam_edge.export.extend import extend_bundle
    from tam_edge.export.extension_data import check_counts, read_questions, split
    from tam_edge.runtime.bundle import default_bundle_path
    from tam_edge.runtime.routing import TaskRule

    questions = read_questions(data, "--data")
    train_on, measured = split(questions) if test is None else (questions, read_questions(test, "--test"))
    check_counts(train_on, measured)
    rule = TaskRule(name=task, title=title or task.replace("-", " ").title(), group=group, asks=asks)
    said = extend_bundle(
        bundle or default_bundle_path(),
        out,
        rule,
        train_on,
        measured,
        progress=lambda what: print(what, file=sys.stderr),
    )
    if as_json:
        print(json.dumps({"schema_version": 1, "bundle": str(out), **asdict(said)}))
        return
    print(f"wrote {out}: {said.accuracy:.1%} of {said.test_questions} questions are recognised as {task!r}")
    print(f"old types: {said.old_accuracy_before:.1%} before, {said.old_accuracy_after:.1%} after;", end=" ")
    print(f"{said.old_taken:.1%} of their questions are taken for the new one")
    for name, (before, after) in said.old_per_task.items():
        print(f"  {name:<24} {before:>7.1%} {after:>7.1%}")
