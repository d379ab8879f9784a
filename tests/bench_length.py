"""Does memory grow with the clip? The same plan on 10 s, 10 min and 10 h, in children judged by their own VmHWM.

    PYTHONPATH=tests python -m bench_length [--runs 3] [--bundle FOLDER] [--folder FOLDER]

The clips repeat the packets of one scene at 25 frames a second and a low bitrate, in mkv, MPEG-TS and mp4. An mp4's
index is held whole by FFmpeg, so there the growth a sample is what counts, measured and predicted.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path

from bench_ceiling import run

from tam_edge.apps.bench.clips import FPS, SCENE_SECONDS, ClipSpec, make_clip, repeat_scene

HOURS_10, MINUTES_10 = 36_000, 600
LENGTHS_SECONDS = (SCENE_SECONDS, MINUTES_10, HOURS_10)
CONTAINERS = ("mkv", "ts", "mp4")
PLENTY_BYTES = 8 << 30
PLAN = ("--frames", "8", "--grid", "8")
MOST_RATIO, MOST_SAMPLE_BYTES = 1.02, 90
"""What the bench asks for: largest over smallest peak in mkv and TS; growth a sample of the index in mp4."""


def measure(clip: Path, runs: int, *arguments: str) -> dict[str, int]:
    """Median peak and predicted peak of the same question, in bytes.

    Raises:
        RuntimeError: a run failed.
    """
    done = [run(str(clip), "how many people?", PLENTY_BYTES, *PLAN, *arguments) for _ in range(runs)]
    for one in done:
        if one.answer is None or one.answer["frames"] != 8:
            raise RuntimeError(one.error or f"{clip.name}: no answer")
    peaks, predicted = [one.peak_bytes for one in done], [one.predicted_bytes for one in done]
    return {"peak_bytes": round(statistics.median(peaks)), "predicted_bytes": round(statistics.median(predicted))}


def summary(peaks: dict[str, dict[int, dict[str, int]]]) -> dict[str, dict[str, float]]:
    """By container: largest over smallest peak, and what a sample between 10 s and 10 h adds."""
    facts = {}
    for container, found in peaks.items():
        measured = [found[length]["peak_bytes"] for length in LENGTHS_SECONDS]
        samples = (HOURS_10 - SCENE_SECONDS) * FPS
        facts[container] = {
            "ratio": max(measured) / min(measured),
            "sample_bytes": (measured[-1] - measured[0]) / samples,
            "predicted_sample_bytes": (found[HOURS_10]["predicted_bytes"] - found[SCENE_SECONDS]["predicted_bytes"])
            / samples,
        }
    return facts


def main() -> int:
    parser = argparse.ArgumentParser(description="Compare the peak of memory over clips of 10 s, 10 min and 10 h.")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--bundle")
    parser.add_argument("--folder", type=Path, help="keeps the clips")
    asked = parser.parse_args()
    arguments = ("--model", asked.bundle) if asked.bundle else ()
    peaks: dict[str, dict[int, dict[str, int]]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = asked.folder or Path(temporary)
        scene = make_clip(ClipSpec("h264", 250, True, "10s", 320, 240), folder)
        for container in CONTAINERS:
            for length in LENGTHS_SECONDS:
                clip = folder / f"length-{length}s.{container}"
                if not clip.exists():
                    repeat_scene(scene, clip, length // SCENE_SECONDS)
                found = measure(clip, asked.runs, *arguments)
                peaks.setdefault(container, {})[length] = found
                print(json.dumps({"clip": clip.name, "file_bytes": clip.stat().st_size, **found}), flush=True)
                if asked.folder is None:
                    clip.unlink()
    facts = summary(peaks)
    print(json.dumps(facts, indent=2))
    flat = all(facts[container]["ratio"] <= MOST_RATIO for container in ("mkv", "ts"))
    return int(not flat or facts["mp4"]["sample_bytes"] > MOST_SAMPLE_BYTES)


if __name__ == "__main__":
    sys.exit(main())
