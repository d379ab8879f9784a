"""How much vision and something else slow each other down: both timed by themselves, then at once in two threads."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import closing
from pathlib import Path
from statistics import median

import numpy as np

from tam_edge.runtime.beside import Ahead
from tam_edge.runtime.calibrate.specimen import make_specimen, specimens
from tam_edge.runtime.calibrate.stopwatch import repeated, timed
from tam_edge.runtime.calibrate.vision import Fits, Progress, plan_for
from tam_edge.runtime.footprint import Case, Thrift
from tam_edge.runtime.parts import Parts
from tam_edge.runtime.schedule import slowdown
from tam_edge.runtime.video import open_video
from tam_edge.runtime.vision import preprocess

CHUNK_FRAMES = 2
LEAST_MS = 100.0
"""Shorter work is repeated until it takes as long."""
MOST_REPEATS = 40

Work = Callable[[], object]


def measure_beside(parts: Parts, threads: int, folder: Path, fits: Fits, progress: Progress) -> dict[str, float]:
    """Slowdowns of vision with decoding and with opening the language model, by "decode" and "language".

    Nothing with a single thread, as on a single core, and nothing that does not fit below the memory ceiling.
    """
    if threads < 2:
        return {}
    progress("vision and something else at once")
    small = next(specimens())
    dearest = [one for one in specimens() if one.encoder == small.encoder][-1]
    ahead = Thrift(chunk_frames=CHUNK_FRAMES, decode_ahead=True, language_beside=True)
    if not fits(Case(frames=2 * CHUNK_FRAMES), ahead):
        return {}
    with closing(open_video(str(make_specimen(dearest, folder)), threads=threads)) as video:
        width, height = dearest.size_px
        vision = _vision(parts, (CHUNK_FRAMES, height, width, 3))
        times = [video.info.duration_seconds * at / 8 for at in range(8)]

        def decode() -> None:
            for _ in video.frames(times, CHUNK_FRAMES):
                pass

        def open_language() -> None:
            parts.close_stage("language")
            parts.language()

        found = {"decode": _slowdown(vision, decode), "language": _slowdown(vision, open_language)}
    parts.close_stage("language")
    parts.close_stage("vision")
    return found


def _vision(parts: Parts, shape: tuple[int, ...]) -> Work:
    encoder = parts.encoder(plan_for(parts, 1))
    pixels = np.random.default_rng(0).integers(0, 255, shape, np.uint8)  # [N, H, W, 3]
    [name] = encoder.engine.input_names
    return lambda: encoder.engine.run({name: preprocess(pixels, encoder.spec)})


def _slowdown(vision: Work, other: Work) -> float:
    """The median of some rounds, in each of which both take about as long."""
    for work in (vision, other):
        work()  # the first time takes longer
    ours, theirs = timed(vision), timed(other)
    least = max(ours, theirs, LEAST_MS)
    vision, other = _repeated(vision, least / ours), _repeated(other, least / theirs)

    def once() -> float:
        return slowdown(timed(vision), timed(other), timed(lambda: _at_once(vision, other)))

    return median(repeated(once))


def _repeated(work: Work, times: float) -> Work:
    count = min(MOST_REPEATS, max(1, round(times)))
    return lambda: [work() for _ in range(count)]


def _at_once(vision: Work, other: Work) -> None:
    def done() -> Generator[None, None, None]:
        other()
        yield

    with closing(Ahead(done())) as running:
        vision()
        next(running)
