"""Sparse MLP of the image encoder: four experts, two of them per token (TAM eq. 2, CuMo's auxiliary losses).

A dense MLP becomes a mixture by co-upcycling, which changes no output, so training can start from any SigLIP.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

BALANCE_COEFFICIENT = 1e-3
"""Weight of the balance loss L_b in TAM's objective."""
ROUTER_Z_COEFFICIENT = 5e-4
"""Weight of the router z-loss L_z in TAM's objective."""


class AuxiliaryLosses(NamedTuple):
    """Router losses, scalars, not yet multiplied by their coefficients."""

    balance: Tensor
    """L_b: 1 for a uniform load, up to the number of experts where one takes all."""
    router_z: Tensor
    """L_z: mean squared logsumexp of the gate logits."""

    def weighted(self) -> Tensor:
        """What TAM adds to the next-token loss: 1e-3 * L_b + 5e-4 * L_z."""
        return BALANCE_COEFFICIENT * self.balance + ROUTER_Z_COEFFICIENT * self.router_z


class MLP(nn.Module):
    """SigLIP's feed-forward block: Linear, tanh GELU, Linear; [..., D] -> [..., D]."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block to every position."""
        out: Tensor = self.fc2(functional.gelu(self.fc1(x), approximate="tanh"))
        return out


class MoEMLP(nn.Module):
    """Mixture of `experts` MLPs, the best `experts_per_token` of them per token, without capacity limit."""

    def __init__(self, width: int, hidden: int, experts: int, experts_per_token: int) -> None:
        super().__init__()
        self.experts_per_token = experts_per_token
        self.gate = nn.Linear(width, experts, bias=False)
        self.experts = nn.ModuleList(MLP(width, hidden) for _ in range(experts))

    def forward(self, x: Tensor) -> tuple[Tensor, AuxiliaryLosses]:
        """Mix experts per token.

        Args:
            x: normed hidden states [B, T, D].

        Returns:
            The mixture [B, T, D] and the losses of this layer.
        """
        logits = gate_logits(x, self.gate.weight)
        weights = routing_weights(logits, self.experts_per_token)
        tokens = x.flatten(0, 1)  # [B*T, D]
        mixed = _mix(self.experts, tokens, weights.flatten(0, 1).to(x.dtype))
        return mixed.view_as(x), auxiliary_losses(logits)


def gate_logits(x: Tensor, weight: Tensor) -> Tensor:
    """Router scores [B, T, E] in float32, even under autocast: bf16 would make ties that the export does not have."""
    with torch.autocast(x.device.type, enabled=False):
        return functional.linear(x.float(), weight.float())


def routing_weights(logits: Tensor, top_k: int) -> Tensor:
    """Softmax over the `top_k` largest logits, zero elsewhere; of equal logits the lower expert index wins.

    Args:
        logits: [..., E].
        top_k: experts kept, 1..E.

    Returns:
        Weights [..., E], rows sum to 1.
    """
    remaining = logits.detach()
    for _ in range(top_k):
        # argmax returns the first of equal maxima; topk promises no order among them.
        best = functional.one_hot(remaining.argmax(-1), logits.shape[-1]).bool()
        remaining = remaining.masked_fill(best, -torch.inf)
    return logits.masked_fill(remaining != -torch.inf, -torch.inf).softmax(-1)


def auxiliary_losses(logits: Tensor) -> AuxiliaryLosses:
    """L_b and L_z of one layer (seed: CuMo).

    L_b = mean over images of E * sum_e f_e P_e, with P_e the mean probability and f_e the share of tokens whose
    first choice is e (no gradient through f_e). L_z = mean over tokens of logsumexp(logits)**2.

    Args:
        logits: gate scores [B, T, E] of B images.
    """
    experts = logits.shape[-1]
    probability = logits.softmax(-1).mean(1)  # P [B, E]
    first_choice = functional.one_hot(logits.argmax(-1), experts).to(logits.dtype).mean(1)  # f [B, E]
    balance = (probability * first_choice).sum(-1).mean() * experts
    return AuxiliaryLosses(balance, logits.logsumexp(-1).square().mean())


def upcycle(dense: MLP, experts: int, experts_per_token: int) -> MoEMLP:
    """Co-upcycling: every expert starts as a copy of `dense`, the gate at random, so the output is unchanged."""
    hidden, width = dense.fc1.weight.shape
    moe = MoEMLP(width, hidden, experts, experts_per_token).to(dense.fc1.weight)
    for expert in moe.experts:
        expert.load_state_dict(dense.state_dict())
    return moe


def _mix(experts: nn.ModuleList, tokens: Tensor, weights: Tensor) -> Tensor:
    # Gathering each expert's tokens took 43% of the time of running all four densely (D = 128, one core).
    mixed = torch.zeros_like(tokens)
    for index, expert in enumerate(experts):
        chosen = weights[:, index].nonzero().squeeze(-1)
        out = expert(tokens[chosen]) * weights[chosen, index, None]
        mixed = mixed.index_add(0, chosen, out.to(mixed.dtype))
    return mixed
