"""What an answer carries beside its text: the plan, the frames it rests on, and what every stage cost."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field
from itertools import islice
from time import perf_counter
from typing import Any, Literal, TypeVar, get_args

from tam_edge.runtime.budget import peak_resident_bytes, resident_bytes
from tam_edge.runtime.plan import Plan, Rejection

SCHEMA_VERSION = 1
"""Version of `Answer.to_json`."""

Stage = Literal["load", "inductor", "decode", "vision", "strategy", "prefill", "generate"]
MemoryStage = Literal["inductor", "vision", "language"]
"""Stages of the prediction of memory: vision is decode, vision and strategy, language is prefill and generate."""
T = TypeVar("T")
LATE_BYTES = 512 * 1024
"""The kernel adds its counters up late: its peak may still grow by so much when memory is given back."""


@dataclass(frozen=True, slots=True)
class Timings:
    """Milliseconds per stage. A stage that waits for another one (decoding inside vision) does not count it.

    Stages may run beside each other (decoding and vision, loading and both), so they need not sum.
    """

    load: float = 0.0
    """Opening engines that this question needed first."""
    inductor: float = 0.0
    """Task type."""
    decode: float = 0.0
    """Frames of the plan."""
    vision: float = 0.0
    """Frames to patch features."""
    strategy: float = 0.0
    """Patch features to visual tokens."""
    prefill: float = 0.0
    """Prompt into the language model."""
    generate: float = 0.0
    """The answer, token by token."""
    first_token: float = 0.0
    """From the call to the first piece of the answer, or to its end where it is empty."""
    total: float = 0.0
    """From the call to the end of the answer."""


@dataclass(frozen=True, slots=True)
class StageBytes:
    """Memory of the process in one stage."""

    resident_bytes: int
    """The stage's peak; where it did not raise the peak of the process, what was resident at its end."""
    is_peak: bool
    """Whether it is the peak. The kernel's counter is left as it is: others go by it too."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """A frame the answer rests on."""

    source: str
    """Where the frame came from."""
    time_seconds: float
    """When it appears in its clip."""
    tokens: int
    """Visual tokens it became."""


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer and everything about how it came to be."""

    text: str
    """The answer, without surrounding white space."""
    bundle: str
    """Name of the bundle that answered."""
    plan: Plan
    """What was looked at; shorter than first planned where the clip ended early."""
    evidence: tuple[Evidence, ...]
    """The frames really seen, in order."""
    timings: Timings
    """Milliseconds per stage."""
    peak_bytes: int
    """Largest resident set the process ever had, in bytes, measured."""
    peak_gpu_bytes: int | None
    """GPU memory in bytes: 0 without a GPU, None where it could not be measured."""
    memory_limit_bytes: int
    """The ceiling on `peak_bytes`."""
    rejections: tuple[Rejection, ...]
    """What was wanted or considered and not done, by the plan and after it."""
    cache: Mapping[str, int]
    """What an earlier question had left: prefix_tokens_reused (of the prompt, with a conversation's earlier turns),
    patch_features_reused (frames)."""
    answer_tokens: int = 0
    """Tokens of the answer, what ended it among them."""
    prompt_tokens: int = 0
    """Tokens before the answer, visual ones included."""
    ended_by: Literal["stop", "length"] = "stop"
    """What ended it: the model or a stop text, or the most tokens it could have."""
    first_token_probability: float | None = None
    """What probability the model gave to the first token of the answer, which of yes and no decides."""
    stage_bytes: Mapping[str, StageBytes] = field(default_factory=dict)
    """Memory in each stage, by the names of `plan.predicted_bytes`; stages that did not run are left out."""

    @property
    def predicted_ms(self) -> dict[str, float | None]:
        """What each of `timings` but the total was predicted to be; None without a calibration.

        "generate" is predicted for as many tokens as the answer became.
        """
        stages = self.plan.predicted_stages_ms or {}
        found: dict[str, float | None] = {stage: stages.get(stage) for stage in get_args(Stage)}
        if (token := stages.get("generate")) is not None:
            found["generate"] = token * self.answer_tokens
        return {**found, "first_token": self.plan.predicted_ms}

    def to_json(self) -> dict[str, Any]:
        """The JSON value of `tam-edge run --json`: fields are added, never renamed."""
        plan = self.plan
        return {
            "schema_version": SCHEMA_VERSION,
            "bundle": self.bundle,
            "answer": self.text,
            "task": plan.task,
            "confidence": plan.confidence,
            "strategy": plan.strategy,
            "frames": plan.frames,
            "grid": plan.grid,
            "expert": plan.expert,
            "visual_tokens": plan.visual_tokens,
            "visual_tokens_exact": plan.visual_tokens_exact,
            "timestamps_seconds": list(plan.timestamps_seconds),
            "timings_ms": {stage: round(ms, 3) for stage, ms in asdict(self.timings).items()},
            "peak_bytes": self.peak_bytes,
            "peak_gpu_bytes": self.peak_gpu_bytes,
            "memory_limit_bytes": self.memory_limit_bytes,
            "rejections": [asdict(rejection) for rejection in self.rejections],
            "cache": dict(self.cache),
            "prompt_tokens": self.prompt_tokens,
            "answer_tokens": self.answer_tokens,
            "ended_by": self.ended_by,
            "trace": self._trace(),
        }

    def _trace(self) -> dict[str, Any]:
        """Of every stage what was predicted and what was measured."""
        predicted, bytes_ = self.predicted_ms, self.plan.predicted_bytes or {}
        return {
            "ms": {
                stage: {"predicted": None if ms is None else round(ms, 3), "measured": round(measured, 3)}
                for stage, ms in predicted.items()
                for measured in (getattr(self.timings, stage),)
            },
            "bytes": {
                stage: {"predicted": bytes_.get(stage), "measured": held.resident_bytes, "peak": held.is_peak}
                for stage, held in self.stage_bytes.items()
            },
            "bytes_from": self.plan.predicted_bytes_from,
        }


