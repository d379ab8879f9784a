"""Language: prompt and visual embeddings -> text, piece by piece.

The sequence is system text, visual tokens, earlier turns of a conversation, then this question. All but the last stays
in the key-value cells after an answer, so a second question about the same frames enters only itself.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from tam_edge.runtime.bundle import Bundle
from tam_edge.runtime.engines import LanguageEngine
from tam_edge.runtime.errors import BundleError, UsageError
from tam_edge.runtime.figures import running_bytes
from tam_edge.runtime.manifest import Manifest
from tam_edge.runtime.schema import Attention, EngineMemory

if TYPE_CHECKING:
    from tokenizers import Tokenizer

EndedBy = Literal["stop", "length"]
"""What ends an answer: the model or a stop text, or the most tokens it may have."""
REPLACEMENT = "\N{REPLACEMENT CHARACTER}"  # what a decoder shows for the first bytes of an unfinished character


@dataclass(frozen=True, slots=True)
class GenerationOptions:
    """How the answer is written."""

    max_tokens: int
    """Most tokens of the answer."""
    temperature: float = 0.0
    """0 takes the likeliest token each time; above, tokens are drawn."""
    seed: int = 0
    """Seed of the draws; the same seed gives the same answer."""
    stop: tuple[str, ...] = ()
    """Texts that end the answer where one of them would begin; none is part of it."""

    def __post_init__(self) -> None:
        """Refuse what no model can do."""
        if not all(self.stop):
            raise UsageError("a stop text is empty: it would end every answer before its first word")
        if self.max_tokens < 1:
            raise UsageError(f"max-tokens is {self.max_tokens}: ask for at least 1")
        if not 0 <= self.temperature < float("inf"):
            raise UsageError(f"temperature is {self.temperature}: it must be 0 or above")


def room_for(manifest: Manifest, prefix: int, room: int, *, spare: bool = True) -> int:
    """Tokens to make room for behind a visual prefix of `prefix` tokens, of which `room` are needed now.

    Where there is memory to `spare`, as much as any question may need, so that a longer one later does not cost the
    prefix.
    """
    usual = manifest.routing.context_reserve_tokens + manifest.language.max_output_tokens
    return prefix + (max(room, min(usual, manifest.language.context - prefix)) if spare else room)


class LanguageModel:
    """A bundle's language model with the visual prefix it last read."""

    def __init__(self, bundle: Bundle, engine: LanguageEngine, tokenizer: Tokenizer) -> None:
        """Take an opened engine, and check it against the manifest.

        Raises: BundleError naming the field that the model contradicts.
        """
        self._engine = engine
        self._tokenizer = tokenizer
        self._spec = bundle.manifest.language
        self._manifest = bundle.manifest
        self._stop = {_check_stop(bundle, tokenizer, text) for text in self._spec.stop}
        self.prefix_tokens = 0
        """Tokens of the visual prefix: system text and visual tokens."""
        self.answer_tokens = 0
        """Tokens of the last answer, what ended it among them."""
        self.ended_by: EndedBy = "length"
        """What ended the last answer."""
        self.first_probability: float | None = None
        """What probability the model gave to the first token of the last answer."""
        self._read: list[tuple[int, ...]] = []  # texts that stand behind it, each entered by itself
        _check_model(bundle, engine, tokenizer)

    @property
    def room(self) -> int:
        """Tokens of text and answer that fit behind the visual prefix."""
        return self._engine.capacity - self.prefix_tokens

    def reserved_bytes(self, memory: EngineMemory) -> int:
        """What its cells and their buffers hold, by the engine's measurements."""
        way = self._engine.way
        if way is None:
            return 0
        return memory.cell_bytes.get(way, 0) * self._engine.capacity + running_bytes(memory, way, self._engine.capacity)

    def see(
        self,
        before: Sequence[int],
        embeddings: NDArray[np.float32],
        room: int,
        *,
        between: Sequence[int] = (),
        lengths: Sequence[int] = (),
        spare: bool = True,
        way: Attention | None = None,
    ) -> None:
        """Enter a new visual prefix: token ids, then visual tokens [T, d], with `room` for text and answer.

        `spare` makes room for longer questions too; `way` says how the model attends, None leaves it to the engine.
        Where there are token ids `between` images, `lengths` are the images' numbers of visual tokens.

        Raises: EngineError if there is no memory for it, or the model fails.
        """
        whole = self._spec.visual_attention == "full"
        blocks = np.split(embeddings, np.cumsum(lengths)[:-1]) if between else [embeddings]
        prefix = len(before) + len(embeddings) + (len(blocks) - 1) * len(between)
        tokens = room_for(self._manifest, prefix, room, spare=spare)
        self.prefix_tokens = 0
        self._read = []
        self._engine.reserve(tokens, block=len(embeddings) if whole else 1, way=way)
        self._engine.truncate(0)
        self._engine.append_tokens(before)
        for index, block in enumerate(blocks):
            if index:
                self._engine.append_tokens(between)
            self._engine.append_embeddings(block, causal=not whole)
        self.prefix_tokens = prefix

    def read(self, after: Sequence[int], earlier: Sequence[tuple[int, ...]] = ()) -> int:
        """Enter the text behind the visual prefix, in place of an earlier question and its answer.

        The texts of `earlier` turns come before it. Those that stand there already are not entered again; how many
        tokens that are is returned. Each text is entered by itself, as it would be in a fresh sequence: the very same
        numbers come out.

        Raises: EngineError if it does not fit, or the model fails.
        """
        same = next((i for i, (a, b) in enumerate(zip(self._read, earlier, strict=False)) if a != b), len(earlier))
        self._read = self._read[:same]
        kept = sum(map(len, self._read))
        self._engine.truncate(self.prefix_tokens + kept)
        for text in (*earlier[len(self._read) :], tuple(after)):
            self._engine.append_tokens(text)
            self._read.append(text)
        return kept

    def generate(self, options: GenerationOptions) -> Generator[str, None, None]:
        """Yield the answer in pieces of whole characters, white space around it left out.

        It ends at a stop token, where one of `options.stop` begins, or at its greatest length.
        """
        with closing(self._pieces(options)) as pieces:
            yield from _stripped(self._until_stop(pieces, options.stop))

    def close(self) -> None:
        """Free the model; closing twice is fine."""
        self._engine.close()

    def _until_stop(self, pieces: Iterable[str], stop: Sequence[str]) -> Iterator[str]:
        """The same text up to where the first of `stop` begins; what may still become one is held back."""
        held = ""
        for piece in pieces:
            held += piece
            ends = [at for text in stop if (at := held.find(text)) >= 0]
            if ends:
                self.ended_by = "stop"
                yield held[: min(ends)]
                return
            sure = len(held) - max((_begun(held, text) for text in stop), default=0)
            yield held[:sure]
            held = held[sure:]
        yield held

    def _pieces(self, options: GenerationOptions) -> Generator[str, None, None]:
        text = _GrowingText(self._tokenizer)
        self.answer_tokens, self.ended_by, self.first_probability = 0, "length", None
        with closing(self._engine.sample(options.temperature, options.seed)) as tokens:
            for count, token in enumerate(tokens, start=1):
                self.answer_tokens = count
                if count == 1:
                    self.first_probability = _probability(self._engine.logits(), token)
                if token in self._stop or self._engine.is_end(token):
                    self.ended_by = "stop"
                    break
                yield text.add(token)
                if count == options.max_tokens:
                    break
        yield text.rest()


