"""RUN/training.json: how a run is trained, and how long each stage took. The export puts it into the bundle."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

FACTS = "training.json"


def note_minutes(run: Path, stage: str, minutes: float, facts: Mapping[str, float]) -> dict[str, float]:
    """Add a stage's minutes to what earlier calls of the same run took for it; returns those of every stage."""
    path = run / FACTS
    before: dict[str, float] = json.loads(path.read_text())["minutes"] if path.exists() else {}
    total = before | {stage: round(before.get(stage, 0.0) + minutes, 1)}
    path.write_text(json.dumps({**facts, "minutes": total}, indent=2) + "\n")
    return total
