"""Engines: what runs a file of a bundle. One backend per file, behind two protocols.

A tensor engine (encoder, projector) maps arrays to arrays. A language engine holds one sequence of key-value
cells that grows by tokens or embeddings, can be cut back, and yields the next token. No backend's library is
imported before one of its files is opened.
"""

from __future__ import annotations

import sys
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, get_args

import numpy as np
from numpy.typing import NDArray

from tam_edge.runtime.errors import EngineError, UsageError
from tam_edge.runtime.plan import Rejection
from tam_edge.runtime.schema import Attention, EngineSpec

DeviceName = Literal["auto", "cpu", "cuda"]
"""Where engines run: `auto` takes a GPU where the installed library has one."""


class Engine(Protocol):
    """Arrays in, arrays out."""

    def run(self, inputs: Mapping[str, NDArray[np.generic]]) -> list[NDArray[np.float32]]:
        """Run the graph once; inputs by name, outputs in the graph's order."""
        ...

    def close(self) -> None:
        """Free the engine; closing twice is fine."""
        ...

    @property
    def input_names(self) -> tuple[str, ...]:
        """Names of the graph's inputs, in its order."""
        ...

    @property
    def on_gpu(self) -> bool:
        """Whether it runs on a GPU."""
        ...


class LanguageEngine(Protocol):
    """A language model and one sequence of key-value cells."""

    @property
    def on_gpu(self) -> bool:
        """Whether it runs on a GPU."""
        ...

    @property
    def embedding_width(self) -> int:
        """Numbers per embedding."""
        ...

    @property
    def vocabulary_size(self) -> int:
        """Number of token ids."""
        ...

    @property
    def rope(self) -> Literal["1d", "mrope"]:
        """Position encoding."""
        ...

    @property
    def length(self) -> int:
        """Tokens held in the sequence."""
        ...

    @property
    def capacity(self) -> int:
        """Tokens there is room for."""
        ...

    @property
    def way(self) -> Attention | None:
        """How it attends; None before `reserve`."""
        ...

    def reserve(self, tokens: int, *, block: int = 1, way: Attention | None = None) -> None:
        """Make room for `tokens`, and for `block` of them entered at once; what was held is dropped if it must grow."""
        ...

    def append_tokens(self, ids: Sequence[int]) -> None:
        """Enter token ids after what is held."""
        ...

    def append_embeddings(self, embeddings: NDArray[np.float32], *, causal: bool = True) -> None:
        """Enter embeddings [T, d] after what is held; not causal: each of them sees all of them."""
        ...

    def truncate(self, length: int) -> None:
        """Keep the first `length` tokens."""
        ...

    def logits(self) -> NDArray[np.float32]:
        """Scores [vocabulary] of the token that would come next."""
        ...

    def sample(self, temperature: float, seed: int) -> Generator[int, None, None]:
        """Yield token after token, each entered when the next one is asked for; temperature 0 is greedy."""
        ...

    def is_end(self, token: int) -> bool:
        """Whether the model itself calls this token an end of text."""
        ...

    def close(self) -> None:
        """Free the model; closing twice is fine."""
        ...


@dataclass(frozen=True, slots=True)
class EngineChoice:
    """The engine of a role that fits this device, and why not those preferred to it."""

    spec: EngineSpec
    """The engine."""
    rejections: tuple[Rejection, ...]
    """The engines that come before it in the manifest."""


def check_engine_options(device: str, threads: int | None) -> None:
    """Refuse a device nobody knows, and a number of threads that cannot work.

    Raises: UsageError.
    """
    if device not in get_args(DeviceName):
        raise UsageError(f"device {device!r} is unknown: choose one of {', '.join(get_args(DeviceName))}")
    if threads is not None and threads < 1:
        raise UsageError(f"{threads} threads cannot work: ask for at least 1")


def choose_engine(field: str, specs: Sequence[EngineSpec]) -> EngineChoice:
    """Take the first engine of a role (manifest `field`) that this program can run here.

    Raises: EngineError if none can.
    """
    refusals: list[Rejection] = []
    for spec in specs:
        reason = _refusal(spec)
        if reason is None:
            return EngineChoice(spec, tuple(refusals))
        refusals.append(Rejection(spec.file, reason))
    reasons = "; ".join(f"{refusal.what} {refusal.reason}" for refusal in refusals)
    raise EngineError(f"no engine of {field} fits this device: {reasons}; use a bundle made for it")


def open_engine(path: Path, spec: EngineSpec, threads: int, device: DeviceName = "auto") -> Engine:
    """Open a tensor engine.

    Raises: EngineError if the file cannot be opened.
    """
    if spec.backend != "onnx":
        raise EngineError(f"{path.name}: a {spec.backend} file cannot be used here, an onnx file can")
    from tam_edge.runtime.engines.onnx import OnnxEngine

    return OnnxEngine(path, threads=threads, device=device)


def open_language_engine(path: Path, spec: EngineSpec, threads: int, device: DeviceName = "auto") -> LanguageEngine:
    """Open a language model.

    Raises: EngineError if the file cannot be opened.
    """
    if spec.backend != "gguf":
        raise EngineError(f"{path.name}: a {spec.backend} file cannot be used here, a gguf file can")
    from tam_edge.runtime.engines.llamacpp import LlamaCppEngine

    return LlamaCppEngine(path, threads=threads, device=device)


def gpu_possible(device: DeviceName) -> bool:
    """Whether an engine may come to lie on a GPU; libraries that are not imported are not asked."""
    if device != "auto":
        return device == "cuda"
    onnxruntime, llama_cpp = sys.modules.get("onnxruntime"), sys.modules.get("llama_cpp")
    return bool(
        (onnxruntime and "CUDAExecutionProvider" in onnxruntime.get_available_providers())
        or (llama_cpp and llama_cpp.llama_supports_gpu_offload())
    )


def _refusal(spec: EngineSpec) -> str | None:
    if spec.backend == "tensorrt":
        return "needs TensorRT, which this version does not run"
    if spec.built_for != "any":
        return f"is built for {spec.built_for}"
    return None
