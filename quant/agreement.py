"""Do both bundles answer alike? Asked through the whole runtime, each with its own Inductor, plan and features."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

from tam_edge.models.evaluate.report import Request as Evaluation
from tam_edge.models.evaluate.report import evaluate
from tam_edge.quant.samples import Material
from tam_edge.runtime.session import VideoQA

NEW = "quantised"
EXAMPLES = 12
"""Most answers that are shown where the two differ."""


def agreement(
    old: Path, new: Path, material: Material, *, threads: int, progress: Callable[[str], None]
) -> dict[str, Any]:
    """Ask both bundles every question of `material` and count equal answers.

    Raises:
        MemoryLimitError: a bundle does not fit into the memory that is free here.
    """
    said: list[list[tuple[str, str, str]]] = []
    for name, path in (("the original", old), ("the new bundle", new)):
        answers: list[tuple[str, str, str]] = []
        with VideoQA.load(path, threads=threads, device="cpu") as qa:
            for file, asked in material.asked:
                progress(f"asking {name} about {file.name}")
                with closing(qa.open(file)) as video:
                    answers += [(file.name, question, qa.ask(video, question).text) for question in asked]
        said.append(answers)
    pairs = list(zip(*said, strict=True))
    apart = [
        {"video": before[0], "question": before[1], "old": before[2], "new": after[2]}
        for before, after in pairs
        if before[2] != after[2]
    ]
    return {
        "what": material.what,
        "questions": len(pairs),
        "same": len(pairs) - len(apart),
        "share": round(1 - len(apart) / max(1, len(pairs)), 4),
        "apart": apart[:EXAMPLES],
    }


def accuracy(
    old: Path, new: Path, *, videos: int, seed: int, threads: int, progress: Callable[[str], None]
) -> dict[str, Any]:
    """Accuracy of both on unseen scenes of the street camera, and the difference with its 95% interval.

    Intervals are by bootstrap over videos, the same videos drawn for both; `tam-edge eval synthetic --against` says
    the same.

    Raises:
        UsageError: a seed that training may have seen.
    """
    report, replies = evaluate(
        Evaluation(seed, videos, old, threads=threads, against=(f"{NEW}={new}",)),
        lambda count, total, who, _: progress(f"asking about the street: {count} of {total} ({who})"),
    )
    rows = {row["arm"]: row for row in report["ablations"]["rows"]}
    texts: dict[str, dict[tuple[int, str], str]] = {name: {} for name in rows}
    for reply in replies:
        texts[reply.arm][reply.video, reply.question.text] = reply.said
    before, after = texts["baseline"], texts[NEW]
    return {
        "seed": seed,
        "videos": videos,
        "questions": report["questions"],
        "old": {"accuracy": rows["baseline"]["accuracy"], "ci95": rows["baseline"]["ci95"]},
        "new": {"accuracy": rows[NEW]["accuracy"], "ci95": rows[NEW]["ci95"]},
        "difference": rows[NEW]["difference"],
        "difference_ci95": rows[NEW]["difference_ci95"],
        "same_answers_share": round(sum(after[key] == text for key, text in before.items()) / max(1, len(before)), 4),
        "per_task": {
            name: {key: value for key, value in scores.items() if key in ("accuracy", "difference", "difference_ci95")}
            for name, scores in rows[NEW]["per_task"].items()
        },
    }
