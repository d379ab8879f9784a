"""Two pictures for the report, as SVG inside the page: sizes part by part, and the error layer by layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tam_edge.runtime.page import text

WIDTH = 760
"""Width of both pictures in user units; the page scales them."""
_LEFT, _RIGHT, _TOP = 60, 16, 12
_BAR, _ROW = 12, 38


def sizes(files: Sequence[dict[str, Any]]) -> str:
    """A pair of bars for every role: what its file had and what it has, in MiB."""
    most = max(one[who]["size_bytes"] for one in files for who in ("old", "new"))
    left, room = 150, WIDTH - 150 - 130
    parts = []
    for row, one in enumerate(files):
        y = _TOP + row * _ROW
        parts.append(_text(left - 10, y + 16, one["role"], "end"))
        for step, who in enumerate(("old", "new")):
            length = max(1.0, room * one[who]["size_bytes"] / most)
            label = f"{one[who]['size_bytes'] / 2**20:.1f} MiB, {one[who]['precision']}"
            at = y + step * (_BAR + 2)
            parts.append(f'<rect class="{who}" x="{left}" y="{at}" width="{length:.1f}" height="{_BAR}" rx="3"/>')
            parts.append(_text(left + length + 6, at + 10, label, "start"))
    return _svg(parts, _TOP + len(files) * _ROW, "sizes of the files before and after")


def layer_errors(stages: Sequence[dict[str, Any]]) -> str:
    """Bars for the error each stage adds, a line for the error so far, both in percent of the standard deviation."""
    height, room = 260, WIDTH - _LEFT - _RIGHT
    floor, ceiling = height - 34, _TOP + 8
    most: float = max([1e-6, *(stage["so_far"] for stage in stages), *(stage["added"] for stage in stages)])
    step = room / max(1, len(stages))

    def level(value: float) -> float:
        return floor - (floor - ceiling) * value / most

    parts = []
    for share in (0.0, 0.5, 1.0):
        y = level(share * most)
        parts.append(f'<line class="rule" x1="{_LEFT}" y1="{y:.1f}" x2="{WIDTH - _RIGHT}" y2="{y:.1f}"/>')
        parts.append(_text(_LEFT - 8, y + 4, f"{100 * share * most:.2g}%", "end"))
    points = []
    for index, stage in enumerate(stages):
        x = _LEFT + step * (index + 0.5)
        y = level(stage["added"])
        width = max(1.5, step * 0.6)
        bits = ", ".join(f"{kind} {'fp32' if n == 32 else f'{n} bits'}" for kind, n in stage["bits"].items())
        title = (
            f"<title>{text(stage['stage'])}: adds {stage['added']:.2%}, {stage['so_far']:.2%} so far; {bits}</title>"
        )
        box = f'x="{x - width / 2:.1f}" y="{y:.1f}" width="{width:.1f}" height="{max(0.5, floor - y):.1f}"'
        parts.append(f'<rect class="new" {box}>{title}</rect>')
        points.append(f"{x:.1f},{level(stage['so_far']):.1f}")
    parts.append(f'<polyline class="line" points="{" ".join(points)}"/>')
    parts.append(_text(_LEFT, height - 10, "first stage", "start"))
    parts.append(_text(WIDTH - _RIGHT, height - 10, "output", "end"))
    return _svg(parts, height, "error that each stage adds, and the error so far")


def _text(x: float, y: float, words: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{text(words)}</text>'


def _svg(parts: Sequence[str], height: float, label: str) -> str:
    inside = "".join(parts)
    return f'<svg viewBox="0 0 {WIDTH} {height:.0f}" role="img" aria-label="{text(label)}">{inside}</svg>'
