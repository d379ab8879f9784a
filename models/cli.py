"""`tam-edge train` and `tam-edge eval`: the commands of this folder."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

train = typer.Typer(help="Train the bundled model, stage by stage.", add_completion=False, rich_markup_mode=None)
evaluate = typer.Typer(help="Measure how often a bundle answers rightly.", add_completion=False, rich_markup_mode=None)


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


@evaluate.callback()
def _evaluate() -> None:
    """Measure how often a bundle answers rightly."""


@evaluate.command()
def synthetic(
    seed: Annotated[int, typer.Option("--seed", metavar="N", help="Which unseen scenes; 900000 or above.")],
    videos: Annotated[int, typer.Option("--videos", metavar="N", help="How many of them.")] = 200,
    model: Annotated[
        Path | None,
        typer.Option("--model", metavar="FOLDER", help="Bundle to use. [default: the one that is installed]"),
    ] = None,
    memory: Annotated[
        str | None, typer.Option("--memory", metavar="SIZE", help="Most memory to take, such as 900MiB.")
    ] = None,
    strategy: Annotated[
        str | None, typer.Option("--strategy", metavar="NAME", help="How patch features become tokens.")
    ] = None,
    threads: Annotated[int | None, typer.Option("--threads", metavar="N", min=1, help="CPU threads.")] = None,
    replies: Annotated[
        Path | None,
        typer.Option("--replies", metavar="FILE", help="Write every question and answer here, one JSON a line."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON on stdout and nothing else there.")] = False,
) -> None:
    """Ask about scenes of the street camera that training never saw, each filmed into a real video file."""
    from tam_edge.models.evaluate import evaluate as evaluate_bundle
    from tam_edge.models.evaluate import scene_seeds
    from tam_edge.runtime import VideoQA

    scene_seeds(seed, videos)  # refuse before anything is loaded
    with VideoQA.load(model, memory=memory, threads=threads) as qa:
        report, said = evaluate_bundle(qa, seed, videos, strategy=strategy, done=lambda count: _show(count, videos))
    if replies is not None:
        lines = (
            {"video": reply.video, "task": reply.task, "family": reply.question.family, "question": reply.question.text,
             "answer": reply.question.answer, "said": reply.said, "right": reply.right}
            for reply in said
        )  # fmt: skip
        replies.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
    print(json.dumps(report) if as_json else _table(report))


def _show(count: int, videos: int) -> None:
    if sys.stderr.isatty():
        print(f"\r{count} of {videos} videos", end="\n" if count == videos else "", file=sys.stderr, flush=True)


def _table(report: dict[str, Any]) -> str:
    rows = [("all", report), *report["per_task"].items()]
    lines = [f"{'task type':<24} {'accuracy':>8} {'95% interval':>15} {'majority':>9} {'questions':>9}"]
    for name, scores in rows:
        low, high = scores["ci95"]
        lines.append(
            f"{name:<24} {scores['accuracy']:>8.1%} {f'{low:.1%} - {high:.1%}':>15} {scores['majority']:>9.1%} "
            f"{scores['questions']:>9}"
        )
    lines.append(f"{report['videos']} videos, seed {report['seed']}, {report['minutes']} minutes")
    return "\n".join(lines)
