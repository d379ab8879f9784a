"""Frames to visual tokens by a bundle's own engines, for what learns from them."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tam_edge.runtime.bundle import Bundle
from tam_edge.runtime.engines.onnx import OnnxEngine
from tam_edge.runtime.vision import CHUNK_FRAMES


class BundleEye:
    """The encoder and projectors of a bundle, opened on the CPU once they are needed."""

    def __init__(self, bundle: Bundle, threads: int) -> None:
        manifest = bundle.manifest
        encoder = manifest.encoders[manifest.strategies[0].encoders[0]]
        self._bundle, self._threads = bundle, threads
        self._encoder = OnnxEngine(bundle.file(encoder.engines[0]), threads=threads, device="cpu")
        self._projectors = dict[int, OnnxEngine]()

    def __call__(self, pixels: Tensor, grid: int, time_fraction: Tensor) -> Tensor:
        """Visual tokens [N*grid*grid, d] of N frames in time order; `pixels` [N, 3, px, px], times t/T [N].

        Raises: EngineError.
        """
        chunks = pixels.split(CHUNK_FRAMES)
        features = np.concatenate([self._encoder.run({"pixels": chunk.numpy()})[0] for chunk in chunks])
        inputs = {
            "features": features,
            "previous_features": np.concatenate((features[:1], features[:-1])),
            "time_fraction": time_fraction.numpy().astype(np.float32),
        }
        places = [slice(at, at + CHUNK_FRAMES) for at in range(0, len(features), CHUNK_FRAMES)]
        tokens = [self._project(grid, {name: values[place] for name, values in inputs.items()}) for place in places]
        return torch.from_numpy(np.concatenate(tokens)).flatten(0, 1)

    def _project(self, grid: int, inputs: dict[str, NDArray[np.float32]]) -> NDArray[np.float32]:
        """[N, grid*grid, d]."""
        if grid not in self._projectors:
            path = self._bundle.file(self._bundle.manifest.projectors[grid].engines[0])
            self._projectors[grid] = OnnxEngine(path, threads=self._threads, device="cpu")
        projector = self._projectors[grid]
        return projector.run({name: inputs[name] for name in projector.input_names})[0]
