"""`tam-edge inductor`: train, measure, put in place and extend the model that names a question's task type."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from tam_edge.runtime.errors import UsageError

inductor = typer.Typer(
    help="Train, measure, put in place and extend the model that names a question's task type.",
    add_completion=False,
    rich_markup_mode=None,
)
_JSON = typer.Option("--json", help="Print JSON on stdout and nothing else there.")


@inductor.callback()
def _inductor() -> None:
    """Train, measure, put in place and extend the model that names a question's task type."""


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
    without_queries: Annotated[
        bool, typer.Option("--without-queries", help="Leave them out, even where they lie beside the project.")
    ] = False,
    seed: Annotated[int, typer.Option("--seed", metavar="N", min=0, help="Seed of head and data.")] = 0,
    processes: Annotated[
        int, typer.Option("--processes", metavar="N", min=1, help="Fold models tuned at the same time.")
    ] = 1,
    threads: Annotated[int, typer.Option("--threads", metavar="N", min=1, help="CPU threads of one process.")] = 1,
    as_json: Annotated[bool, _JSON] = False,
) -> None:
    """Fine-tune an Inductor and measure it by cross-validation. A stopped run goes on where it was."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    import torch

    from tam_edge.models.inductor_report import figures_table
    from tam_edge.models.recipe.inductor import default_queries, train_inductor

    if queries is not None and not queries.is_dir():
        raise UsageError(f"--queries {queries} is no folder: leave it out where you have none")
    if queries is not None and without_queries:
        raise UsageError("--queries and --without-queries exclude each other: give one of them")
    torch.set_num_threads(threads)
    sets = None if without_queries else queries or default_queries()
    metrics = train_inductor(run, base=base, queries=sets, seed=seed, processes=processes).metrics
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


@inductor.command("put")
def put(
    run: Annotated[Path, typer.Option("--run", metavar="FOLDER", help="Folder of a finished training.")],
    out: Annotated[
        Path, typer.Option("--out", metavar="FOLDER", help="Folder of the new bundle; an older one is replaced.")
    ],
    bundle: Annotated[
        Path | None,
        typer.Option("--bundle", metavar="FOLDER", help="Bundle to copy. [default: the one that is installed]"),
    ] = None,
) -> None:
    """Write a bundle with the Inductor that a training left; its eye, projectors and language model stay."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from tam_edge.export.inductor_put import put_inductor
    from tam_edge.runtime.bundle import default_bundle_path

    put_inductor(bundle or default_bundle_path(), run, out, progress=lambda what: print(what, file=sys.stderr))
    print(f"wrote {out}")


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
