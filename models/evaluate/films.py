"""Street scenes that training never saw, filmed into files a batch at a time, so that every arm is asked the same."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tam_edge.models.street import Question, make_scene, questions
from tam_edge.models.street.pace import FIRST_BRISK_SEED
from tam_edge.models.street.video import write_video
from tam_edge.models.street.world import FIRST_UNSEEN_SEED
from tam_edge.runtime import UsageError

SCENES_PER_SEED = 1_000_000  # two evaluation seeds never share a scene
BATCH_FILMS = 16  # 30 MB on disk; the features of more would not fit into the runtime's cache


@dataclass(frozen=True, slots=True)
class Film:
    """One scene as a file."""

    number: int
    """Which of the evaluation's videos, from 0."""
    path: Path
    """The file; it is gone when the next batch is asked for."""
    questions: tuple[Question, ...]
    """What is asked about it."""


def scene_seeds(seed: int, videos: int) -> range:
    """Seeds of the evaluation's scenes, none of them ever trained on.

    Raises:
        UsageError: a seed that training may have seen, or no video.
    """
    first_brisk = FIRST_BRISK_SEED // SCENES_PER_SEED
    first = first_brisk if seed >= first_brisk else 0  # brisk scenes are counted by themselves
    unseen = first + FIRST_UNSEEN_SEED
    if seed < unseen:
        trained = f"from {first} to {unseen - 1}" if first else f"below {unseen}"
        raise UsageError(f"--seed {seed}: seeds {trained} are for training, choose {unseen} or above")
    if not 1 <= videos <= SCENES_PER_SEED:
        raise UsageError(f"--videos {videos}: choose 1 to {SCENES_PER_SEED}")
    return range(seed * SCENES_PER_SEED, seed * SCENES_PER_SEED + videos)


def batches(seeds: Sequence[int], folder: Path) -> Iterator[list[Film]]:
    """Film the scenes into `folder`, some at a time; a batch is deleted before the next one is filmed."""
    for first in range(0, len(seeds), BATCH_FILMS):
        films = [_shoot(first + index, seed, folder) for index, seed in enumerate(seeds[first : first + BATCH_FILMS])]
        yield films
        for film in films:
            film.path.unlink()


def _shoot(number: int, seed: int, folder: Path) -> Film:
    scene, path = make_scene(seed), folder / f"street-{number}.mp4"
    write_video(scene, path)
    return Film(number, path, tuple(questions(scene)))
