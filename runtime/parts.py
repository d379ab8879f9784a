"""The opened parts of a bundle: each opened when it is first needed, closed with its stage or all together."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Literal, NamedTuple, get_args

from tam_edge.runtime.answer import StageClock
from tam_edge.runtime.beside import Ahead
from tam_edge.runtime.budget import MIB
from tam_edge.runtime.bundle import Bundle
from tam_edge.runtime.engines import (
    DeviceName,
    Engine,
    EngineChoice,
    choose_engine,
    gpu_possible,
    open_engine,
    open_language_engine,
)
from tam_edge.runtime.errors import UsageError
from tam_edge.runtime.figures import code_bytes, memory_of, threads_bytes
from tam_edge.runtime.inductor import Inductor
from tam_edge.runtime.language import LanguageModel
from tam_edge.runtime.plan import Plan, Rejection
from tam_edge.runtime.schema import EngineSpec, FileSpec
from tam_edge.runtime.strategies import Strategy, make_strategy
from tam_edge.runtime.tokenizer import load_tokenizer
from tam_edge.runtime.vision import Encoder

if TYPE_CHECKING:
    from tokenizers import Tokenizer


TOKENIZER_BYTES = 1 * MIB
TOKENIZER_FACTOR = 12
"""What a tokenizer holds, at most: so much, and its file so many times."""
Stage = Literal["inductor", "vision", "language"]
"""Engines that are opened and closed together; projectors belong to vision."""


class Parts:
    """Engines, tokenizers and strategies of one bundle on one device."""

    def __init__(self, bundle: Bundle, *, threads: int, device: DeviceName) -> None:
        self.bundle = bundle
        """The bundle they belong to."""
        self.threads = threads
        """CPU threads of each engine."""
        self.rejections: tuple[Rejection, ...] = ()
        """Engines that come first in the manifest and do not fit this device."""
        self._device = device
        self.on_gpu = False
        """Whether any opened engine runs on a GPU."""
        self._engines: dict[str, Engine] = {}
        self._strategies: dict[str, Strategy] = {}
        self._tokenizers: dict[str, Tokenizer] = {}  # by file
        self._inductor: Inductor | None = None
        self._language: LanguageModel | None = None
        self._opened: dict[str, EngineSpec] = {}  # by manifest field, in the order they were opened
        self._read_in: dict[str, EngineSpec] = {}  # also what was closed since
        self._closed = False

    def inductor(self) -> Inductor:
        """The Inductor."""
        if self._inductor is None:
            spec = self.bundle.manifest.inductor
            tokenizer = self._load_tokenizer(spec.tokenizer, "inductor.tokenizer")
            self._inductor = Inductor(spec, self._engine("inductor.engines", spec.engines), tokenizer)
        return self._inductor

    def tokenizer(self) -> Tokenizer:
        """The language model's tokenizer."""
        return self._load_tokenizer(self.bundle.manifest.language.tokenizer, "language.tokenizer")

    def load_tokenizers(self) -> None:
        """Load what questions are read with; it stays."""
        self.tokenizer()
        self._load_tokenizer(self.bundle.manifest.inductor.tokenizer, "inductor.tokenizer")

    def tokenizers_bytes(self) -> int:
        """What `load_tokenizers` would add to the resident set."""
        manifest = self.bundle.manifest
        missing = {spec.file: spec for spec in (manifest.language.tokenizer, manifest.inductor.tokenizer)}
        return sum(
            TOKENIZER_BYTES + TOKENIZER_FACTOR * spec.size_bytes
            for file, spec in missing.items()
            if file not in self._tokenizers
        )

    def encoder_name(self, plan: Plan) -> str:
        """Name of the encoder the plan's strategy names, which need not be open."""
        return next(spec.encoders[0] for spec in self.bundle.manifest.strategies if spec.name == plan.strategy)

    def encoder(self, plan: Plan) -> Encoder:
        """The encoder the plan's strategy names."""
        return self.encoder_named(self.encoder_name(plan))

    def encoder_named(self, name: str) -> Encoder:
        """The encoder of this name."""
        engines = self.bundle.manifest.encoders[name].engines
        return Encoder(self.bundle, name, self._engine(f"encoders.{name}.engines", engines))

    def strategy(self, plan: Plan) -> Strategy:
        """The plan's strategy, with the engines this plan needs opened."""
        if plan.strategy not in self._strategies:
            self._strategies[plan.strategy] = make_strategy(plan.strategy, self.bundle, self._engine)
        strategy = self._strategies[plan.strategy]
        strategy.prepare(plan)
        return strategy

    def image_projector(self) -> Engine:
        """The projector of still images.

        Raises: UsageError if the bundle sees images as frames of a video.
        """
        images = self.bundle.manifest.images
        if images is None:
            raise UsageError("this bundle sees images as frames of a video; plan again")
        return self._engine("images.projector", images.projector)

    def language(self) -> LanguageModel:
        """The language model."""
        if self._language is None:
            self._check_open()
            self._take(_open_language(self.bundle, self.tokenizer(), self.threads, self._device))
        assert self._language is not None
        return self._language

    @contextmanager
    def language_beside(self, clock: StageClock, *, wanted: bool) -> Iterator[None]:
        """Where that is `wanted`, open the language model in another thread while the block runs: at its end it is.

        Raises: EngineError, BundleError at the end of the block.
        """
        if not wanted or self._language is not None:
            yield
            return
        self._check_open()
        tokenizer = self.tokenizer()

        def opened() -> Generator[_OpenedLanguage, None, None]:
            yield _open_language(self.bundle, tokenizer, self.threads, self._device)

        with closing(Ahead(clock.beside("load", opened()), unused=lambda one: one.model.close())) as opening:
            yield
            self._take(next(opening))

    def _take(self, opened: _OpenedLanguage) -> None:
        self._note(opened.choice.rejections)
        self._language = opened.model
        self._note_open("language.engines", opened.choice.spec, opened.on_gpu)

    @property
    def may_use_gpu(self) -> bool:
        """Whether engines run on a GPU, or will as far as the libraries tell that are imported already."""
        return self.on_gpu or gpu_possible(self._device)

    @property
    def open_roles(self) -> frozenset[str]:
        """Manifest fields of the engines that are open, such as "inductor.engines"."""
        return frozenset(self._opened)

    def open_bytes(self) -> dict[str, int]:
        """What closing each stage with open engines gives back, as far as their measurements tell."""
        held: dict[str, int] = {}
        for role, spec in self._opened.items():
            stage = _stage(role)
            held[stage] = held.get(stage, 0) + memory_of(spec).open_bytes + threads_bytes(self.threads)
        if self._language is not None:
            held["language"] += self._language.reserved_bytes(memory_of(self._opened["language.engines"]))
        return held

    def code_bytes(self) -> dict[str, int]:
        """Code of each backend's library that has been read in."""
        return code_bytes(self._read_in.values())

    def close_stage(self, *stages: Stage) -> None:
        """Free the engines of these stages; they open again when they are needed."""
        for role in [role for role in self._opened if _stage(role) in stages]:
            del self._opened[role]
            if role in self._engines:
                self._engines.pop(role).close()
        if "inductor" in stages:
            self._inductor = None
        if "language" in stages and self._language is not None:
            self._language.close()
            self._language = None

    def close(self) -> None:
        """Free everything; closing twice is fine."""
        self._closed = True
        self.close_stage(*get_args(Stage))
        self._tokenizers.clear()
        self._strategies.clear()

    def _engine(self, field: str, specs: tuple[EngineSpec, ...]) -> Engine:
        if field not in self._engines:
            self._check_open()
            choice = choose_engine(field, specs)
            self._note(choice.rejections)
            engine = open_engine(self.bundle.file(choice.spec), choice.spec, self.threads, self._device)
            self._engines[field] = engine
            self._note_open(field, choice.spec, engine.on_gpu)
        return self._engines[field]

    def _load_tokenizer(self, spec: FileSpec, field: str) -> Tokenizer:
        if spec.file not in self._tokenizers:
            self._tokenizers[spec.file] = load_tokenizer(self.bundle, spec, field)
        return self._tokenizers[spec.file]

    def _note_open(self, role: str, spec: EngineSpec, on_gpu: bool) -> None:
        self._opened[role] = self._read_in[role] = spec
        self.on_gpu |= on_gpu

    def _note(self, rejections: tuple[Rejection, ...]) -> None:
        """Keep each once: an engine may be opened again."""
        self.rejections += tuple(rejection for rejection in rejections if rejection not in self.rejections)

    def _check_open(self) -> None:
        if self._closed:
            raise UsageError("this VideoQA is closed; load the bundle again")


class _OpenedLanguage(NamedTuple):
    model: LanguageModel
    choice: EngineChoice
    on_gpu: bool


def _open_language(bundle: Bundle, tokenizer: Tokenizer, threads: int, device: DeviceName) -> _OpenedLanguage:
    """Open the language model; nothing that belongs to a thread is touched."""
    choice = choose_engine("language.engines", bundle.manifest.language.engines)
    engine = open_language_engine(bundle.file(choice.spec), choice.spec, threads, device)
    try:
        return _OpenedLanguage(LanguageModel(bundle, engine, tokenizer), choice, engine.on_gpu)
    except BaseException:
        engine.close()
        raise


def _stage(role: str) -> Stage:
    """The stage that an engine with this manifest field belongs to."""
    first = role.partition(".")[0]
    return "inductor" if first == "inductor" else "language" if first == "language" else "vision"
