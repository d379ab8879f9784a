"""One bundle's stages, each fed with what is given: so two bundles are compared stage by stage, not only at the end."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tam_edge.quant.samples import Sample
from tam_edge.runtime.bundle import Bundle
from tam_edge.runtime.engines import choose_engine, open_language_engine
from tam_edge.runtime.frames import FrameBatch
from tam_edge.runtime.parts import Parts
from tam_edge.runtime.vision import CHUNK_FRAMES, PatchFeatures, encode

Floats = NDArray[np.float32]
ANSWER_TOKENS = 8
"""Most tokens of an answer at which the next one's probabilities are compared."""
ROOM_TOKENS = 32
"""Room kept behind a prompt."""


class Chain:
    """The opened parts of a bundle, on the CPU. A context manager."""

    def __init__(self, bundle: Bundle, threads: int) -> None:
        self.bundle = bundle
        """The bundle."""
        self._parts = Parts(bundle, threads=threads, device="cpu")
        choice = choose_engine("language.engines", bundle.manifest.language.engines)
        self._language = open_language_engine(bundle.file(choice.spec), choice.spec, threads, "cpu")
        tokenizer = self._parts.tokenizer()
        self._stop = {tokenizer.token_to_id(text) for text in bundle.manifest.language.stop}

    def features(self, sample: Sample) -> PatchFeatures:
        """Patch features of the sample's frames, [N, S * S, D]."""
        encoder, frames = self._parts.encoder(sample.plan), sample.frames
        slices = (slice(at, at + CHUNK_FRAMES) for at in range(0, len(frames.pixels), CHUNK_FRAMES))
        batches = (FrameBatch(frames.pixels[s], frames.timestamps_seconds[s], frames.sources[s]) for s in slices)
        chunks = [encode(batch, encoder).values for batch in batches]
        return PatchFeatures(np.concatenate(chunks), frames.timestamps_seconds, frames.sources, encoder.name)

    def tokens(self, features: PatchFeatures, sample: Sample) -> Floats:
        """Visual tokens [T, d] of patch features."""
        strategy = self._parts.strategy(sample.plan)
        return strategy.project([features], sample.plan).embeddings

    def enter(self, tokens: Floats, sample: Sample) -> None:
        """Fill the language model with the prompt around visual tokens [T, d]."""
        causal = self.bundle.manifest.language.visual_attention == "causal"
        room = len(sample.prompt.before) + len(tokens) + len(sample.prompt.after) + ROOM_TOKENS
        self._language.reserve(room, block=1 if causal else len(tokens))
        self._language.truncate(0)
        self._language.append_tokens(sample.prompt.before)
        self._language.append_embeddings(tokens, causal=causal)
        self._language.append_tokens(sample.prompt.after)

    def answer(self) -> tuple[list[int], Floats]:
        """Greedy tokens after `enter`, the end included, at most ANSWER_TOKENS, and the logits [n, V] before each."""
        ids: list[int] = []
        rows: list[Floats] = []
        while len(ids) < ANSWER_TOKENS:
            rows.append(self._language.logits())
            ids.append(int(rows[-1].argmax()))
            if ids[-1] in self._stop or self._language.is_end(ids[-1]):
                break
            self._language.append_tokens(ids[-1:])
        return ids, np.stack(rows)

    def logits(self, ids: Sequence[int]) -> Floats:
        """Logits [n, V] after `enter`, before each of another bundle's answer tokens."""
        rows = []
        for index, token in enumerate(ids):
            rows.append(self._language.logits())
            if index + 1 < len(ids):
                self._language.append_tokens([token])
        return np.stack(rows)

    def append(self, token: int) -> None:
        """Enter one more token, whatever it is: what generating one costs."""
        self._language.append_tokens([token])

    def shorten(self, tokens: int) -> None:
        """Forget the last `tokens` tokens."""
        self._language.truncate(self._language.length - tokens)

    def close(self) -> None:
        """Free everything."""
        self._language.close()
        self._parts.close()

    def __enter__(self) -> Chain:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def relative_error(got: Floats, expected: Floats) -> float:
    """Root of the mean squared error over the standard deviation of what was expected."""
    spread = float(expected.std())
    return float(np.sqrt(np.mean((got - expected) ** 2, dtype=np.float64)) / spread) if spread else 0.0


def divergence(got: Floats, expected: Floats) -> tuple[float, int]:
    """Mean Kullback-Leibler divergence, in nats, of next tokens, from logits [n, V]; how often the first agrees."""
    p, q = _log_softmax(expected), _log_softmax(got)
    each = (np.exp(p) * (p - q)).sum(-1)
    return float(np.maximum(each, 0).mean()), int((got.argmax(-1) == expected.argmax(-1)).sum())


def _log_softmax(logits: Floats) -> NDArray[np.float64]:
    shifted = logits.astype(np.float64) - logits.max(-1, keepdims=True)
    whole: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    return whole
