"""A live session for an hour: is memory constant, is every moment there, how soon is the first word of an answer?

    PYTHONPATH=tests python -m bench_live [--minutes 60] [--bundle FOLDER] [--rounds 15] [--memory 1GiB]

The synthetic street camera is watched for an hour, faster than real time: a new scene every minute. Questions are asked
all along. Then every minute that the window still covers is asked about, and the answers are compared with the known
ones; windows of 10 s and 10 min are asked about in turns; and the last ten minutes, written to a file, are asked about
by a new process. Timings want a machine that does nothing else. Exit code 1 where an aim is missed.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tam_edge.models.street import Scene, make_scene, questions, render, score
from tam_edge.runtime import Live, VideoQA
from tam_edge.runtime.budget import resident_bytes

SCENE_SECONDS = 60
FIRST_SEED = 950_000
GROWTH, RATIO, SOONER = 0.02, 1.1, 5.0
"""Aims: growth from minute 5 on; first token with 10 min over that with 10 s, per visual token; cold file over live."""
QUESTION = "how many people?"
COLD = """
import json, sys
from tam_edge.runtime import VideoQA
with VideoQA.load(sys.argv[2] or None) as qa:
    answer = qa.ask(qa.open(sys.argv[1]), sys.argv[3])
print(json.dumps([answer.timings.first_token, answer.plan.visual_tokens]))
"""


def scene_of(minute: int) -> Scene:
    """A scene that lasts nearly a minute; the rest of it nothing moves."""
    seeds = range(FIRST_SEED + 1000 * minute, FIRST_SEED + 1000 * (minute + 1))
    return next(scene for scene in map(make_scene, seeds) if 50 <= scene.duration_seconds <= SCENE_SECONDS)


def seen_at(scene: Scene, seconds: float) -> NDArray[np.uint8]:
    """The frame at a second of its minute."""
    return render(scene, min(seconds, scene.duration_seconds - 0.01))


def hour(minutes: int, facts: dict[str, list[int]]) -> Iterator[tuple[NDArray[np.uint8], float]]:
    """One frame a second; what the process holds at the end of every minute goes into `facts`."""
    for minute in range(minutes):
        scene = scene_of(minute)
        for second in range(SCENE_SECONDS):
            yield seen_at(scene, float(second)), float(minute * SCENE_SECONDS + second)
        facts["resident_bytes"].append(resident_bytes())


def watch(live: Live, minutes: int) -> None:
    """Ask now and then until the stream is over."""
    asked = 0
    while live.status.state == "live":
        if live.status.frames_seen >= (asked + 1) * 100:
            asked += 1
            live.ask((QUESTION, "what is the dog doing?", "what does the sign say?")[asked % 3], last="1min")
        time.sleep(0.05)
    while live.status.frames_seen + live.status.frames_dropped < minutes * SCENE_SECONDS:
        time.sleep(0.05)


def moments(live: Live, minutes: int) -> dict[str, int]:
    """Ask about every minute that is covered; how many answers are right, and how many frames are of another minute."""
    right = asked = elsewhere = 0
    start, covered = live.status.started_seconds, live.status.kept_from_seconds or 0.0
    for minute in range(minutes):
        first = start + minute * SCENE_SECONDS
        if first < covered:
            continue
        scene = scene_of(minute)
        for question in questions(scene)[:8]:
            answer = live.ask(question.text, since=first, until=first + scene.duration_seconds)
            asked += 1
            right += score(answer.text, question.answer)
            elsewhere += sum(not first <= seen.time_seconds <= first + SCENE_SECONDS for seen in answer.evidence)
    return {"asked": asked, "right": right, "frames_elsewhere": elsewhere}


def first_tokens(live: Live, rounds: int) -> dict[str, float]:
    """Milliseconds to the first token for windows of 10 s and of 10 min, in turns, nothing reused."""
    found: dict[str, list[tuple[float, int]]] = {"10s": [], "10min": []}
    for turn in range(rounds):
        for name, seconds in (("10s", 10.0), ("10min", 595.0)):
            answer = live.ask(QUESTION, last=seconds + turn / 100)  # another stretch each time
            assert answer.answer.cache["prefix_tokens_reused"] == 0
            found[name].append((answer.answer.timings.first_token, answer.plan.visual_tokens))
    return {
        key: value
        for name, pairs in found.items()
        for key, value in (
            (f"first_token_ms_{name}", statistics.median(ms for ms, _ in pairs)),
            (f"visual_tokens_{name}", statistics.median(tokens for _, tokens in pairs)),
        )
    }


def write_last(path: Path, minutes: int, fps: int = 2) -> None:
    """The last ten minutes as a file."""
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(fps), options={"crf": "23", "preset": "veryfast"})
        stream.width, stream.height, stream.pix_fmt = 336, 336, "yuv420p"
        for minute in range(max(0, minutes - 10), minutes):
            scene = scene_of(minute)
            for at in range(SCENE_SECONDS * fps):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(seen_at(scene, at / fps), format="rgb24")))
        container.mux(stream.encode())


def cold(path: Path, bundle: str | None, rounds: int) -> float:
    """Milliseconds to the first token of a new process, the file's decoding and all."""
    found = []
    for _ in range(rounds):
        command = [sys.executable, "-c", COLD, str(path), bundle or "", QUESTION]
        found.append(json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)[0])
    return statistics.median(found)


def main() -> int:
    """Run the bench."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--bundle")
    parser.add_argument("--memory")
    wishes = parser.parse_args()
    facts: dict[str, list[int]] = {"resident_bytes": []}
    with VideoQA.load(wishes.bundle, memory=wishes.memory) as qa:
        source = hour(wishes.minutes, facts)
        with qa.live(source, every_frame=True, keep_ready=False) as live:
            began = time.monotonic()
            watch(live, wishes.minutes)
            status = live.status
            told: dict[str, float] = {
                "seconds": time.monotonic() - began,
                "frames_seen": status.frames_seen,
                "frames_kept": status.frames_kept,
                "look_ms": status.look_ms,
            }
            told |= first_tokens(live, wishes.rounds) | moments(live, wishes.minutes)
            told["peak_bytes"] = live.ask(QUESTION).answer.peak_bytes
            told["predicted_bytes"] = live._room.predicted_bytes
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "last.mp4"
        write_last(path, wishes.minutes)
        told["first_token_ms_cold_file"] = cold(path, wishes.bundle, max(3, wishes.rounds // 3))
    early, late = facts["resident_bytes"][min(4, wishes.minutes - 1)], facts["resident_bytes"][-1]
    told |= {"resident_bytes_minute_5": early, "resident_bytes_end": late, "growth": late / early - 1}
    per_token = [told[f"first_token_ms_{name}"] / told[f"visual_tokens_{name}"] for name in ("10min", "10s")]
    told["ratio_per_token"] = per_token[0] / per_token[1]
    told["sooner_than_cold"] = told["first_token_ms_cold_file"] / told["first_token_ms_10min"]
    print(json.dumps(told, indent=2))
    aims = (
        abs(told["growth"]) <= GROWTH,
        told["ratio_per_token"] <= RATIO,
        told["sooner_than_cold"] >= SOONER,
        told["frames_elsewhere"] == 0,
        told["peak_bytes"] <= told["predicted_bytes"],
    )
    return int(not all(aims))


if __name__ == "__main__":
    sys.exit(main())
