"""What the language model takes: tokens entered, by how many and behind how many, and tokens of an answer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from statistics import median

import numpy as np

from tam_edge.runtime.calibrate.fitting import PrefillSample, line, prefill_cost
from tam_edge.runtime.calibrate.stopwatch import LONG_SECONDS, Book, repeated, timed
from tam_edge.runtime.calibrate.vision import QUESTION, Fits, Opened, Progress
from tam_edge.runtime.engines import choose_engine
from tam_edge.runtime.figures import memory_of, ways_to_attend
from tam_edge.runtime.footprint import Case, Thrift
from tam_edge.runtime.parts import Parts
from tam_edge.runtime.rates import Line, PrefillCost
from tam_edge.runtime.schema import Attention

_LEAST_PREFIX, _PREFIX_FACTOR = 32, 3
_TEXT_TOKENS = 48
_ROLE = "language.engines"


@dataclass(frozen=True, slots=True)
class LanguageCosts:
    """What was measured."""

    prefill: PrefillCost
    """Tokens entered."""
    attending: dict[str, float]
    """How many times longer that takes by ways that the model does not choose itself."""
    token: Line
    """One token of an answer, by the tokens before it."""


def measure_language(parts: Parts, opened: Opened, book: Book, fits: Fits, progress: Progress) -> LanguageCosts:
    """Enter ever more tokens, as many as fit below the ceiling."""
    progress("opening the language model")
    prefix, lengths = _Prefix(parts), list(_lengths(parts, fits))
    # The first run reads the file in and makes the cells.
    first = partial(prefix.enter, lengths[0])
    opened.measure(_ROLE, book, parts.language, lambda: parts.close_stage("language"), first)
    samples, tokens = list[PrefillSample](), list[tuple[float, list[float]]]()
    for length in lengths:
        progress(f"{length} tokens into the language model")
        prefix.enter(length)  # makes room
        took = repeated(partial(prefix.enter, length))
        samples += [PrefillSample(length, 0, ms) for ms in took]
        samples += [PrefillSample(_TEXT_TOKENS, length, ms) for ms in repeated(partial(prefix.read, _TEXT_TOKENS))]
        tokens.append((length, repeated(partial(prefix.read, 1))))
        if median(took) > 1000 * LONG_SECONDS:
            break
    cost, token = prefill_cost(samples), line([(length, median(each)) for length, each in tokens])
    for sample in samples:
        book.note("prefill", [sample.ms], cost.at(sample.tokens, sample.before))
    for behind, each in tokens:
        book.note("generate", each, token.at(behind))
    attending = _attending(parts, prefix, lengths[min(1, len(lengths) - 1)])
    parts.close_stage("language")
    return LanguageCosts(cost, attending, token)


def _lengths(parts: Parts, fits: Fits) -> Iterator[int]:
    """Visual prefixes to measure, ever longer, up to the longest plan's."""
    most = parts.bundle.manifest.context_visual_tokens
    length = min(_LEAST_PREFIX, most)
    yield length
    while length < most:
        length = min(length * _PREFIX_FACTOR, most)
        if not fits(Case(visual_tokens=length, room_tokens=_TEXT_TOKENS), Thrift(in_turn=True)):
            return
        yield length


def _attending(parts: Parts, prefix: _Prefix, length: int) -> dict[str, float]:
    spec = choose_engine(_ROLE, parts.bundle.manifest.language.engines).spec
    own, *others = ways_to_attend(memory_of(spec), length)
    usual = max(1e-3, _way_ms(prefix, length, own))
    return {way: _way_ms(prefix, length, way) / usual for way in others}


def _way_ms(prefix: _Prefix, length: int, way: Attention) -> float:
    prefix.enter(length, way)  # makes cells of its kind
    return median(repeated(partial(prefix.enter, length, way)))


class _Prefix:
    """Enters visual tokens that show nothing, and text behind them, as an answer does."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._width = parts.bundle.manifest.language.embedding_width
        encoded = parts.tokenizer().encode(QUESTION, add_special_tokens=False).ids
        self._ids = tuple((encoded * _TEXT_TOKENS)[:_TEXT_TOKENS])

    def enter(self, tokens: int, way: Attention | None = None) -> float:
        """Milliseconds for so many visual tokens."""
        noise = np.random.default_rng(0).standard_normal((tokens, self._width), np.float32)
        noise *= np.float32(0.02)
        return timed(lambda: self._parts.language().see((), noise, _TEXT_TOKENS, way=way))

    def read(self, tokens: int) -> float:
        """Milliseconds for so many tokens of text behind them."""
        return timed(lambda: self._parts.language().read(self._ids[:tokens]))
