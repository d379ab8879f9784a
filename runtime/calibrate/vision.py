"""What vision takes: frames made an encoder's input, runs of encoders by chunk, features projected by grid."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from statistics import median

import numpy as np
from numpy.typing import NDArray

from tam_edge.runtime.calibrate.fitting import line
from tam_edge.runtime.calibrate.stopwatch import LEAST_ROUNDS, LONG_SECONDS, Book, rounds, timed
from tam_edge.runtime.footprint import Case, Thrift
from tam_edge.runtime.frames import VideoInfo
from tam_edge.runtime.inductor import TaskEstimate
from tam_edge.runtime.parts import Parts
from tam_edge.runtime.plan import Limits, Plan, make_plan
from tam_edge.runtime.rates import ChunkCost, Line
from tam_edge.runtime.vision import CHUNK_FRAMES, PatchFeatures, preprocess

QUESTION = "how many people are there in the street, and what are they doing?"
_RESIZED_PX = ((180, 320), (720, 1280))  # height and width

Fits = Callable[[Case, Thrift], bool]
"""Whether a case stays below the memory ceiling."""
Progress = Callable[[str], None]


@dataclass(slots=True)
class Opened:
    """What engines take before they run as usual, by the manifest field that names them."""

    opening_ms: dict[str, float] = field(default_factory=dict)
    """Opening them."""
    first_run_ms: dict[str, float] = field(default_factory=dict)
    """What the first run takes beyond a later one."""

    def measure(
        self,
        role: str,
        book: Book,
        opening: Callable[[], object],
        closing: Callable[[], object],
        run: Callable[[], object],
    ) -> None:
        """Open an engine and run it, some times over; it is open at the end.

        A process opens an engine once, and reads its code in as it does: so the first time counts if it took longer.
        """
        opened, cold = list[float](), list[float]()
        for _ in range(LEAST_ROUNDS):
            closing()
            opened.append(timed(opening))
            cold.append(timed(run))
        self.opening_ms[role] = max(opened[0], median(opened))
        self.first_run_ms[role] = max(0.0, max(cold[0], median(cold)) - median(rounds(run)))
        book.note("load", opened, self.opening_ms[role])


def plan_for(parts: Parts, frames: int, grid: int | None = None) -> Plan:
    """A plan about a minute of nothing."""
    manifest = parts.bundle.manifest
    video = VideoInfo("calibration", "frames", 60.0, 1500, 320, 180, 25.0, None, "calibration")
    estimate = TaskEstimate(QUESTION, manifest.routing.tasks[0].name, 1.0, {})
    return make_plan(estimate, video, manifest, Limits(frames=frames, grid=grid))


def encoder_names(parts: Parts) -> list[str]:
    """Encoders that strategies name."""
    names = [name for strategy in parts.bundle.manifest.strategies for name in strategy.encoders]
    return list(dict.fromkeys(names))


def measure_inductor(parts: Parts, opened: Opened, book: Book) -> float:
    """Milliseconds until a question has its task type."""

    def run() -> None:
        parts.inductor().classify([QUESTION])

    opened.measure("inductor.engines", book, parts.inductor, lambda: parts.close_stage("inductor"), run)
    taken = book.middle("inductor", rounds(run))
    parts.close_stage("inductor")
    return taken


def measure_resizing(parts: Parts, book: Book) -> Line:
    """What making a frame an encoder's input takes."""
    spec = parts.bundle.manifest.encoders[encoder_names(parts)[0]]
    points = list[tuple[float, list[float]]]()
    for height, width in _RESIZED_PX:
        frame = np.random.default_rng(0).integers(0, 255, (1, height, width, 3), np.uint8)
        points.append((height * width / 1e6, rounds(partial(preprocess, frame, spec))))
    found = line([(size, median(took)) for size, took in points])
    for size, took in points:
        book.note("vision", took, found.at(size))
    return found


def measure_encoder(
    parts: Parts, name: str, opened: Opened, book: Book, fits: Fits, progress: Progress
) -> tuple[ChunkCost, ...]:
    """Runs of an encoder with ever more frames at once, as many as fit below the ceiling."""
    role, spec, plan = f"encoders.{name}.engines", parts.bundle.manifest.encoders[name], plan_for(parts, 1)

    def run(frames: int) -> None:
        engine = parts.encoder(plan).engine
        [input_name] = engine.input_names
        engine.run({input_name: pixels[:frames]})

    def fit(frames: int) -> bool:
        return frames <= CHUNK_FRAMES and fits(Case(frames=frames), Thrift(chunk_frames=frames))

    progress(f"opening the encoder {name}")
    pixels = np.random.default_rng(0).standard_normal((CHUNK_FRAMES, 3, spec.image_px, spec.image_px), np.float32)
    opened.measure(role, book, lambda: parts.encoder(plan), lambda: parts.close_stage("vision"), lambda: run(1))
    costs, frames = list[ChunkCost](), 1
    while not costs or (fit(frames) and costs[-1].ms < 1000 * LONG_SECONDS):
        progress(f"the encoder {name}, {frames} frame{'s' * (frames > 1)} at once")
        costs.append(ChunkCost(frames=frames, ms=book.middle("vision", rounds(partial(run, frames)))))
        frames *= 2
    return tuple(costs)


def measure_projectors(parts: Parts, opened: Opened, book: Book, progress: Progress) -> dict[str, float]:
    """Milliseconds for the features of a frame, by grid; "images" for a crop of a still image."""
    manifest, found = parts.bundle.manifest, dict[str, float]()
    encoder = encoder_names(parts)[0]
    spec = manifest.encoders[encoder]
    values = np.random.default_rng(0).standard_normal((1, spec.grid_side**2, spec.width), np.float32)
    features = PatchFeatures(values, np.zeros(1), ("calibration",), encoder)

    def close() -> None:
        parts.close_stage("vision")

    for grid in manifest.projectors:
        plan = plan_for(parts, 1, grid)
        if plan.grid != grid:  # not even one frame of it fits into the context: it is never used
            continue
        progress(f"the projector of grid {grid}")
        run = partial(_project, parts, plan, features)
        opened.measure(f"projectors.{grid}.engines", book, partial(parts.strategy, plan), close, run)
        found[str(grid)] = book.middle("strategy", rounds(run))
    if manifest.images is not None:
        progress("the projector of still images")
        run = partial(_project_still, parts, values)
        opened.measure("images.projector", book, parts.image_projector, close, run)
        found["images"] = book.middle("strategy", rounds(run))
    return found


def _project(parts: Parts, plan: Plan, features: PatchFeatures) -> None:
    parts.strategy(plan).project([features], plan)


def _project_still(parts: Parts, values: NDArray[np.float32]) -> None:
    parts.image_projector().run({"features": values})
