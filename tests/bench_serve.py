"""Many clients for minutes: no answer is lost, none is somebody else's, memory stays below its ceiling.

    PYTHONPATH=tests python -m bench_serve --clients 50 --minutes 5 --memory 700MiB

Starts `tam-edge serve` with the installed bundle and asks about street scenes: pictures and clips as data URLs,
follow-ups, streams, and clients that go away in the middle. Every answer is compared with the first to its question.
"""

from __future__ import annotations

import argparse
import base64
import json
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import httpx2
from openai import OpenAI, OpenAIError

from tam_edge.models.street import make_scene
from tam_edge.models.street.video import write_video
from tam_edge.runtime.budget import parse_size

QUESTIONS = ("how many people?", "what does the sign say?", "what is the dog doing?", "is it day or night?")
RETRIES = 1000
"""The client's own patience: a refusal with Retry-After is no lost answer."""
LEAVE = 0.1
"""Share of questions whose client goes away."""


class Tally:
    """What all clients saw."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.answers: dict[tuple[int, str], str] = {}
        self.seconds: list[float] = []
        self.left = 0
        self.wrong: list[str] = []
        self.lost: list[str] = []

    def note(self, asked: tuple[int, str], text: str, seconds: float) -> None:
        """Keep an answer."""
        with self.lock:
            self.seconds.append(seconds)
            if self.answers.setdefault(asked, text) != text:
                self.wrong.append(f"{asked}: {self.answers[asked]!r}, then {text!r}")


def ask(client: OpenAI, model: str, clips: list[str], draw: random.Random, tally: Tally) -> None:
    """One question, in one of the ways that there are."""
    number, question = draw.randrange(len(clips)), draw.choice(QUESTIONS)
    shown = {"type": "video_url", "video_url": {"url": clips[number]}}
    messages = [{"role": "user", "content": [shown, {"type": "text", "text": question}]}]
    since = time.monotonic()
    if draw.random() < LEAVE:
        with client.chat.completions.create(model=model, messages=messages, stream=True) as stream:
            next(iter(stream))
        with tally.lock:
            tally.left += 1
        return
    if draw.random() < 0.5:
        chunks = client.chat.completions.create(model=model, messages=messages, stream=True)
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    else:
        text = client.chat.completions.create(model=model, messages=messages).choices[0].message.content
    tally.note((number, question), text, time.monotonic() - since)


def client_for(url: str, model: str, clips: list[str], end: float, seed: int, tally: Tally) -> None:
    """Ask until the time is over."""
    draw = random.Random(seed)
    with OpenAI(base_url=url, api_key="none", max_retries=RETRIES, timeout=600) as client:
        while time.monotonic() < end:
            try:
                ask(client, model, clips, draw, tally)
            except OpenAIError as error:
                with tally.lock:
                    tally.lost.append(repr(error))


def gauge(url: str, name: str) -> float:
    """A metric of the server."""
    text = httpx2.get(f"{url.removesuffix('/v1')}/metrics", timeout=60).text
    return next(float(line.split()[1]) for line in text.splitlines() if line.startswith(f"{name} "))


def main() -> int:
    """Run it; the exit code says whether everything held."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--memory", default="700MiB")
    parser.add_argument("--scenes", type=int, default=4)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        clips = [clip(Path(folder) / f"{seed}.mp4", seed) for seed in range(990001, 990001 + options.scenes)]
    command = [sys.executable, "-c", "from tam_edge.apps.cli import main; main()", "serve", "--json", "--port", "0"]
    with subprocess.Popen([*command, "--memory", options.memory], stdout=subprocess.PIPE, text=True) as server:
        about = json.loads(server.stdout.readline())
        tally, end = Tally(), time.monotonic() + 60 * options.minutes
        threads = [
            threading.Thread(target=client_for, args=(about["url"], about["model"], clips, end, seed, tally))
            for seed in range(options.clients)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        peak, waiting = gauge(about["url"], "tam_edge_memory_peak_bytes"), gauge(about["url"], "tam_edge_waiting")
        server.send_signal(signal.SIGTERM)
        code = server.wait(60)
    limit = parse_size(options.memory)
    print(f"{options.clients} clients, {options.minutes:g} min: {len(tally.seconds)} answers, {tally.left} left early")
    print(f"lost {len(tally.lost)}, differing {len(tally.wrong)}, waiting at the end {waiting:.0f}, exit code {code}")
    if tally.seconds:
        print(f"seconds until an answer, retries included: median {statistics.median(tally.seconds):.1f}, "
              f"most {max(tally.seconds):.1f}")  # fmt: skip
    print(f"peak {peak / 2**20:.0f} MiB of {limit / 2**20:.0f} MiB")
    for line in (*tally.lost[:5], *tally.wrong[:5]):
        print(line)
    return int(bool(tally.lost or tally.wrong or code or waiting) or peak > limit)


def clip(path: Path, seed: int) -> str:
    """A scene, filmed, as a data URL."""
    write_video(make_scene(seed), path)
    return f"data:video/mp4;base64,{base64.b64encode(path.read_bytes()).decode()}"


if __name__ == "__main__":
    sys.exit(main())