class StageClock:
    """Measures stages that may be nested, each without what runs inside it, from the moment it is made."""

    def __init__(self) -> None:
        self._start = self._mark = perf_counter()
        self._seconds: dict[Stage | None, float] = {}
        self._running: list[Stage | None] = []
        self._beside: dict[Stage, float] = {}  # each added to by one other thread
        self._first: float | None = None
        self._peak_bytes = peak_resident_bytes()
        self.stage_bytes: dict[str, StageBytes] = {}
        """Memory of the stages that `note_bytes` was called for."""

    @contextmanager
    def stage(self, name: Stage | None) -> Iterator[None]:
        """Count the block as part of a stage; None: it only waits, and counts as part of none."""
        self._settle()
        self._running.append(name)
        try:
            yield
        finally:
            self._settle()
            self._running.pop()

    def over(self, name: Stage | None, items: Iterable[T]) -> Generator[T, None, None]:
        """Pass `items` on; making each of them counts as part of a stage."""
        iterator = iter(items)
        try:
            while True:
                with self.stage(name):
                    try:
                        item = next(iterator)
                    except StopIteration:
                        return
                yield item
                del item  # or it would stay in memory while the next one is made
        finally:
            if isinstance(iterator, Generator):
                iterator.close()

    def beside(self, name: Stage, items: Generator[T, None, None]) -> Generator[T, None, None]:
        """Pass `items` on, which are made in another thread: that counts as part of a stage, whatever runs here."""
        with closing(items):
            while True:
                began = perf_counter()
                made = tuple(islice(items, 1))
                self._beside[name] = self._beside.get(name, 0.0) + perf_counter() - began
                if not made:
                    return
                yield made[0]
                del made

    def first_token(self) -> None:
        """Note that text is there; only the first call counts."""
        if self._first is None:
            self._first = perf_counter()

    def note_bytes(self, stage: MemoryStage) -> None:
        """Note how much memory the stage that ends here took."""
        peak = peak_resident_bytes()
        raised = peak > self._peak_bytes + LATE_BYTES
        self.stage_bytes[stage] = StageBytes(peak if raised else resident_bytes(), raised)
        self._peak_bytes = peak

    def timings(self) -> Timings:
        """Everything measured until now."""
        now = perf_counter()
        seconds = {name: self._seconds.get(name, 0.0) + self._beside.get(name, 0.0) for name in get_args(Stage)}
        stages = {name: 1000 * spent for name, spent in seconds.items()}
        first = now if self._first is None else self._first
        return Timings(**stages, first_token=1000 * (first - self._start), total=1000 * (now - self._start))

    def _settle(self) -> None:
        now = perf_counter()
        if self._running:
            name = self._running[-1]
            self._seconds[name] = self._seconds.get(name, 0.0) + now - self._mark
        self._mark = now
