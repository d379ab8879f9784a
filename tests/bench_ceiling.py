"""Is the memory ceiling kept, and is it predicted well? Random runs in child processes, each judged by its own VmHWM.

    PYTHONPATH=tests python -m bench_ceiling --runs 60 [--bundle FOLDER] [--seed 0] [--frames N] VIDEO...

Every run asks a random question about a random video under a random ceiling, from below the smallest to plenty. A
watcher looks every 20 ms and kills a child that has passed its ceiling. A run that is refused is repeated with the
ceiling that the refusal names, which has to succeed. One line a run; the summary at the end.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

MIB = 1 << 20
BARELY_STARTED_BYTES = 95 * MIB
"""Enough to open a video, not enough for the libraries that answer."""
POLL_SECONDS = 0.02
CHILD_SECONDS = 300
QUESTIONS = (
    "how many people are there?",
    "what is the person doing?",
    "what happens first, and what after it?",
    "summarize the video",
    "what does the sign say?",
    "where is the car, left or right of the dog?",
    "why does the person stop?",
    "what colour is the coat of the person who comes last, " + "and of the one before, " * 12 + "if any?",
)


@dataclass(frozen=True)
class Run:
    """How one child ended."""

    video: str
    ceiling_bytes: int
    peak_bytes: int
    """VmHWM at the end, or when it was killed."""
    killed: bool
    answer: dict | None
    """The answer's JSON."""
    plan: dict | None
    imported_bytes: int
    """Resident set once everything was imported; 0 where that did not happen."""
    error: str
    """Last line of stderr."""

    @property
    def breached(self) -> bool:
        return self.killed or self.peak_bytes > self.ceiling_bytes

    @property
    def named_bytes(self) -> int | None:
        """The smallest ceiling that a refusal names."""
        if "allow at least" not in self.error:
            return None
        return int(self.error.rpartition("allow at least ")[2].split("MiB")[0]) * MIB

    @property
    def predicted_bytes(self) -> int:
        return max(self.plan["predicted_bytes"].values()) if self.plan else 0


