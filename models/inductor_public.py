"""Public question sets as weakly labelled training data for the Inductor: ActivityNet-QA and NExT-QA.

They (Apache-2.0, MIT) are read where a user has put them and never copied. Their own type codes hint at the task type;
the rules below settle the borders (how many *times* is a temporal question, *why* is reasoning, whatever the code).
"""

from __future__ import annotations

import csv
import gzip
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_ACTIVITYNET_CODES = (
    "motion",
    "spatial relation",
    "temporal relation",
    "yes/no",
    "color",
    "object",
    "location",
    "number",
    "other",
)

_TASK_OF_CODE = {
    "motion": 2,
    "spatial relation": 5,
    "temporal relation": 4,
    "color": 1,
    "object": 1,
    "location": 5,
    "number": 1,
    "CH": 2,
    "CW": 7,
    "TN": 2,
    "TC": 2,
    "TP": 2,
    "DC": 1,
    "DL": 5,
}

_RULES = tuple(
    (task, re.compile(pattern))
    for task, pattern in (
        (7, r"^(why|how come)\b"),
        (8, r"\b(initial|first) letter\b|\benglish initial\b|\bsubtitles?\b|^what (is|was) the number (on|of the)\b"),
        (7, r"\b(relation|purpose|reason|roles?|job|benefits?|factor) (of|is|for|in|between|among)\b"),
        (7, r"^how (difficult|easy|dangerous|safe|complicated|hard)\b|^is .*in the competition$"),
        (7, r"\b(occupation|relationships?)\b"),
        (4, r"^how (many|much) (times|laps|circles|rounds|turns|attempts|tries)\b|^how (often|long)\b"),
        (4, r"^what happen|^(who|which) (?!hand|direction|side).*\b(first|last)\b|^when (is|was|does|did|do)\b"),
        (3, r"^how (is|are|was|were|do|does|did) .*\b(feel|feeling|appear|positioned|position|posed?|mood)\b"),
        (3, r"\b(mood|facial expression|emotion)\b|^(is|are) .*\b(standing|sitting|kneeling|squatting|lying|happy)$"),
        (5, r"^(where|which (hand|direction|side|finger|way))\b|^(is|are|does|do) .*\b(in|out)doors?\b|\boutside$"),
        (5, r"^what('s| is| was| are) (in |on )?(the )?(front|back|behind|under|above|beside|next to)"),
        (5, r"^what('s| is| was| are) (on )?(the )?(left|right) (side|of)"),
        (2, r"^what('s| is| was| are)? .*\bdoing\b|^what (did|does|do) .*\bdo\b"),
        (2, r"^what (kind of )?(sport|activity|exercise|event|game)"),
        (2, r"^how (did|does|do|is|are|was|were) "),
        (1, r"\b(colou?r|gender|hairstyle|shape|material)\b|^what (kind|type|style)"),
        (1, r"\b(wear|wearing|wears|worn|hold|holding)\b"),
        (1, r"^(is|are|does|do|was) .*\b(glasses|hair|boy or|male|female|hat|sleeves|shorts|gloves)\b"),
        (1, r"^(is|are) there\b|^how many\b|^who (is|are)\b"),
    )
)
"""Task type of the first pattern that is found in a question; without one the set's own code decides."""


@dataclass(frozen=True, slots=True)
class PublicQuestion:
    """One question of a public set."""

    text: str
    """The question as the set writes it."""

    code: str
    """The set's own question type, such as `temporal relation` or `CW`."""


def read_public_questions(folder: str | Path) -> list[PublicQuestion]:
    """Every public question found under `folder`, in file order; empty when there is none.

    Understood are ActivityNet-QA's `*_q.json` with `*_a.json` beside it, NExT-QA's `train.csv` / `val.csv`, and
    `public_queries.jsonl.gz` with `question` and `source_type` a line. Test splits are left alone.
    """
    root = Path(folder)
    if not root.is_dir():
        return []
    return [
        *_read_lines(sorted(root.rglob("public_queries.jsonl.gz"))),
        *_read_activitynet(sorted(root.rglob("*_q.json"))),
        *_read_next(sorted([*root.rglob("train.csv"), *root.rglob("val.csv")])),
    ]


def weak_task(question: PublicQuestion) -> int | None:
    """Task type 1..8 from wording and code, or None where neither says enough."""
    text = question.text.lower().strip()
    for task, pattern in _RULES:
        if pattern.search(text):
            return task
    return _TASK_OF_CODE.get(question.code)


def _read_lines(paths: list[Path]) -> Iterator[PublicQuestion]:
    for path in paths:
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            for line in lines:
                record = json.loads(line)
                yield PublicQuestion(record["question"], record["source_type"])


def _read_activitynet(paths: list[Path]) -> Iterator[PublicQuestion]:
    for path in paths:
        answers = path.with_name(path.name.replace("_q.json", "_a.json"))
        if path.name.startswith("test") or not answers.is_file():
            continue
        codes = {record["question_id"]: record["type"] for record in json.loads(answers.read_text(encoding="utf-8"))}
        for record in json.loads(path.read_text(encoding="utf-8")):
            if record["question_id"] in codes:
                yield PublicQuestion(record["question"], _ACTIVITYNET_CODES[codes[record["question_id"]]])


def _read_next(paths: list[Path]) -> Iterator[PublicQuestion]:
    for path in paths:
        with path.open(encoding="utf-8", newline="") as rows:
            for row in csv.DictReader(rows):
                if row.get("question") and row.get("type"):
                    yield PublicQuestion(row["question"], row["type"])
