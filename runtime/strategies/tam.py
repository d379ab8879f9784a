"""TAM: every frame is pooled to the plan's grid and projected by that grid's expert (paper, section 3.2)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from tam_edge.runtime.bundle import Bundle
from tam_edge.runtime.engines import Engine
from tam_edge.runtime.errors import BundleError, UsageError
from tam_edge.runtime.plan import Plan
from tam_edge.runtime.strategies import OpenEngine, VisualTokens
from tam_edge.runtime.vision import PatchFeatures


class Tam:
    """One projector expert per grid; which one runs is decided by the plan, not learned."""

    def __init__(self, bundle: Bundle, open_engine: OpenEngine) -> None:
        self._bundle = bundle
        self._open_engine = open_engine

    def prepare(self, plan: Plan) -> None:
        """Open the projector of the plan's grid.

        Raises: BundleError if its inputs are not what the manifest says; EngineError if it cannot be opened.
        """
        self._projector(plan)

    def project(self, features: Iterable[PatchFeatures], plan: Plan) -> VisualTokens:
        """Pool and project as features come; none are held longer than that.

        Raises: BundleError if a projector gives tokens of another number or width than the manifest says.
        """
        projector = self._projector(plan)
        chunks = [
            self._run(projector, *pair, plan) for pair in _after_frames(features)
        ]  # each [N, tokens_per_frame, d]
        width = self._bundle.manifest.language.embedding_width
        closing = self._closing()
        return VisualTokens(
            embeddings=np.concatenate([*(chunk.reshape(-1, width) for chunk in chunks), closing]),
            frame_tokens=tuple(chunk.shape[1] for chunk in chunks for _ in range(len(chunk))),
            grid=plan.grid,
            expert=plan.expert,
            exact=True,
            closing_tokens=len(closing),
        )

    def _closing(self) -> NDArray[np.float32]:
        """[0 or 1, d]: what ends every clip."""
        manifest = self._bundle.manifest
        if manifest.closing is None:
            return np.empty((0, manifest.language.embedding_width), np.float32)
        return np.fromfile(self._bundle.file(manifest.closing), "<f4").reshape(1, -1)

    def _projector(self, plan: Plan) -> Engine:
        spec = self._bundle.manifest.projectors.get(plan.grid or 0)
        if spec is None:
            raise UsageError(f"the plan's grid is {plan.grid}, for which this bundle has no projector; plan again")
        field = f"projectors.{plan.grid}"
        engine = self._open_engine(f"{field}.engines", spec.engines)
        if set(engine.input_names) != set(spec.inputs):
            message = f"the graph takes {', '.join(engine.input_names)}; the manifest says {', '.join(spec.inputs)}"
            raise BundleError(self._bundle.path, f"{field}.inputs", message)
        return engine

    def _run(
        self, projector: Engine, features: PatchFeatures, before: NDArray[np.float32], plan: Plan
    ) -> NDArray[np.float32]:
        inputs = {"features": features.values, "time_fraction": _time_fractions(features, plan)}
        if "previous_features" in projector.input_names:
            inputs["previous_features"] = np.concatenate((before, features.values[:-1]))
        tokens = projector.run({name: inputs[name] for name in projector.input_names})[0]
        per_frame = self._bundle.manifest.routing.rung(plan.grid or 0).tokens_per_frame
        width = self._bundle.manifest.language.embedding_width
        if tokens.shape != (len(features.values), per_frame, width):
            wrong = "routing.ladder" if tokens.shape[-1] == width else f"projectors.{plan.grid}"
            message = (
                f"grid {plan.grid} gives {tokens.shape}; the manifest says {per_frame} tokens a frame of width {width}"
            )
            raise BundleError(self._bundle.path, wrong, message)
        return tokens


def _after_frames(chunks: Iterable[PatchFeatures]) -> Iterator[tuple[PatchFeatures, NDArray[np.float32]]]:
    """Each chunk with the features [1, S * S, D] of the frame before it, for the first chunk of its own first frame."""
    last: NDArray[np.float32] | None = None
    for chunk in chunks:
        yield chunk, chunk.values[:1] if last is None else last
        last = chunk.values[-1:]


def _time_fractions(features: PatchFeatures, plan: Plan) -> NDArray[np.float32]:
    """[N] where in its clip each frame lies, 0 to 1; an image lies at 0."""
    if plan.duration_seconds == 0:
        return np.zeros(len(features.timestamps_seconds), np.float32)
    fractions = (features.timestamps_seconds - plan.start_seconds) / plan.duration_seconds
    return fractions.clip(0, 1).astype(np.float32)
