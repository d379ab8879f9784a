"""`tam-edge plan`: what `run` would look at and why; of the models only the Inductor runs."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import tam_edge.apps.options as opt
from tam_edge.apps.render import explain_plan, print_json, print_notes, progress
from tam_edge.runtime.errors import UsageError
from tam_edge.runtime.plan import Plan


def plan(
    video: opt.Videos,
    ask: opt.Questions,
    model: opt.Model = None,
    memory: opt.Memory = None,
    deadline: opt.Deadline = None,
    strategy: opt.Strategy = None,
    start: opt.Start = None,
    end: opt.End = None,
    device: opt.Device = "auto",
    threads: opt.Threads = None,
    frames: opt.Frames = None,
    grid: opt.Grid = None,
    as_json: opt.AsJson = False,
    verbose: opt.Verbose = False,
) -> None:
    """Show what would be looked at, why, and what that would take.

    With --json the plan can be kept in a file and repeated with `tam-edge run --plan`.
    """
    opt.show_log(verbose)
    questions = opt.checked_questions(ask)
    with (
        progress("Deciding what to look at"),
        opt.load(model, memory, device, threads) as qa,
        opt.opened(qa, video, start, end) as clip,
    ):
        plans = [
            qa.plan(clip, question, deadline=deadline, strategy=strategy, frames=frames, grid=grid)
            for question in questions
        ]
        notes = clip.info.notes
    if as_json:
        values = [plan.to_json() for plan in plans]
        print_json(values[0] if len(values) == 1 else {"plans": values})
        return
    print_notes(notes)
    for question, decided in zip(questions, plans, strict=True):
        explain_plan(question, decided, sys.stdout)


def read_plans(path: Path, questions: int) -> list[Plan]:
    """Read what `plan --json` printed: one plan for every question, or as many plans as there are questions.

    Raises:
        UsageError: the file cannot be read, or holds something else.
    """
    try:
        value = json.loads(path.read_bytes())
    except OSError as error:
        raise UsageError(f"cannot read the plan {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"cannot read the plan {path}: it is not JSON; make it with tam-edge plan --json") from error
    several = value.get("plans") if isinstance(value, dict) else None
    plans = [Plan.from_json(item) for item in several] if isinstance(several, list) else [Plan.from_json(value)]
    if len(plans) not in (1, questions):
        raise UsageError(f"{path} holds {len(plans)} plans for {questions} questions: ask as many")
    return plans if len(plans) == questions else plans * questions
