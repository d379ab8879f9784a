"""Qwen2-style decoder that reads embeddings: visual tokens and words enter through the same door."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from tam_edge.models.config import LanguageConfig


class RMSNorm(nn.Module):
    """x / rms(x) * weight, computed in float32."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        """[..., d] -> [..., d]."""
        return functional.rms_norm(x.float(), self.weight.shape, self.weight.float(), self.eps).to(x.dtype)


class CausalAttention(nn.Module):
    """Grouped-query attention with rotary positions; bias on q, k and v only."""

    def __init__(self, config: LanguageConfig) -> None:
        super().__init__()
        self.head_width = config.head_width
        self.q_proj = nn.Linear(config.width, config.heads * config.head_width)
        self.k_proj = nn.Linear(config.width, config.kv_heads * config.head_width)
        self.v_proj = nn.Linear(config.width, config.kv_heads * config.head_width)
        self.o_proj = nn.Linear(config.heads * config.head_width, config.width, bias=False)

    def forward(
        self, x: Tensor, rotation: tuple[Tensor, Tensor], mask: Tensor | None, rows: Tensor | None = None
    ) -> Tensor:
        """[B, L, d] -> [B, L, d]; `mask` [B, 1, L, L] is True where a row may look, None is causal.

        With `rows` [R] only those ask, and the result is [B, R, d]; `mask` is needed then.
        """
        asking = x if rows is None else x[:, rows]
        q, k, v = (
            p(y).unflatten(-1, (-1, self.head_width)).transpose(1, 2)
            for p, y in ((self.q_proj, asking), (self.k_proj, x), (self.v_proj, x))
        )  # [B, heads, L, head_width]
        q = rotate(q, *(rotation if rows is None else (angle[..., rows, :] for angle in rotation)))
        k = rotate(k, *rotation)
        mask = mask if rows is None or mask is None else mask[:, :, rows]
        if mask is None or q.is_cuda:
            attended = functional.scaled_dot_product_attention(
                q, k, v, attn_mask=mask, is_causal=mask is None, enable_gqa=True
            )
        else:
            attended = _attend_masked(q, k, v, mask)
        out: Tensor = self.o_proj(attended.transpose(1, 2).flatten(2))
        return out


def _attend_masked(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    """Attention under a boolean mask; on CPUs, forward and backward, 1.8 times as fast as PyTorch's own with a mask."""
    groups = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
    bias = torch.zeros(mask.shape, dtype=q.dtype).masked_fill_(~mask, -math.inf)
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2) + bias
    out: Tensor = torch.softmax(scores, -1).to(v.dtype) @ v
    return out


class SwiGLU(nn.Module):
    """down(silu(gate(x)) * up(x)), no bias."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(width, hidden, bias=False)
        self.up_proj = nn.Linear(width, hidden, bias=False)
        self.down_proj = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[..., d] -> [..., d]."""
        out: Tensor = self.down_proj(functional.silu(self.gate_proj(x)) * self.up_proj(x))
        return out


class DecoderBlock(nn.Module):
    """Pre-norm block: attention, then SwiGLU."""

    def __init__(self, config: LanguageConfig) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(config.width, config.rms_norm_eps)
        self.self_attn = CausalAttention(config)
        self.post_attention_layernorm = RMSNorm(config.width, config.rms_norm_eps)
        self.mlp = SwiGLU(config.width, config.ffn_width)

    def forward(
        self, x: Tensor, rotation: tuple[Tensor, Tensor], mask: Tensor | None, rows: Tensor | None = None
    ) -> Tensor:
        """[B, L, d] -> [B, L, d], or [B, R, d] where only `rows` [R] are wanted."""
        attended = self.self_attn(self.input_layernorm(x), rotation, mask, rows)
        x = (x if rows is None else x[:, rows]) + attended
        out: Tensor = x + self.mlp(self.post_attention_layernorm(x))
        return out


