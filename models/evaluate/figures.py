"""The report as pictures, and the numbers in them as JSON: differences of every arm, and the curve over tokens."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure  # without pyplot: no window system, no state

DPI = 150
COUNTS_COLOUR, OTHER_COLOUR = "#1f77b4", "#9aa0a6"
NUMBERS_FILE = "figures.json"


def write_figures(report: dict[str, Any], folder: Path) -> list[Path]:
    """Write a PNG for every part the report has, and `figures.json`; returns what was written.

    Raises:
        OSError: the folder cannot be made or written to.
    """
    folder.mkdir(parents=True, exist_ok=True)
    about = f"{report['videos']} videos, {report['questions']} questions, seed {report['seed']}; 95% intervals"
    figures = {
        name: _differences(report[name]["rows"], title, about)
        for name, title in (("ablations", "Ablations"), ("encodings", "The same films, saved in other ways"))
        if name in report
    }
    if "curve" in report:
        figures["curve"] = _curve(report["curve"], about)
    written = [folder / f"{name}.png" for name in figures]
    for path, figure in zip(written, figures.values(), strict=True):
        figure.savefig(path, dpi=DPI)
    numbers = {key: report[key] for key in ("bundle", "seed", "videos", "questions", *figures)}
    (folder / NUMBERS_FILE).write_text(json.dumps(numbers, indent=1), encoding="utf-8")
    return [*written, folder / NUMBERS_FILE]


def _differences(rows: Sequence[dict[str, Any]], title: str, about: str) -> Figure:
    baseline, *arms = rows
    figure = Figure(figsize=(8, 1.6 + 0.4 * len(arms)), layout="constrained")
    axes = figure.subplots()
    for place, row in enumerate(arms):
        middle, (low, high) = row["difference"], row["difference_ci95"]
        colour = COUNTS_COLOUR if row["counts"] else OTHER_COLOUR
        reach = [[100 * max(0.0, middle - low)], [100 * max(0.0, high - middle)]]
        axes.errorbar([100 * middle], [place], xerr=reach, fmt="o", color=colour, capsize=3)
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_yticks(range(len(arms)), [f"{row['arm']} ({row['accuracy']:.1%})" for row in arms])
    axes.invert_yaxis()
    axes.set_xlabel(f"points of accuracy against the baseline's {baseline['accuracy']:.1%}; grey: may be chance")
    axes.set_title(f"{title}\n{about}", fontsize=10)
    axes.grid(axis="x", alpha=0.3)
    return figure


def _curve(curve: dict[str, Any], about: str) -> Figure:
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    lines = (("planned", "planned by task"), ("fixed", "one pipeline for every task"))
    for line, label in lines:
        points = curve[line]
        tokens = [point["mean_visual_tokens"] for point in points]
        heights = [100 * point["accuracy"] for point in points]
        below = [height - 100 * point["ci95"][0] for height, point in zip(heights, points, strict=True)]
        above = [100 * point["ci95"][1] - height for height, point in zip(heights, points, strict=True)]
        axes.errorbar(tokens, heights, yerr=[below, above], fmt="o-", capsize=3, label=label)
    axes.set_xlabel("visual tokens a question, mean")
    axes.set_ylabel("accuracy, %")
    axes.set_title(f"Accuracy against visual tokens\n{about}", fontsize=10)
    axes.grid(alpha=0.3)
    axes.legend()
    return figure
