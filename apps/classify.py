"""`tam-edge classify`: the task type of questions; no video is involved."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

import tam_edge.apps.options as opt
from tam_edge.apps.render import print_json, progress
from tam_edge.runtime.errors import QuestionError, UsageError
from tam_edge.runtime.inductor import check_question
from tam_edge.runtime.page import harmless

FIELDS = ("question", "task", "confidence", "probabilities")


def classify(
    question: Annotated[list[str] | None, typer.Argument(metavar="QUESTION", help="Questions.")] = None,
    file: Annotated[
        Path | None,
        typer.Option("--file", metavar="FILE", help="More questions, one a line, up to the first tab; - is stdin."),
    ] = None,
    model: opt.Model = None,
    threads: opt.Threads = None,
    as_json: opt.AsJson = False,
    verbose: opt.Verbose = False,
) -> None:
    """Name the task type of questions."""
    opt.show_log(verbose)
    questions = opt.checked_questions(question or [])
    questions += _questions_in(file) if file else ()
    if not questions:
        raise UsageError("no question: write one, or name a file of questions with --file")
    with progress("Reading questions"), opt.load(model, None, "auto", threads) as qa:
        estimates = qa.classify(questions)
    if as_json:
        print_json([{field: asdict(estimate)[field] for field in FIELDS} for estimate in estimates])
        return
    widest = max(len(estimate.task) for estimate in estimates)
    for estimate in estimates:
        print(harmless(f"{estimate.task:<{widest}}  {estimate.confidence:>6.1%}  {estimate.question}"))


def _questions_in(file: Path) -> Iterator[str]:
    """Questions of a file; empty lines and a heading "question" are passed over."""
    lines = _read(file).splitlines()
    for number, line in enumerate(lines, start=1):
        text = line.partition("\t")[0].strip()
        if text and (number, text.lower()) != (1, "question"):
            try:
                yield check_question(text)
            except QuestionError as error:
                raise QuestionError(f"{file}, line {number}: {error}") from error


def _read(file: Path) -> str:
    try:
        data = sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes()
        return data.decode("utf-8-sig")
    except OSError as error:
        raise UsageError(f"cannot read {file}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"cannot read {file}: it is not UTF-8 text at byte {error.start}") from error
