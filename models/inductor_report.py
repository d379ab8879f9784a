"""A finished Inductor training as a table and as pictures: confusion matrix and reliability diagram."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tam_edge.models.inductor import TASKS
from tam_edge.runtime.errors import MissingExtraError, UsageError

CONFUSION_FILE, RELIABILITY_FILE = "inductor-confusion.png", "inductor-reliability.png"

_INK, _BARS, _LINE = "#222222", "#4a78b0", "#b04a4a"


def read_metrics(run: Path) -> dict[str, Any]:
    """What a finished run measured.

    Raises:
        UsageError: there is no finished run in the folder.
    """
    try:
        metrics: dict[str, Any] = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{run} has no metrics.json: finish the training first") from error
    return metrics


def figures_table(metrics: dict[str, Any]) -> str:
    """The figures of a run, a line each."""
    said, otherwise = metrics["paraphrases"], metrics["said_otherwise"]
    fresh, again = metrics["fresh"], metrics["fresh_paraphrases"]
    lines = [f"{'cross-validated':<28} {'strict':>7} {'or second':>10}"]
    for name in ("", "_public", "_written"):
        if f"accuracy{name}" in metrics:
            row = (metrics[f"accuracy{name}"], metrics[f"accuracy{name}_with_second_label"])
            lines.append(f"{name.strip('_') or 'all':<28} {row[0]:>7.1%} {row[1]:>10.1%}")
    lines += [
        f"calibration error {metrics['calibration_error']:.4f}, the paper's {metrics['calibration_error_paper']:.4f}",
        f"{said['questions']} paraphrases {said['accuracy']:.1%}, their originals {said['accuracy_of_originals']:.1%}",
        f"{otherwise['questions']} other wordings of all of them {otherwise['accuracy']:.1%}",
        f"fresh questions {fresh['accuracy']:.1%} of {fresh['questions']}, "
        f"their paraphrases {again['accuracy']:.1%} of {again['questions']}",
        f"street camera {metrics['street_accuracy']:.2%} of {metrics['street_questions']} questions",
        f"above the threshold of {metrics['threshold']}: {metrics['right_above_threshold']:.1%} of the right answers; "
        f"below it: {metrics['none_below_threshold']:.1%} of what is no question about a video",
    ]
    if "int8_accuracy" in metrics:
        rounded = metrics["int8_paraphrases"]
        lines.append(
            f"with 8-bit weights {metrics['int8_accuracy']:.1%}, {metrics['int8_labels_differ']} task types differ; "
            f"paraphrases {rounded['accuracy']:.1%}"
        )
    if "untrimmed_accuracy" in metrics:
        lines.append(
            f"with all word pieces {metrics['untrimmed_accuracy']:.1%}, {metrics['trimming_labels_differ']} differ"
        )
    for name, row in zip(TASKS, metrics["confusion"], strict=True):
        lines.append(f"{name:<28}" + "".join(f"{count:>5}" for count in row))
    return "\n".join(lines)


def draw_figures(metrics: dict[str, Any], out: Path) -> tuple[Path, Path]:
    """Write both pictures into `out`; returns their paths.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise MissingExtraError("figures", "drawing figures") from error
    out.mkdir(parents=True, exist_ok=True)
    _confusion(metrics["confusion"], out / CONFUSION_FILE)
    _reliability(metrics["buckets"], metrics["calibration_error"], out / RELIABILITY_FILE)
    return out / CONFUSION_FILE, out / RELIABILITY_FILE


def _confusion(counts: list[list[int]], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5, 6.5), layout="constrained")
    axes = figure.add_subplot()
    shares = [[count / max(1, sum(row)) for count in row] for row in counts]
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for true, row in enumerate(counts):
        for found, count in enumerate(row):
            ink = "white" if shares[true][found] > 0.5 else _INK
            axes.text(found, true, str(count) if count else "", ha="center", va="center", color=ink)
    axes.set_xticks(range(len(TASKS)), TASKS, rotation=40, ha="right")
    axes.set_yticks(range(len(TASKS)), TASKS)
    axes.set(xlabel="task type found", ylabel="task type of the question", title="Questions no model was trained on")
    figure.savefig(path, dpi=120)


def _reliability(buckets: list[dict[str, float]], error: float, path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.0, 5.5), layout="constrained")
    axes = figure.add_subplot()
    filled = [bucket for bucket in buckets if bucket["questions"]]
    width = 0.9 / len(buckets)
    middles = [(bucket["low"] + bucket["high"]) / 2 for bucket in filled]
    axes.bar(middles, [bucket["accuracy"] for bucket in filled], width=width, color=_BARS, label="accuracy")
    axes.plot([0, 1], [0, 1], color=_LINE, linewidth=1, label="perfectly calibrated")
    for middle, bucket in zip(middles, filled, strict=True):
        axes.text(middle, bucket["accuracy"] + 0.01, str(bucket["questions"]), ha="center", fontsize=8, color=_INK)
    axes.set(xlim=(0, 1), ylim=(0, 1.06), xlabel="confidence", ylabel="share of right answers")
    axes.set_title(f"Calibration error {error:.3f}; questions above each bar")
    axes.legend(loc="upper left")
    figure.savefig(path, dpi=120)
