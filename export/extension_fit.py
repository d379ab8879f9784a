"""One more row for an Inductor's head, by logistic regression with the old types' say as its offset."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

Array = NDArray[np.float64]

_PENALTIES = (1e-4, 1e-3, 1e-2)  # on the squared weights
_OLD_WEIGHT = 2.0  # a lost old question costs as much as two new ones that are not recognised
_CHECKED = 5  # one question in this many decides between the penalties, and how willing the row is
_TAKEN_SHARE = 0.005  # of other questions that it was not fitted on
_ROUNDS = 60


@dataclass(frozen=True, slots=True)
class Row:
    """The new type's logit: features @ weight + bias."""

    weight: Array
    """[F]."""

    bias: float
    """Added to it."""


def fit_row(new: tuple[Array, Array], old: tuple[Array, Array], temperature: float) -> Row:
    """Fit the row to logits [N, tasks] and features [N, F] of questions of the new type and of others.

    The new type wins where its logit exceeds what the old ones amount to together; divided by the temperature, so that
    its confidence is on the old ones' scale. Where it takes less than _TAKEN_SHARE of others it is shifted to
    take so many: people ask for the new type in words that its questions do not have, and the fit would let those go.
    """
    logits, features = (np.concatenate(pair) for pair in zip(new, old, strict=True))
    wanted = np.r_[np.ones(len(new[0])), np.zeros(len(old[0]))]
    mean, spread = features.mean(axis=0), features.std(axis=0) + 1e-6
    x = torch.from_numpy((features - mean) / spread)
    offset = torch.logsumexp(torch.from_numpy(logits / temperature), dim=1)
    y = torch.from_numpy(wanted)
    checked = torch.arange(len(wanted)) % _CHECKED == 0
    tried = [_fit(x[~checked], offset[~checked], y[~checked], one) for one in _PENALTIES]
    best = int(np.argmin([_loss(one, x[checked], offset[checked], y[checked]) for one in tried]))
    found = _fit(x, offset, y, _PENALTIES[best]).numpy()
    others = checked & (y == 0)
    ahead = _says(tried[best], x[others]) - torch.from_numpy(logits.max(axis=1) / temperature)[others]
    shift = max(0.0, -float(torch.quantile(ahead, 1 - _TAKEN_SHARE)))
    weight = found[:-1] / spread
    return Row(weight * temperature, float((found[-1] + shift - (weight * mean).sum()) * temperature))


def _fit(x: Tensor, offset: Tensor, y: Tensor, penalty: float) -> Tensor:
    """Weights and, last, the bias: float64 [F + 1]."""
    weights = torch.zeros(x.shape[1] + 1, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([weights], max_iter=_ROUNDS, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = _entropy(weights, x, offset, y) + penalty * (weights[:-1] ** 2).sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    return weights.detach()


def _says(weights: Tensor, x: Tensor) -> Tensor:
    return x @ weights[:-1] + weights[-1]


def _loss(weights: Tensor, x: Tensor, offset: Tensor, y: Tensor) -> float:
    return float(_entropy(weights, x, offset, y))


def _entropy(weights: Tensor, x: Tensor, offset: Tensor, y: Tensor) -> Tensor:
    """Cross-entropy in which all new questions weigh as much as half of all old ones, however many there are."""
    each = functional.binary_cross_entropy_with_logits(_says(weights, x) - offset, y, reduction="none")
    return each[y == 1].mean() + _OLD_WEIGHT * each[y == 0].mean()
