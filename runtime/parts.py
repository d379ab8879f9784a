"""The opened parts of a bundle: each opened when it is first needed, all closed together."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

from tam_edge.runtime.bundle import Bundle
from tam_edge.runtime.engines import DeviceName, Engine, choose_engine, open_engine, open_language_engine
from tam_edge.runtime.errors import UsageError
from tam_edge.runtime.inductor import Inductor
from tam_edge.runtime.language import LanguageModel
from tam_edge.runtime.plan import Plan, Rejection
from tam_edge.runtime.schema import EngineSpec
from tam_edge.runtime.strategies import Strategy, make_strategy
from tam_edge.runtime.tokenizer import load_tokenizer
from tam_edge.runtime.vision import Encoder

if TYPE_CHECKING:
    from tokenizers import Tokenizer


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
        self._tokenizer: Tokenizer | None = None
        self._inductor: Inductor | None = None
        self._language: LanguageModel | None = None
        self._open = ExitStack()
        self._closed = False

    def inductor(self) -> Inductor:
        """The Inductor."""
        if self._inductor is None:
            spec = self.bundle.manifest.inductor
            tokenizer = load_tokenizer(self.bundle, spec.tokenizer, "inductor.tokenizer")
            self._inductor = Inductor(spec, self._engine("inductor.engines", spec.engines), tokenizer)
        return self._inductor

    def tokenizer(self) -> Tokenizer:
        """The language model's tokenizer."""
        if self._tokenizer is None:
            self._tokenizer = load_tokenizer(self.bundle, self.bundle.manifest.language.tokenizer, "language.tokenizer")
        return self._tokenizer

    def encoder_name(self, plan: Plan) -> str:
        """Name of the encoder the plan's strategy names, which need not be open."""
        return next(spec.encoders[0] for spec in self.bundle.manifest.strategies if spec.name == plan.strategy)

    def encoder(self, plan: Plan) -> Encoder:
        """The encoder the plan's strategy names."""
        name = self.encoder_name(plan)
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
            choice = choose_engine("language.engines", self.bundle.manifest.language.engines)
            self.rejections += choice.rejections
            path = self.bundle.file(choice.spec)
            engine = open_language_engine(path, choice.spec, self.threads, self._device)
            self._open.callback(engine.close)
            self.on_gpu |= engine.on_gpu
            self._language = LanguageModel(self.bundle, engine, self.tokenizer())
        return self._language

    def close(self) -> None:
        """Free everything; closing twice is fine."""
        self._closed = True
        self._inductor = self._language = self._tokenizer = None
        self._engines.clear()
        self._strategies.clear()
        self._open.close()

    def _engine(self, field: str, specs: tuple[EngineSpec, ...]) -> Engine:
        if field not in self._engines:
            self._check_open()
            choice = choose_engine(field, specs)
            self.rejections += choice.rejections
            engine = open_engine(self.bundle.file(choice.spec), choice.spec, self.threads, self._device)
            self._open.callback(engine.close)
            self.on_gpu |= engine.on_gpu
            self._engines[field] = engine
        return self._engines[field]

    def _check_open(self) -> None:
        if self._closed:
            raise UsageError("this VideoQA is closed; load the bundle again")
