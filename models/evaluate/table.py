"""The report as a person reads it: accuracies in percent, differences in points, intervals beside both."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tam_edge.models.street.doubts import CANNOT_TELL

SPAN = 15
COUNTS_MARK = "*"
_HEAD = f"{'difference':>10} {'95% interval':>{SPAN}}"


def lines(report: dict[str, Any]) -> Iterator[str]:
    """Every table the report has, and what they mean."""
    yield from _tasks(report)
    for part, title in (("ablations", "arm"), ("encodings", "encoding")):
        if part in report:
            yield ""
            yield from _arms(report[part]["rows"], title)
            yield from _pairs(report[part])
    if "curve" in report:
        yield ""
        yield from _curve(report["curve"])
    if {"ablations", "encodings", "curve"} & set(report):
        yield f"differences in points, on the same questions; {COUNTS_MARK} their 95% interval excludes 0"
    yield f"{report['videos']} videos, seed {report['seed']}, {report['minutes']} minutes"


def _tasks(report: dict[str, Any]) -> Iterator[str]:
    yield f"{'task type':<24} {'accuracy':>8} {'95% interval':>{SPAN}} {'majority':>9} {'questions':>9}"
    for name, scores in (("all", report), *report["per_task"].items()):
        yield f"{name:<24} {_accuracy(scores)} {scores['majority']:>9.1%} {scores['questions']:>9}"
    yield from _doubt(report)


def _doubt(report: dict[str, Any]) -> Iterator[str]:
    for key, where in (("cannot_tell", "where that is right"), ("false_refusals", "where the answer can be seen")):
        found = report[key]
        if found["questions"]:
            low, high = found["ci95"]
            share = f"{found['share']:.1%} ({low:.1%} - {high:.1%})"
            yield f'"{CANNOT_TELL}" is said to {share} of the {found["questions"]} questions {where}'


def _arms(rows: list[dict[str, Any]], title: str) -> Iterator[str]:
    width = max(len(title), *(len(row["arm"]) for row in rows))
    yield f"{title:<{width}} {'accuracy':>8} {'95% interval':>{SPAN}} {_HEAD} {'tokens':>7}  what"
    for row in rows:
        tokens = f"{row['mean_visual_tokens']:>7.0f}"
        yield f"{row['arm']:<{width}} {_accuracy(row)} {_difference(row)} {tokens}  {row['what']}"


def _pairs(compared: dict[str, Any]) -> Iterator[str]:
    """Every two bundles among themselves; of two, the table above has said it."""
    bundles = compared.get("bundles", ())
    pairs = [pair for pair in compared["pairs"] if {pair["arm"], pair["than"]} <= set(bundles)]
    if len(pairs) < 2:
        return
    width = max(len(f"{pair['arm']} than {pair['than']}") for pair in pairs)
    yield ""
    yield f"{'better is':<{width}} {_HEAD}"
    for pair in pairs:
        yield f"{pair['arm'] + ' than ' + pair['than']:<{width}} {_difference(pair)}"


def _curve(curve: dict[str, Any]) -> Iterator[str]:
    rows = []
    for planned, fixed, better in zip(curve["planned"], curve["fixed"], curve["planned_against_fixed"], strict=True):
        rows.append({**planned, **better, "arm": f"planned {planned['budget']}", "what": "against the line below"})
        rows.append({**fixed, "arm": f"fixed {fixed['budget']}", "what": "one pipeline for every task"})
    yield from _arms(rows, "budget")


def _accuracy(scores: dict[str, Any]) -> str:
    low, high = scores["ci95"]
    return f"{scores['accuracy']:>8.1%} {f'{low:.1%} - {high:.1%}':>{SPAN}}"


def _difference(row: dict[str, Any]) -> str:
    if row.get("difference") is None:
        return " " * len(_HEAD)
    low, high = row["difference_ci95"]
    points = f"{100 * row['difference']:+.1f}{COUNTS_MARK if row['counts'] else ' '}"
    span = f"{100 * low:+.1f} to {100 * high:+.1f}"
    return f"{points:>10} {span:>{SPAN}}"
