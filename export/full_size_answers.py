"""From a video file to an answer with bundles of full size: milliseconds, tokens per second and the peak of memory.

    python -m tam_edge.export.full_size_answers BUNDLE BUNDLE --video clip.mp4 --frames 4

Every run is a `tam-edge run` in a process of its own, the bundles in turns. Prints a table, or JSON with `--json`.
Weights are taken to be random: such a model never ends an answer by itself, so its tokens need not be counted.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tam_edge.runtime.budget import MIB

QUESTION = "What happens in the street?"
FEW_TOKENS, MANY_TOKENS = 1, 17
"""Decoding is timed by the difference of two answers of these lengths, so what every answer costs does not count."""
COLUMNS = {
    "vision_ms_per_frame": "vision, ms a frame",
    "prefill_tokens_per_second": "prefill, tokens/s",
    "decode_tokens_per_second": "decode, tokens/s",
    "load_ms": "load, ms",
    "first_token_ms": "first token, ms",
    "peak_mib": "peak, MiB",
}
"""What is measured, and its heading."""


def measure(bundles: Sequence[Path], video: Path, frames: int, rounds: int, threads: int) -> dict[str, dict[str, Any]]:
    """The median of `rounds` of everything in COLUMNS, by the bundle's folder name.

    Raises:
        RuntimeError: a run failed; the message is its last line.
    """
    runs: dict[str, list[dict[str, float]]] = {bundle.name: [] for bundle in bundles}
    for turn in range(rounds):
        for bundle in bundles:
            print(f"round {turn + 1} of {rounds}: {bundle.name}", file=sys.stderr)
            few, many = (_answer(bundle, video, frames, threads, most) for most in (FEW_TOKENS, MANY_TOKENS))
            runs[bundle.name].append(_figures(few, many))
    return {
        name: {figure: statistics.median(run[figure] for run in some) for figure in COLUMNS}
        for name, some in runs.items()
    }


def _answer(bundle: Path, video: Path, frames: int, threads: int, tokens: int) -> dict[str, Any]:
    command = [Path(sys.executable).with_name("tam-edge"), "run", "--json", "--model", bundle, "--video", video]
    command += ["--ask", QUESTION, "--frames", frames, "--threads", threads, "--max-tokens", tokens]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError((done.stderr.strip() or f"exit code {done.returncode}").splitlines()[-1])
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def _figures(few: Mapping[str, Any], many: Mapping[str, Any]) -> dict[str, float]:
    first, last = few["timings_ms"], many["timings_ms"]
    decoding = max(last["generate"] - first["generate"], 1e-3)
    return {
        "vision_ms_per_frame": (first["vision"] + last["vision"]) / 2 / few["frames"],
        "prefill_tokens_per_second": 2000 * few["visual_tokens"] / (first["prefill"] + last["prefill"]),
        "decode_tokens_per_second": 1000 * (MANY_TOKENS - FEW_TOKENS) / decoding,
        "load_ms": (first["load"] + last["load"]) / 2,
        "first_token_ms": (first["first_token"] + last["first_token"]) / 2,
        "peak_mib": max(few["peak_bytes"], many["peak_bytes"]) / MIB,
    }


def table(measured: Mapping[str, Mapping[str, float]]) -> str:
    """The figures as a Markdown table, a bundle a row."""
    rows = [("bundle", *COLUMNS.values()), ("---",) * (1 + len(COLUMNS))]
    rows += [(name, *(f"{figures[column]:.4g}" for column in COLUMNS)) for name, figures in measured.items()]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _main() -> None:
    parser = argparse.ArgumentParser(description="Ask bundles of full size about a few frames and time every stage.")
    parser.add_argument("bundles", type=Path, nargs="+")
    parser.add_argument("--video", type=Path, required=True)
    parser.add_argument("--frames", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    try:
        measured = measure(asked.bundles, asked.video, asked.frames, asked.rounds, asked.threads)
    except RuntimeError as error:
        parser.error(str(error))
    print(json.dumps(measured) if asked.json else table(measured))


if __name__ == "__main__":
    _main()
