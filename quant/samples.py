"""What a bundle is calibrated and compared on: frames of videos with questions, planned as on the device.

Where no videos are given, scenes of the street camera stand in, from seeds that training may use and evaluation never
does. They suit the bundle that ships; a bundle with weights of another world deserves `--calibrate` with its own.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tam_edge.models.street import make_scene, questions
from tam_edge.models.street.video import write_video
from tam_edge.runtime.bundle import Bundle
from tam_edge.runtime.errors import UsageError, VideoError
from tam_edge.runtime.frames import FrameBatch, Video
from tam_edge.runtime.parts import Parts
from tam_edge.runtime.plan import Limits, Plan, make_plan
from tam_edge.runtime.prompt import Prompt, build_prompt
from tam_edge.runtime.video import open_video

QUESTIONS = (
    "What is happening in the video?",
    "How many people are there?",
    "What is the person doing?",
    "Where is the car?",
    "What does the sign say?",
    "What happens first, and what after that?",
    "Why did it stop?",
    "What colour are the clothes?",
)
"""Asked about given videos; between them they have every task type."""
STREET_SEED, STREET_SCENES, STREET_QUESTIONS = 424_200, 8, 4
"""First scene, how many, and questions of each: where no videos are given."""
SAMPLES = 32
"""How many questions, each with its frames, unless somebody says otherwise: more change figures less than they cost."""
TOKENS_MOST = 1_024
"""Most visual tokens of a sample; fewer frames are taken where the plan has more."""
_SUFFIXES = frozenset({".mp4", ".mkv", ".avi", ".mov", ".webm", ".m4v", ".ts", ".jpg", ".jpeg", ".png", ".webp"})


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """One question about some frames."""

    source: str
    """The video."""
    question: str
    """What is asked."""
    plan: Plan
    """What is looked at."""
    frames: FrameBatch
    """The frames, as decoded."""
    prompt: Prompt
    """Token ids around the visual tokens."""


@dataclass(frozen=True, slots=True)
class Material:
    """Videos and what is asked about each."""

    what: str
    """Where they come from, for the report."""
    asked: tuple[tuple[Path, tuple[str, ...]], ...]
    """Each file with its questions."""


def given(paths: Sequence[Path], asked: Sequence[str] = ()) -> Material:
    """The videos in `paths`, each a file or a folder of them, with `asked` or QUESTIONS in turn.

    Raises:
        UsageError: there is no such file, or a folder holds no video.
    """
    files: list[Path] = []
    for path in paths:
        if not path.exists():
            raise UsageError(f"{path} is not there: name a video file or a folder of them")
        inside = sorted(one for one in path.iterdir() if one.suffix.lower() in _SUFFIXES) if path.is_dir() else [path]
        if not inside:
            raise UsageError(f"{path} holds no video: name a folder with {', '.join(sorted(_SUFFIXES)[:4])} ... files")
        files += inside
    each = max(1, SAMPLES // len(files))
    chosen = tuple(asked) or QUESTIONS
    picked = [tuple(chosen[(index + step) % len(chosen)] for step in range(each)) for index in range(len(files))]
    asked_of = tuple((file, tuple(dict.fromkeys(some))) for file, some in zip(files, picked, strict=True))
    return Material(f"{len(files)} given video{'s' * (len(files) > 1)}", asked_of)


@contextmanager
def street() -> Iterator[Material]:
    """Scenes of the street camera, filmed into files that are gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="tam-edge-street-") as folder:
        asked = []
        for index in range(STREET_SCENES):
            scene = make_scene(STREET_SEED + index)
            path = Path(folder, f"street-{scene.seed}.mp4")
            write_video(scene, path)
            texts = [question.text for question in questions(scene)]
            asked.append((path, tuple(texts[:: max(1, len(texts) // STREET_QUESTIONS)][:STREET_QUESTIONS])))
        yield Material(f"{STREET_SCENES} scenes of the street camera, none of them evaluated on", tuple(asked))


def check_videos(material: Material) -> None:
    """Open every video: those that are only compared on are asked about when all the work is done.

    Raises:
        VideoError: one cannot be read.
    """
    for path, _ in material.asked:
        open_video(path, threads=1).close()


def limited(material: Material, most: int) -> Material:
    """At most `most` questions, of as many videos as possible."""
    kept: dict[Path, list[str]] = {}
    turns = max(len(asked) for _, asked in material.asked)
    pairs = [(path, asked[turn]) for turn in range(turns) for path, asked in material.asked if turn < len(asked)]
    for path, question in pairs[:most]:
        kept.setdefault(path, []).append(question)
    return Material(material.what, tuple((path, tuple(asked)) for path, asked in kept.items()))


def samples(bundle: Bundle, material: Material, *, threads: int, progress: Callable[[str], None]) -> list[Sample]:
    """Plan, decode and prepare every question of `material`.

    Raises:
        VideoError: a video cannot be decoded.
    """
    parts = Parts(bundle, threads=threads, device="cpu")
    found: list[Sample] = []
    with closing(parts):
        for path, asked in material.asked:
            progress(f"decoding {path.name}")
            with closing(open_video(path, threads=threads)) as video:
                found += [_sample(parts, video, question) for question in asked]
    return found


def _sample(parts: Parts, video: Video, question: str) -> Sample:
    manifest = parts.bundle.manifest
    [estimate] = parts.inductor().classify([question])
    plan = make_plan(estimate, video.info, manifest, Limits())
    if plan.images is not None:  # a graph is the same for a tile and for a frame: an image is one frame here
        plan = make_plan(estimate, video.info, manifest, Limits(frames=1))
    if plan.visual_tokens > TOKENS_MOST and plan.frames > 1:
        fewer = max(1, plan.frames * TOKENS_MOST // plan.visual_tokens)
        plan = make_plan(estimate, video.info, manifest, Limits(frames=fewer, grid=plan.grid))
    batches = list(video.frames(plan.timestamps_seconds, plan.frames))
    if len(batches) != 1 or len(batches[0].pixels) != plan.frames:
        raise VideoError(video.info.source, "not every frame can be decoded in one size: calibrate with whole clips")
    prompt = build_prompt(manifest.prompt, plan, parts.tokenizer(), question)
    return Sample(video.info.source, question, plan, batches[0], prompt)


def pixel_frames(found: Sequence[Sample], most: int) -> list[FrameBatch]:
    """At most `most` frames, one by one, spread over all samples."""
    singles = [
        FrameBatch(
            one.frames.pixels[i : i + 1], one.frames.timestamps_seconds[i : i + 1], one.frames.sources[i : i + 1]
        )
        for one in found
        for i in range(one.plan.frames)
    ]
    chosen = np.unique(np.linspace(0, len(singles) - 1, min(most, len(singles))).round().astype(int))
    return [singles[index] for index in chosen]
