"""Are deadlines kept, and is the time used? Random runs, half of them in processes of their own, half in one process.

    PYTHONPATH=tests python -m bench_deadline --runs 100 [--bundle FOLDER] [--seed 0] [--threads N] VIDEO...

The device is calibrated first, into a cache folder of the bench's own. Every run asks a random question about a random
video with a deadline between what the quickest and what the whole plan takes, log-uniformly. A run that is refused is
repeated with the deadline that the refusal names. Nothing else should run on the machine. One line a run; the summary
at the end.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from bench_ceiling import QUESTIONS, make_videos

from tam_edge.runtime import DeadlineError, VideoQA
from tam_edge.runtime.duration import duration_seconds, duration_text

CHILD_SECONDS = 600
KEPT_SHARE, USED_SHARE = 0.95, 0.6
"""What the bench asks for: deadlines kept, and the median of measured over asked where the deadline was the limit."""


@dataclass(frozen=True)
class Run:
    """One question with one deadline."""

    video: str
    question: str
    cold: bool
    """Whether in a process of its own, where engines had to be opened."""
    asked_seconds: float
    measured_seconds: float | None
    """Until the first token; None where it was refused."""
    predicted_seconds: float | None
    visual_tokens: int
    limited: bool
    """Whether the deadline cost visual tokens."""
    named_seconds: float | None = None
    """The smallest deadline that a refusal names."""
    error: str = ""
    """Last line of stderr of a run that failed in another way."""

    @property
    def kept(self) -> bool:
        return self.measured_seconds is not None and self.measured_seconds <= self.asked_seconds

    @property
    def used(self) -> float:
        return (self.measured_seconds or 0.0) / self.asked_seconds


class Bench:
    """Asks one bundle, warm in this process and cold in others."""

    def __init__(self, bundle: str | None, threads: int | None) -> None:
        self._qa = VideoQA.load(bundle, threads=threads)
        self._arguments = ["--model", bundle] if bundle else []
        self._arguments += ["--threads", str(threads)] if threads else []

    def close(self) -> None:
        self._qa.close()

    def run(self, video: str, question: str, seconds: float, *, cold: bool) -> Run:
        return (self._cold if cold else self._warm)(video, question, seconds)

    def range_seconds(self, video: str, question: str, *, cold: bool) -> tuple[float, float]:
        """What the quickest and the whole plan take."""
        least = self.run(video, question, 0.001, cold=cold).named_seconds
        whole = self.run(video, question, 6000.0, cold=cold)
        most = whole.predicted_seconds
        assert least and most, whole.error
        return least, max(least, most)

    def _warm(self, video: str, question: str, seconds: float) -> Run:
        with closing(self._qa.open(video)) as clip:
            self._qa.forget()
            try:
                answer = self._qa.ask(clip, question, deadline=seconds, max_tokens=1)
            except DeadlineError as error:
                return Run(video, question, False, seconds, None, None, 0, False, error.needed_seconds)
        return _answered(video, question, False, seconds, answer.to_json())

    def _cold(self, video: str, question: str, seconds: float) -> Run:
        command = [sys.executable, "-c", "from tam_edge.apps.cli import main; main()", "run", "--json"]
        command += ["--video", video, "--ask", question, "--max-tokens", "1", "--deadline", duration_text(seconds)]
        done = subprocess.run(
            [*command, *self._arguments], capture_output=True, text=True, check=False, timeout=CHILD_SECONDS
        )
        if done.returncode == 0:
            return _answered(video, question, True, seconds, json.loads(done.stdout))
        line = (done.stderr.strip().splitlines() or [""])[-1]
        named = _named(line)
        return Run(video, question, True, seconds, None, None, 0, False, named, "" if named else line)


def _answered(video: str, question: str, cold: bool, seconds: float, answer: dict) -> Run:
    first = answer["trace"]["ms"]["first_token"]
    limited = any(rejection["needed_ms"] for rejection in answer["rejections"])
    return Run(
        video,
        question,
        cold,
        seconds,
        first["measured"] / 1000,
        first["predicted"] / 1000,
        answer["visual_tokens"],
        limited,
    )


def _named(line: str) -> float | None:
    _, found, text = line.rpartition("allow at least ")
    return duration_seconds(text, "a deadline") if found else None


def random_runs(bench: Bench, count: int, videos: Sequence[str], seed: int) -> Iterator[tuple[Run, Run | None]]:
    """Random runs; beside one that was refused, its repetition with the deadline that was named."""
    draw = random.Random(seed)
    ranges: dict[tuple[str, str, bool], tuple[float, float]] = {}
    for number in range(count):
        key = draw.choice(videos), draw.choice(QUESTIONS), number % 2 == 0
        video, question, cold = key
        if key not in ranges:
            ranges[key] = bench.range_seconds(video, question, cold=cold)
        least, most = ranges[key]
        first = bench.run(video, question, math.exp(draw.uniform(math.log(least), math.log(most))), cold=cold)
        named = first.named_seconds
        yield first, None if named is None else bench.run(video, question, named, cold=cold)


def summary(runs: Sequence[tuple[Run, Run | None]]) -> dict[str, float | int]:
    """What the issue asks about."""
    every = [one for pair in runs for one in pair if one is not None]
    answered = [one for one in every if one.measured_seconds is not None]
    limited = [one for one in answered if one.limited]
    refused = [second for first, second in runs if second is not None]
    errors = sorted(abs(one.predicted_seconds / one.measured_seconds - 1) for one in answered)
    return {
        "runs": len(runs),
        "answered": len(answered),
        "refused": len(refused),
        "named_deadline_refused": sum(second.measured_seconds is None for second in refused),
        "other_failures": sum(bool(one.error) for one in every),
        "kept_share": sum(one.kept for one in answered) / max(1, len(answered)),
        "limited": len(limited),
        "used_median_where_limited": _quantile(sorted(one.used for one in limited), 0.5),
        "fewer_tokens_with_more_time": _turned(answered),
        "prediction_error_median": _quantile(errors, 0.5),
        "prediction_error_95": _quantile(errors, 0.95),
    }


def describe(one: Run) -> str:
    """One line about a run."""
    text = f"{Path(one.video).name:14} {'cold' if one.cold else 'warm'} asked {1000 * one.asked_seconds:7.0f} ms"
    if one.measured_seconds is None:
        return f"{text} refused, named {one.named_seconds}s {one.error[:300]}"
    text += f" predicted {1000 * one.predicted_seconds:6.0f} measured {1000 * one.measured_seconds:6.0f}"
    return f"{text} tokens {one.visual_tokens:4}{' limited' if one.limited else ''}{'' if one.kept else ' LATE'}"


def _turned(answered: Sequence[Run]) -> int:
    """Pairs of runs with one question of which the one with more time saw less: what was spent before varies."""
    groups: dict[tuple[str, str, bool], list[Run]] = {}
    for one in answered:
        groups.setdefault((one.video, one.question, one.cold), []).append(one)
    pairs = ((low, high) for some in groups.values() for low in some for high in some)
    return sum(low.asked_seconds < high.asked_seconds and low.visual_tokens > high.visual_tokens for low, high in pairs)


def _quantile(values: Sequence[float], share: float) -> float:
    return values[min(len(values) - 1, int(share * len(values)))] if values else 0.0


def main() -> int:
    """Run the bench; exit code 1 where too few deadlines were kept or too little of them was used."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--bundle", help="default: the installed one")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int)
    parser.add_argument("videos", nargs="*", help="default: clips made for this, up to Full HD")
    wishes = parser.parse_args()
    done = []
    with tempfile.TemporaryDirectory() as folder:
        os.environ["TAM_EDGE_CACHE"] = str(Path(folder, "cache"))
        _calibrate(wishes.bundle, wishes.threads)
        videos = wishes.videos or make_videos(Path(folder))
        with closing(Bench(wishes.bundle, wishes.threads)) as bench:
            for first, second in random_runs(bench, wishes.runs, videos, wishes.seed):
                done.append((first, second))
                print(describe(first), flush=True)
                if second is not None:
                    print(f"  named: {describe(second)}", flush=True)
    facts = summary(done)
    print(json.dumps(facts, indent=2))
    late = facts["kept_share"] < KEPT_SHARE or (facts["limited"] and facts["used_median_where_limited"] < USED_SHARE)
    return int(bool(late or facts["named_deadline_refused"] or facts["other_failures"]))


def _calibrate(bundle: str | None, threads: int | None) -> None:
    from tam_edge.runtime.calibrate import calibrate

    rates = calibrate(bundle, threads=threads, progress=lambda doing: print(doing, file=sys.stderr, flush=True))
    print(rates.model_dump_json(), flush=True)


if __name__ == "__main__":
    sys.exit(main())
