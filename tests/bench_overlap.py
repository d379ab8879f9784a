"""Is overlapping faster? The same questions one thing after the other and beside each other, in turns.

    PYTHONPATH=tests python -m bench_overlap --rounds 15 [--bundle FOLDER] [--threads N] VIDEO...

Each round asks in a process of its own per way, in an order that changes: once with every engine still to be opened,
then some times with open engines and nothing else kept. Below each clip the medians until the first token, and the
middle half of them. The last line says whether every answer was the same. Nothing else should run on the machine.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from statistics import median, quantiles

WAYS = {"serial": (False, False), "ahead": (True, False), "beside": (False, True), "both": (True, True)}
"""Whether decoding runs ahead, and the language model opens beside vision."""
QUESTION = "summarize the video"
CHILD_SECONDS = 600


def make_videos(folder: Path) -> list[str]:
    """Clips whose decoding is cheap and dear, with moving pictures that are costly to store."""
    import numpy as np
    from make_clips import steady, write_clip

    ground = np.random.default_rng(0).integers(60, 200, (135, 240, 3), np.uint8).repeat(8, 0).repeat(8, 1)

    def moving(number, height, width):
        return np.roll(ground[:height, :width], (3 * number, 5 * number), (0, 1))

    clips = (
        ("cheap.mp4", "libx264", (640, 360), {"preset": "superfast"}),
        ("h264-1080p.mp4", "libx264", (1920, 1080), {"preset": "superfast", "refs": "3", "bf": "2"}),
        ("h265-1080p.mp4", "libx265", (1920, 1080), {"preset": "superfast"}),
    )
    return [
        str(write_clip(folder / name, steady(120, every_ms=100), codec, size_px=size, options=options, painter=moving))
        for name, codec, size, options in clips
    ]


def child(way: str, video: str, bundle: str, threads: int, again: int) -> None:
    """Answer, and print what it took as one line of JSON."""
    from tam_edge.runtime import VideoQA, admission
    from tam_edge.runtime.schedule import Overlap

    admission.worthwhile = lambda slowdowns, *, threads, decoded: Overlap(*WAYS[way])
    told = []
    with VideoQA.load(bundle or None, threads=threads or None) as qa, closing(qa.open(video)) as opened:
        for _ in range(1 + again):
            answer = qa.ask(opened, QUESTION, max_tokens=8)
            told.append((answer.timings.first_token, answer.text, answer.peak_bytes))
            qa.forget()
    milliseconds, texts, peaks = zip(*told, strict=True)
    print(json.dumps({"cold": milliseconds[0], "warm": milliseconds[1:], "texts": texts, "peak": max(peaks)}))


def measure(way: str, video: str, wishes: argparse.Namespace) -> dict:
    """One child."""
    arguments = [way, video, wishes.bundle or "", str(wishes.threads or 0), str(wishes.again)]
    command = [sys.executable, __file__, "--child", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=CHILD_SECONDS)
    return json.loads(done.stdout)


def report(video: str, rounds: Sequence[dict[str, dict]]) -> bool:
    """Print what one clip took, and return whether all answers to it were the same."""
    print(
        f"{Path(video).name}, {len(rounds)} rounds, ms to the first token: median (middle half), best, against serial"
    )
    for kind in ("cold", "warm"):
        found = {way: [_middle(one[way][kind]) for one in rounds] for way in WAYS}
        for way, took in found.items():
            low, _, high = quantiles(took, n=4) if len(took) > 1 else took * 3
            ratio = median(ours / serial for ours, serial in zip(took, found["serial"], strict=True))
            least = min(took) / min(found["serial"])
            print(
                f"  {kind} {way:7} {median(took):7.0f} ({low:.0f} to {high:.0f}), best {min(took):.0f}; "
                f"{ratio:.3f} of serial in the same round, best of best {least:.3f}"
            )
    print("  peak MiB " + ", ".join(f"{way} {max(one[way]['peak'] for one in rounds) / 2**20:.0f}" for way in WAYS))
    return len({text for one in rounds for found in one.values() for text in found["texts"]}) == 1


def _middle(taken: float | Sequence[float]) -> float:
    return taken if isinstance(taken, float) else median(taken)


def main() -> int:
    """Run the bench; exit code 1 where two ways gave two answers."""
    if sys.argv[1:2] == ["--child"]:
        way, video, bundle, threads, again = sys.argv[2:]
        child(way, video, bundle, int(threads), int(again))
        return 0
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--again", type=int, default=3, help="questions with open engines in each process")
    parser.add_argument("--bundle", help="default: the installed one")
    parser.add_argument("--threads", type=int)
    parser.add_argument("videos", nargs="*", help="default: clips made for this")
    wishes = parser.parse_args()
    same = True
    with tempfile.TemporaryDirectory() as folder:
        os.environ["TAM_EDGE_CACHE"] = str(Path(folder, "cache"))
        for video in wishes.videos or make_videos(Path(folder)):
            rounds = []
            for number in range(wishes.rounds):
                order = [*WAYS][number % 4 :] + [*WAYS][: number % 4]
                found = {way: measure(way, video, wishes) for way in order}
                rounds.append({way: found[way] for way in WAYS})
            same &= report(video, rounds)
    print("every answer is the same" if same else "ANSWERS DIFFER")
    return int(not same)


if __name__ == "__main__":
    sys.exit(main())