def run(video: str, question: str, ceiling_bytes: int, *arguments: str) -> Run:
    """One `tam-edge run` in a process of its own, killed when it passes the ceiling."""
    command = [sys.executable, __file__, "--child", "run", "--video", video, "--ask", question]
    command += ["--memory", f"{ceiling_bytes}B", "--json", "--stream", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        peak, killed, end = 0, False, time.monotonic() + CHILD_SECONDS
        while child.poll() is None:
            peak = max(peak, _peak_of(child.pid))
            killed = killed or peak > ceiling_bytes
            if killed or time.monotonic() > end:
                child.kill()
            time.sleep(POLL_SECONDS)
        out, err = child.communicate()
    facts, lines = {}, err.strip().splitlines()
    if lines and lines[-1].startswith('{"peak_bytes"'):
        facts = json.loads(lines.pop())
    events = {event["event"]: event for event in map(json.loads, out.splitlines())}
    peak = max(peak, facts.get("peak_bytes", 0))
    plan = events.get("plan", {}).get("plan")
    error = lines[-1] if lines and child.returncode != 0 else ""
    return Run(video, ceiling_bytes, peak, killed, events.get("answer"), plan, facts.get("imported_bytes", 0), error)


def random_runs(count: int, videos: Sequence[str], seed: int, *arguments: str) -> Iterator[tuple[Run, Run | None]]:
    """Random runs; beside one that was refused, its repetition with the ceiling that was named."""
    draw = random.Random(seed)
    smallest: dict[str, int] = {}
    for _ in range(count):
        video, question = draw.choice(videos), draw.choice(QUESTIONS)
        share = 0.85 * 2 ** draw.random() if draw.random() < 0.75 else 1.7 + draw.random()  # mostly near the smallest
        if video not in smallest:
            guess = run(video, QUESTIONS[0], BARELY_STARTED_BYTES, *arguments).named_bytes or 200 * MIB
            smallest[video] = run(video, QUESTIONS[0], int(0.85 * guess), *arguments).named_bytes or guess
        first = run(video, question, int(share * smallest[video]), *arguments)
        named = first.named_bytes
        yield first, run(video, question, named, *arguments) if named is not None else None


def summary(runs: Sequence[tuple[Run, Run | None]]) -> dict[str, float | int]:
    """What the issue asks about."""
    answered = [one for pair in runs for one in pair if one is not None and one.answer is not None]
    refused = [pair for pair in runs if pair[1] is not None]
    again = [second for _, second in refused if second is not None and second.answer is not None]
    whole = sorted(_error(one.predicted_bytes, one.peak_bytes) for one in answered)
    above = sorted(
        _error(one.predicted_bytes - one.imported_bytes, one.peak_bytes - one.imported_bytes) for one in answered
    )
    limited = [
        one
        for one in answered
        if any("visual tokens" in r["what"] and r["needed_bytes"] for r in one.plan["rejections"])
    ]
    return {
        "runs": len(runs),
        "answered": len(answered),
        "refused": len(refused),
        # a refusal is no breach of the memory it refuses to take; what Python itself holds cannot be less
        "breaches": sum(one.breached for one in answered) + sum(one.killed for pair in runs for one in pair if one),
        "other_failures": sum(first.answer is None and second is None for first, second in runs),
        "named_ceiling_failed": len(refused) - len(again),
        "named_over_peak_most": max((one.ceiling_bytes / one.peak_bytes for one in again), default=0.0),
        "tokens_limited": len(limited),
        "use_where_limited_least": min((one.peak_bytes / one.ceiling_bytes for one in limited), default=1.0),
        "error_95": _quantile(whole, 0.95),
        "error_most": whole[-1] if whole else 0.0,
        "error_above_imports_95": _quantile(above, 0.95),
        "error_above_imports_most": above[-1] if above else 0.0,
    }


def describe(one: Run) -> str:
    """One line about a run."""
    name, sizes = (
        Path(one.video).name,
        [size / MIB for size in (one.ceiling_bytes, one.peak_bytes, one.predicted_bytes)],
    )
    text = f"{name:28} ceiling {sizes[0]:7.1f} peak {sizes[1]:6.1f} predicted {sizes[2]:6.1f}"
    if one.answer is None:
        return f"{text} {'KILLED' if one.killed else one.error[:330]}"
    stages = " ".join(f"{stage} {size / MIB:.1f}" for stage, size in one.plan["predicted_bytes"].items())
    given = ", ".join(r["what"] for r in one.plan["rejections"] if r["needed_bytes"])
    text += f" imports {one.imported_bytes / MIB:.1f} tokens {one.plan['visual_tokens']} [{stages}] given up: {given}"
    return f"{text} BREACH" if one.breached else text


def make_videos(folder: Path) -> list[str]:
    """Short clips of several sizes, codecs and numbers of pictures that their decoder holds."""
    from make_clips import steady, write_clip

    quick = {"preset": "ultrafast"}
    clips = (
        ("small.mp4", "libx264", (320, 240), 60, quick),
        ("refs.mkv", "libx264", (640, 360), 40, {"preset": "superfast", "refs": "6", "bf": "3"}),
        ("hd.mp4", "libx265", (1280, 720), 16, quick),
        ("full-hd.mp4", "libx264", (1920, 1080), 16, {"preset": "superfast", "refs": "4", "bf": "2"}),
        ("vp9.webm", "libvpx-vp9", (640, 360), 16, {"deadline": "realtime", "cpu-used": "8"}),
    )
    return [
        str(write_clip(folder / name, steady(frames, every_ms=250), codec, size_px=size, options=options))
        for name, codec, size, frames, options in clips
    ]


def _error(predicted: int, measured: int) -> float:
    return abs(predicted - measured) / max(1, measured)


def _quantile(values: Sequence[float], share: float) -> float:
    return values[min(len(values) - 1, int(share * len(values)))] if values else 0.0


def _peak_of(pid: int) -> int:
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace")
    except OSError:
        return 0
    return 1024 * int(status.partition("VmHWM:")[2].split()[0]) if "VmHWM:" in status else 0


def _child(arguments: Sequence[str]) -> int:
    """`tam-edge ARGUMENTS` with two facts about this process as the last line of stderr."""
    from tam_edge.apps.cli import run as command_line
    from tam_edge.apps.interrupt import Interrupt
    from tam_edge.runtime import admission
    from tam_edge.runtime.budget import resident_bytes

    imported = [0]
    importing = admission.import_libraries

    def noted() -> None:
        importing()
        imported[0] = resident_bytes()

    admission.import_libraries = noted
    code = command_line(arguments, Interrupt())
    facts = {"peak_bytes": _peak_of(os.getpid()), "imported_bytes": imported[0]}
    print(json.dumps(facts), file=sys.stderr)
    return code


def main() -> int:
    """Run the bench; exit code 1 where the ceiling was passed or a named ceiling failed."""
    if sys.argv[1:2] == ["--child"]:
        return _child(sys.argv[2:])
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=60)
    parser.add_argument("--bundle", help="default: the installed one")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--frames", type=int)
    parser.add_argument("--threads", type=int)
    parser.add_argument("videos", nargs="*", help="default: clips made for this, up to Full HD")
    wishes = parser.parse_args()
    options = {"--model": wishes.bundle, "--frames": wishes.frames, "--threads": wishes.threads}
    arguments = [text for name, value in options.items() if value is not None for text in (name, str(value))]
    done = []
    with tempfile.TemporaryDirectory() as folder:
        videos = wishes.videos or make_videos(Path(folder))
        for first, second in random_runs(wishes.runs, videos, wishes.seed, *arguments):
            done.append((first, second))
            print(describe(first), flush=True)
            if second is not None:
                print(f"  named: {describe(second)}", flush=True)
    facts = summary(done)
    print(json.dumps(facts, indent=2))
    return int(bool(facts["breaches"] or facts["named_ceiling_failed"] or facts["other_failures"]))


if __name__ == "__main__":
    sys.exit(main())
