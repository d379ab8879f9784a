"""What vision takes: frames made an encoder's input, runs of encoders by chunk, features projected by grid."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import median

import numpy as np

from tam_edge.runtime.calibrate.fitting import line
from tam_edge.runtime.calibrate.stopwatch import LONG_SECONDS, Book, rounds, timed
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

    def open(
        self, role: str, book: Book, work: Callable[[], object], before: Callable[[], object] = lambda: None
    ) -> None:
        """Measure what opening an engine takes; it is open at the end."""
        self.opening_ms[role] = book.middle("load", rounds(work, before))

    def run(self, role: str, stage: str, book: Book, work: Callable[[], object]) -> float:
        """Milliseconds of a run, the first one measured apart."""
        cold = timed(work)
        usual = book.middle(stage, rounds(work))
        self.first_run_ms.setdefault(role, max(0.0, cold - usual))
        return usual


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
    opened.open("inductor.engines", book, parts.inductor, lambda: parts.close_stage("inductor"))
    inductor = parts.inductor()
    taken = opened.run("inductor.engines", "inductor", book, lambda: inductor.classify([QUESTION]))
    parts.close_stage("inductor")
    return taken


def measure_resizing(parts: Parts, book: Book) -> Line:
    """What making a frame an encoder's input takes."""
    spec = parts.bundle.manifest.encoders[encoder_names(parts)[0]]
    points = list[tuple[float, list[float]]]()
    for height, width in _RESIZED_PX:
        frame = np.random.default_rng(0).integers(0, 255, (1, height, width, 3), np.uint8)
        points.append((height * width / 1e6, rounds(lambda frame=frame: preprocess(frame, spec))))  # type: ignore[misc]
    found = line([(size, median(took)) for size, took in points])
    for size, took in points:
        book.note("vision", took, found.at(size))
    return found


def measure_encoder(
    parts: Parts, name: str, opened: Opened, book: Book, fits: Fits, progress: Progress
) -> tuple[ChunkCost, ...]:
    """Runs of an encoder with ever more frames at once, as many as fit below the ceiling."""
    role, spec, plan = f"encoders.{name}.engines", parts.bundle.manifest.encoders[name], plan_for(parts, 1)
    progress(f"opening the encoder {name}")
    opened.open(role, book, lambda: parts.encoder(plan), lambda: parts.close_stage("vision"))
    engine, costs = parts.encoder(plan).engine, list[ChunkCost]()
    [input_name] = engine.input_names
    sizes = [1]
    while 2 * sizes[-1] <= CHUNK_FRAMES and fits(Case(frames=2 * sizes[-1]), Thrift(chunk_frames=2 * sizes[-1])):
        sizes.append(2 * sizes[-1])
    for frames in sizes:
        progress(f"the encoder {name}, {frames} frame{'s' * (frames > 1)} at once")
        pixels = np.random.default_rng(0).standard_normal((frames, 3, spec.image_px, spec.image_px), np.float32)
        taken = opened.run(role, "vision", book, lambda pixels=pixels: engine.run({input_name: pixels}))  # type: ignore[misc]
        costs.append(ChunkCost(frames=frames, ms=taken))
        if taken > 1000 * LONG_SECONDS:
            break
    return tuple(costs)


def measure_projectors(parts: Parts, opened: Opened, book: Book, progress: Progress) -> dict[str, float]:
    """Milliseconds for the features of a frame, by grid; "images" for a crop of a still image."""
    manifest, found = parts.bundle.manifest, dict[str, float]()
    encoder = encoder_names(parts)[0]
    spec = manifest.encoders[encoder]
    values = np.random.default_rng(0).standard_normal((1, spec.grid_side**2, spec.width), np.float32)
    features = PatchFeatures(values, np.zeros(1), ("calibration",), encoder)
    for grid in manifest.projectors:
        plan, role = plan_for(parts, 1, grid), f"projectors.{grid}.engines"
        if plan.grid != grid:  # not even one frame of it fits into the context: it is never used
            continue
        progress(f"the projector of grid {grid}")
        opened.open(role, book, lambda plan=plan: parts.strategy(plan), lambda: parts.close_stage("vision"))  # type: ignore[misc]
        strategy = parts.strategy(plan)
        run = lambda strategy=strategy, plan=plan: strategy.project([features], plan)  # type: ignore[misc] # noqa: E731
        found[str(grid)] = opened.run(role, "strategy", book, run)
    if manifest.images is not None:
        progress("the projector of still images")
        opened.open("images.projector", book, parts.image_projector, lambda: parts.close_stage("vision"))
        engine = parts.image_projector()
        found["images"] = opened.run("images.projector", "strategy", book, lambda: engine.run({"features": values}))
    return found