class _GrowingText:
    """Decodes tokens as they come: a character's bytes may be spread over several of them."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._ids: list[int] = []
        self._context = self._shown = 0  # decoding starts at `context`; tokens before `shown` are in the text

    def add(self, token: int) -> str:
        self._ids.append(token)
        text = self._new_text()
        if text.endswith(REPLACEMENT):
            return ""
        self._context, self._shown = self._shown, len(self._ids)
        return text

    def rest(self) -> str:
        """What was held back and turned out to be no whole character is dropped, the rest is not."""
        return self._new_text().rstrip(REPLACEMENT)

    def _new_text(self) -> str:
        known: str = self._tokenizer.decode(self._ids[self._context : self._shown])
        text: str = self._tokenizer.decode(self._ids[self._context :])
        return text[len(known) :]


def _begun(text: str, stop: str) -> int:
    """Characters at the end of `text` with which `stop` begins."""
    return next((n for n in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:n])), 0)


def _stripped(pieces: Iterable[str]) -> Iterator[str]:
    """The same text without white space around it, in pieces that are not empty."""
    space, begun = "", False
    for piece in pieces:
        text = space + piece if begun else piece.lstrip()
        shown = text.rstrip()
        space = text[len(shown) :]
        if shown:
            begun = True
            yield shown


def _probability(logits: NDArray[np.float32], token: int) -> float:
    """The softmax of the `logits` [vocabulary] at a token."""
    return float(1 / np.exp(logits.astype(np.float64) - float(logits[token])).sum())


def _check_stop(bundle: Bundle, tokenizer: Tokenizer, text: str) -> int:
    token: int | None = tokenizer.token_to_id(text)
    if token is None:
        raise BundleError(bundle.path, "language.stop", f"{text!r} is no token of this bundle's tokenizer")
    return token


def _check_model(bundle: Bundle, engine: LanguageEngine, tokenizer: Tokenizer) -> None:
    spec = bundle.manifest.language
    if engine.embedding_width != spec.embedding_width:
        message = (
            f"the model's embeddings have width {engine.embedding_width}, the manifest says {spec.embedding_width}"
        )
        raise BundleError(bundle.path, "language.embedding_width", message)
    if tokenizer.get_vocab_size() > engine.vocabulary_size:
        message = f"{tokenizer.get_vocab_size()} tokens, but the model knows {engine.vocabulary_size}"
        raise BundleError(bundle.path, "language.tokenizer", message)
    if "mrope" in (spec.rope, engine.rope):
        message = "mrope models are not run by this version: visual tokens get one-dimensional positions"
        raise BundleError(bundle.path, "language.rope", message)
