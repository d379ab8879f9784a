"""Asks a bundle about street scenes it has never seen, as files, through the whole runtime, and counts right answers.

Only numpy, OpenCV and PyAV are needed: a device can check the bundle it was given.
"""

from __future__ import annotations

import random
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tam_edge.models.street import Question, make_scene, questions, score
from tam_edge.models.street.video import write_video
from tam_edge.models.street.world import FIRST_UNSEEN_SEED
from tam_edge.runtime import UsageError, VideoQA

SCENES_PER_SEED = 1_000_000  # two evaluation seeds never share a scene
RESAMPLES = 1000  # bootstrap over videos
CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True)
class Reply:
    """One question, what the bundle said, and which video it was about."""

    video: int
    question: Question
    said: str
    task: str
    """Task type the Inductor named."""
    right: bool


def scene_seeds(seed: int, videos: int) -> range:
    """Seeds of the evaluation's scenes, none of them ever trained on.

    Raises:
        UsageError: a seed that training may have seen, or no video.
    """
    if seed < FIRST_UNSEEN_SEED:
        raise UsageError(
            f"--seed {seed}: seeds below {FIRST_UNSEEN_SEED} are for training, choose {FIRST_UNSEEN_SEED} or above"
        )
    if not 1 <= videos <= SCENES_PER_SEED:
        raise UsageError(f"--videos {videos}: choose 1 to {SCENES_PER_SEED}")
    return range(seed * SCENES_PER_SEED, seed * SCENES_PER_SEED + videos)


def ask_all(
    qa: VideoQA, seeds: Iterable[int], *, strategy: str | None = None, done: Callable[[int], None] = lambda _: None
) -> Iterator[Reply]:
    """Film each scene into a temporary file, ask every question, delete it; `done` is told how many videos are."""
    with tempfile.TemporaryDirectory(prefix="tam-edge-eval-") as folder:
        path = Path(folder) / "street.mp4"
        for index, seed in enumerate(seeds):
            scene = make_scene(seed)
            write_video(scene, path)
            yield from _ask_one(qa, path, index, questions(scene), strategy)
            done(index + 1)


def _ask_one(qa: VideoQA, path: Path, index: int, asked: list[Question], strategy: str | None) -> Iterator[Reply]:
    tasks = [estimate.task for estimate in qa.classify([question.text for question in asked])]
    with closing(qa.open(path)) as video:
        # Questions with the same plan in a row: each then prefills only itself.
        for task, question in sorted(zip(tasks, asked, strict=True), key=lambda pair: pair[0]):
            said = qa.ask(video, question.text, strategy=strategy).text
            yield Reply(index, question, said, task, score(said, question.answer))


def summarise(replies: list[Reply], task_names: tuple[str, ...]) -> dict[str, Any]:
    """Accuracy over all, per task type and per family, each beside its majority baseline.

    The baseline always gives the most frequent answer of the question's family: knowing the family, seeing nothing.
    """
    often = {family: Counter(reply.question.answer for reply in group) for family, group in _by_family(replies).items()}
    best = {family: answers.most_common(1)[0][0] for family, answers in often.items()}
    named = {reply.question.task: task_names[reply.question.task - 1] for reply in replies}
    return {
        **_scores(replies, best),
        "inductor_accuracy": _mean(reply.task == named[reply.question.task] for reply in replies),
        "per_task": {
            name: _scores([reply for reply in replies if reply.question.task == task], best)
            for task, name in sorted(named.items())
        },
        "per_family": {
            family: {**_scores(group, best), "task": named[group[0].question.task]}
            for family, group in sorted(_by_family(replies).items())
        },
    }


def _by_family(replies: list[Reply]) -> dict[str, list[Reply]]:
    groups: dict[str, list[Reply]] = {}
    for reply in replies:
        groups.setdefault(reply.question.family, []).append(reply)
    return groups


def _scores(replies: list[Reply], best: dict[str, str]) -> dict[str, Any]:
    return {
        "accuracy": _mean(reply.right for reply in replies),
        "majority": _mean(reply.question.answer == best[reply.question.family] for reply in replies),
        "questions": len(replies),
        "ci95": _interval(replies),
    }


def _mean(hits: Iterable[bool]) -> float:
    return round(statistics.fmean(hits), 4)


def _interval(replies: list[Reply]) -> list[float]:
    """95% bootstrap interval of the accuracy; drawn by video, since the questions of one go together."""
    per_video: dict[int, list[bool]] = {}
    for reply in replies:
        per_video.setdefault(reply.video, []).append(reply.right)
    counts = [(sum(hits), len(hits)) for hits in per_video.values()]
    rng = random.Random(0)
    means = []
    for _ in range(RESAMPLES):
        drawn = rng.choices(counts, k=len(counts))
        means.append(sum(right for right, _ in drawn) / sum(asked for _, asked in drawn))
    means.sort()
    edge = int((1 - CONFIDENCE) / 2 * RESAMPLES)
    return [round(means[edge], 4), round(means[-1 - edge], 4)]


def evaluate(
    qa: VideoQA,
    seed: int,
    videos: int,
    *,
    strategy: str | None = None,
    done: Callable[[int], None] = lambda _: None,
) -> tuple[dict[str, Any], list[Reply]]:
    """Ask and summarise; also returns every reply, so that mistakes can be looked at.

    Raises:
        UsageError: as `scene_seeds`.
    """
    began = time.monotonic()
    manifest = qa.bundle.manifest
    replies = list(ask_all(qa, scene_seeds(seed, videos), strategy=strategy, done=done))
    report = {
        "schema_version": 1,
        "bundle": {"name": manifest.name, "version": manifest.version},
        "seed": seed,
        "videos": videos,
        "strategy": strategy or manifest.strategies[0].name,
        **summarise(replies, tuple(rule.name for rule in manifest.routing.tasks)),
        "minutes": round((time.monotonic() - began) / 60, 2),
    }
    return report, replies
