"""Reads the image encoder back out of a bundle, so that a run can begin with the eye that another run trained.

A bundle is all that outlives a machine, and the eye is a third of the recipe's time.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import onnx
import torch
from google.protobuf.message import DecodeError
from onnx import numpy_helper
from torch import Tensor

from tam_edge.models.config import VisionConfig
from tam_edge.models.vision import VisionTransformer
from tam_edge.runtime.bundle import load_bundle
from tam_edge.runtime.errors import BundleError

LARGEST_DIFFERENCE = 0.1
"""Of an expert from the experts' mean, as a part of the mean's size: above it they are no copies of one MLP."""


def recall_encoder(folder: Path, config: VisionConfig) -> VisionTransformer:
    """The dense encoder of a bundle that `tam-edge export nano` wrote; near copies of one MLP become their mean.

    Raises:
        BundleError: the bundle is broken, its encoder is of another kind or size, or its experts differ.
    """
    bundle = load_bundle(folder)
    field, spec = next((f"encoders.{name}", spec) for name, spec in bundle.manifest.encoders.items())
    engine = next((engine for engine in spec.engines if engine.backend == "onnx"), None)
    if engine is None:
        raise BundleError(folder, field, "has no ONNX file to read weights from")
    try:
        graph = onnx.load(bundle.file(engine)).graph
    except DecodeError as error:
        raise BundleError(folder, field, f"{engine.file} is no ONNX model: {error}") from error
    stored = {tensor.name: torch.from_numpy(numpy_helper.to_array(tensor).copy()) for tensor in graph.initializer}
    encoder = VisionTransformer(replace(config, experts=1))
    try:
        encoder.load_state_dict({name: _as_trained(name, stored[name]) for name, _ in encoder.named_parameters()})
    except KeyError as error:
        raise BundleError(folder, field, f"{engine.file} holds no {error.args[0]}") from error
    except RuntimeError as error:  # torch lists every tensor of another shape
        raise BundleError(folder, field, f"{engine.file} is of another size: {str(error).splitlines()[1]}") from error
    except ValueError as error:
        raise BundleError(folder, field, str(error)) from error
    return encoder


def _as_trained(name: str, stored: Tensor) -> Tensor:
    """A stored tensor as torch keeps it: a graph multiplies by [in, out], and stacks experts as [E, out, in]."""
    experts, weight = ".mlp." in name, name.endswith(".weight")
    if experts and stored.ndim == (3 if weight else 2):
        mean = stored.mean(0)
        difference = float(((stored - mean).flatten(1).norm(dim=1) / mean.norm()).max())
        if difference > LARGEST_DIFFERENCE:
            raise ValueError(f"experts differ by {difference:.0%} ({name}), so there is no dense encoder to go on with")
        return mean
    linear = weight and any(part in name for part in ("_proj.", ".fc1.", ".fc2."))
    return stored.T.contiguous() if linear else stored
