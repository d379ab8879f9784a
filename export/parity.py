"""How far an exported file is from the PyTorch module it was made from; too far is an error, not a remark.

Both sides get the same inputs. Where rounding alone may send a token to another expert, it is counted, not compared.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tam_edge.models.language import LanguageModel
from tam_edge.models.moe import MoEMLP, gate_logits
from tam_edge.models.projector import Projectors, frames_before
from tam_edge.models.vision import VisionTransformer
from tam_edge.runtime.engines import Engine, LanguageEngine
from tam_edge.runtime.errors import TamEdgeError

FEATURE_TOLERANCE = 1e-3
"""Largest absolute error of patch features and visual tokens in float32."""
NEAR_TIE = 1e-4
"""A token whose last chosen and first rejected gate logit differ by less may go to either expert."""
NEAR_TIE_SHARE = 1e-3
"""Largest share of such choices among all choices, one per token and layer."""
LOGIT_TOLERANCE = 2e-2
"""Largest absolute error of the language model's logits with weights in float16."""


class ParityError(TamEdgeError):
    """An exported file does not compute what its PyTorch module computes."""


@dataclass(frozen=True, slots=True)
class VisionParity:
    """The image encoder's graph against its module."""

    max_abs_error: float
    """Largest absolute error over the tokens compared."""
    near_tie_share: float
    """Share of choices of experts, one per token and layer, that nearly tie, 0 to 1."""
    frames_apart: int
    """Frames not compared because rounding sent one of their near ties to the other expert."""
    tokens_apart_share: float
    """Share of tokens not compared: those that nearly tie in some layer, and all of the frames apart, 0 to 1."""


def compare_vision(encoder: VisionTransformer, engine: Engine, pixels: NDArray[np.float32]) -> VisionParity:
    """Compare patch features of `pixels` [N, 3, px, px].

    Raises:
        ParityError: the features differ by more than FEATURE_TOLERANCE, or too many tokens nearly tie.
    """
    expected, margins = _features_and_margins(encoder, torch.from_numpy(pixels))
    got = engine.run({"pixels": pixels})[0]
    error = np.abs(got - expected.numpy()).max(-1)  # [N, S*S]
    ties = margins.numpy() < NEAR_TIE  # [layers, N, S*S]
    near: NDArray[np.bool_] = np.logical_or.reduce(ties, 0)
    apart = (near & ~(error <= FEATURE_TOLERANCE)).any(-1)  # a token sent elsewhere moves its whole frame a little
    compared = error[~apart][~near[~apart]]
    figures = VisionParity(
        max_abs_error=float(compared.max(initial=0.0)),
        near_tie_share=float(ties.mean()) if ties.size else 0.0,
        frames_apart=int(apart.sum()),
        tokens_apart_share=1 - compared.size / error.size,
    )
    if figures.near_tie_share > NEAR_TIE_SHARE:
        raise ParityError(f"{figures.near_tie_share:.2%} of the choices of experts nearly tie: train the gates on")
    _require("patch features", figures.max_abs_error, FEATURE_TOLERANCE, compared.size)
    return figures


def compare_projector(
    projectors: Projectors, grid: int, engine: Engine, features: NDArray[np.float32], times: NDArray[np.float32]
) -> float:
    """Largest absolute error of the visual tokens of `grid` for `features` [N, S*S, D] at `times` [N] (t/T).

    Raises:
        ParityError: it is larger than FEATURE_TOLERANCE.
    """
    seen = torch.from_numpy(features)
    previous = frames_before(seen)
    inputs = {"features": features, "previous_features": previous.numpy(), "time_fraction": times}
    got = engine.run({name: inputs[name] for name in engine.input_names})[0]
    with torch.inference_mode():
        expected = projectors(seen, grid, torch.from_numpy(times), previous)
    error = float(np.abs(got - expected.numpy()).max())
    _require(f"visual tokens of grid {grid}", error, FEATURE_TOLERANCE, got.size)
    return error


def compare_logits(
    language: LanguageModel, engine: LanguageEngine, prompt: NDArray[np.float32], answer: Sequence[int]
) -> float:
    """Largest absolute error of the logits after `prompt` [L, d] and after each token of `answer` but the last.

    Raises:
        ParityError: it is larger than LOGIT_TOLERANCE.
    """
    words = language.embed_tokens(torch.tensor(answer[:-1], dtype=torch.long))
    with torch.inference_mode():
        expected = language(torch.cat((torch.from_numpy(prompt), words)).unsqueeze(0))[0, len(prompt) - 1 :]
    engine.truncate(0)
    engine.reserve(len(prompt) + len(answer))
    engine.append_embeddings(prompt)
    rows = [engine.logits()]
    for token in answer[:-1]:
        engine.append_tokens([token])
        rows.append(engine.logits())
    error = float(np.abs(np.stack(rows) - expected.numpy()).max())
    _require("logits", error, LOGIT_TOLERANCE, len(rows))
    return error


def with_f16_matrices(language: LanguageModel) -> LanguageModel:
    """A copy whose matrices went through float16, as in the file: what is left is the export's own error."""
    rounded = copy.deepcopy(language)
    with torch.no_grad():
        for parameter in rounded.parameters():
            if parameter.ndim > 1:
                parameter.copy_(parameter.half().float())
    return rounded


def _require(what: str, error: float, tolerance: float, compared: int) -> None:
    if compared == 0:
        raise ParityError(f"nothing was left to compare {what} with: use other frames")
    if not error <= tolerance:  # also where it is not a number
        raise ParityError(f"{what} differ from PyTorch's by {error:.3g}, more than {tolerance:g}: the export is wrong")


def _features_and_margins(encoder: VisionTransformer, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Features [N, S*S, D], and how far each token is from another choice of experts [layers with a gate, N, S*S]."""
    margins: list[Tensor] = []

    def note(module: nn.Module, args: tuple[Tensor, ...]) -> None:
        assert isinstance(module, MoEMLP)
        ranked = gate_logits(args[0], module.gate.weight).sort(-1, descending=True).values
        margins.append(ranked[..., module.experts_per_token - 1] - ranked[..., module.experts_per_token])

    mixtures = [block.mlp for block in encoder.blocks if isinstance(block.mlp, MoEMLP)]
    hooks = [moe.register_forward_pre_hook(note) for moe in mixtures if moe.experts_per_token < len(moe.experts)]
    try:
        with torch.inference_mode():
            features = encoder(pixels).features
    finally:
        for hook in hooks:
            hook.remove()
    return features, torch.stack(margins) if margins else torch.empty(0, *features.shape[:2])