class LanguageModel(nn.Module):
    """The decoder; key names are those of a Qwen2 checkpoint without its leading `model.`."""

    def __init__(self, config: LanguageConfig) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.width)
        self.layers = nn.ModuleList(DecoderBlock(config) for _ in range(config.layers))
        self.norm = RMSNorm(config.width, config.rms_norm_eps)
        self.lm_head = None if config.tied else nn.Linear(config.width, config.vocab_size, bias=False)
        self.apply(_initialise)

    def prompt_embeddings(self, before: Tensor, visual: Tensor, after: Tensor) -> Tensor:
        """[1, L, d]: embeddings of the ids `before` [b], the tokens `visual` [T, d], the ids `after` [a]."""
        words = self.embed_tokens
        return torch.cat((words(before), visual.to(words.weight.dtype), words(after))).unsqueeze(0)

    def forward(
        self, inputs_embeds: Tensor, attention_mask: Tensor | None = None, position_ids: Tensor | None = None
    ) -> Tensor:
        """Next-token logits [B, L, vocab] of embeddings [B, L, d]; the other arguments are those of `hidden_states`."""
        return self.logits(self.hidden_states(inputs_embeds, attention_mask, position_ids))

    def hidden_states(
        self,
        inputs_embeds: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        rows: Tensor | None = None,
        blocks: int | None = None,
    ) -> Tensor:
        """Normed states before the output head, so that a trainer computes logits only where it has labels.

        Args:
            inputs_embeds: [B, L, d].
            attention_mask: boolean [B, 1, L, L], True where a row may look; None is causal. Several questions
                share one visual prefix by not seeing each other.
            position_ids: [B, L] (or [1, L]); None counts from 0.
            rows: [R] indices whose states are wanted, which spares the last block the others; needs a mask.
            blocks: stop after so many blocks; None: after the last.

        Returns:
            [B, L, d], or [B, R, d].
        """
        if position_ids is None:
            position_ids = torch.arange(inputs_embeds.shape[1], device=inputs_embeds.device).unsqueeze(0)
        rotation = rotary_angles(position_ids, self.config.head_width, self.config.rope_theta)
        x = inputs_embeds
        for layer in self.layers[:blocks]:
            x = layer(x, rotation, attention_mask, rows if layer is self.layers[-1] else None)
        out: Tensor = self.norm(x)
        return out

    def attention(self, block: int) -> CausalAttention:
        """The attention of one block, counted from 0."""
        layer = self.layers[block]
        assert isinstance(layer, DecoderBlock)
        return layer.self_attn

    def logits(self, hidden: Tensor) -> Tensor:
        """Output head: [..., d] -> [..., vocab]."""
        return functional.linear(hidden, self.embed_tokens.weight if self.lm_head is None else self.lm_head.weight)

    @torch.inference_mode()
    def greedy_generate(self, inputs_embeds: Tensor, max_tokens: int, stop: int) -> list[int]:
        """Most likely tokens after `inputs_embeds` [1, L, d], at most `max_tokens`, without the `stop` token.

        Every step reads the whole sequence again: this is the reference that engines are compared with.
        """
        answer: list[int] = []
        while len(answer) < max_tokens:
            best = int(self.logits(self.hidden_states(inputs_embeds)[0, -1]).argmax())
            if best == stop:
                break
            answer.append(best)
            inputs_embeds = torch.cat((inputs_embeds, self.embed_tokens.weight[best].view(1, 1, -1)), 1)
        return answer


def rotary_angles(position_ids: Tensor, head_width: int, theta: float) -> tuple[Tensor, Tensor]:
    """Cosine and sine [B, 1, L, head_width] of the rotary angles, float32; the two halves repeat (GPT-NeoX layout)."""
    exponent = torch.arange(0, head_width, 2, device=position_ids.device, dtype=torch.float32) / head_width
    angles = position_ids.unsqueeze(-1).float() * theta**-exponent  # [B, L, head_width / 2]
    both = torch.cat((angles, angles), -1).unsqueeze(1)
    return both.cos(), both.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary position of queries or keys [B, heads, L, head_width]."""
    first, second = x.chunk(2, -1)
    return (x * cos + torch.cat((-second, first), -1) * sin).to(x.dtype)


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)
