"""Drawing tokens: one uniform for each (request seed, position), so a rollout never depends on its neighbours."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

_GOLDEN = 0x9E3779B97F4A7C15 - 2**64
_MIX_1 = 0xBF58476D1CE4E5B9 - 2**64
_MIX_2 = 0x94D049BB133111EB - 2**64
_BLOCK = 512  # width of the vocabulary blocks in which the inverse CDF is searched


@dataclass(frozen=True, slots=True)
class SamplingColumns:
    """The sampling settings of B rows, a tensor for each setting, all [B].

    `truncated` holds the indices of the rows that use top_k, top_p or min_p, or None when no row does. The flags let the
    usual batch (temperature 1, nothing truncated) skip the rest.
    """

    temperature: Tensor  # 0 is greedy
    top_k: Tensor  # 0 is off
    top_p: Tensor
    min_p: Tensor
    truncated: Tensor | None
    has_greedy: bool
    has_temperature: bool  # some row's temperature is not 1


_NONE = torch.empty(0)
PLAIN = SamplingColumns(_NONE, _NONE, _NONE, _NONE, truncated=None, has_greedy=False, has_temperature=False)


def mixed(state: Tensor) -> Tensor:
    """splitmix64's finaliser on int64, whose products wrap as uint64's do.

    Source: Steele, Lea, Flood, "Fast splittable pseudorandom number generators" (OOPSLA 2014), figure 16 with Stafford's mix 13.
    """
    # int64 shifts copy the sign bit: the masks keep only what a logical shift would.
    state = (state ^ ((state >> 30) & (2**34 - 1))) * _MIX_1
    state = (state ^ ((state >> 27) & (2**37 - 1))) * _MIX_2
    return state ^ ((state >> 31) & (2**33 - 1))


def uniforms(stream: Tensor, position: Tensor) -> Tensor:
    """Uniforms in [0, 1), float64, from `stream` (a mixed seed) and `position` (a counter), both int64 and of one shape, or that
    broadcast to one."""
    bits = mixed(stream + (position + 1) * _GOLDEN)
    return ((bits >> 11) & (2**53 - 1)).double() * 2.0**-53


def sample(logits: Tensor, columns: SamplingColumns, uniform: Tensor) -> tuple[Tensor, Tensor]:
    """Draw one token for each row of `logits` [B, V]: token ids [B] and their log-probabilities [B], float32.

    The log-probability is that of the distribution drawn from: after temperature, then top_k, top_p and min_p (transformers'
    order). A greedy row's distribution would be a point, so it records the plain log-softmax of the logits instead.
    A row with NaN logits gets a NaN log-probability.
    """
    scaled = logits.float()
    if columns.has_temperature:
        divisor = torch.where(columns.temperature == 0, 1.0, columns.temperature)
        scaled = scaled / divisor[:, None]
    if columns.truncated is not None:
        kept = _truncated(scaled[columns.truncated], columns)
        scaled = scaled.index_copy(0, columns.truncated, kept)
    peak = scaled.amax(-1, keepdim=True)
    weights = (scaled - peak).exp_()
    tokens, total = _inverse_cdf(weights, uniform)
    if columns.has_greedy:
        tokens = torch.where(columns.temperature == 0, logits.argmax(-1), tokens)
    chosen = scaled.gather(1, tokens[:, None]) - peak
    return tokens, chosen[:, 0] - total.log().float()


def _truncated(scaled: Tensor, columns: SamplingColumns) -> Tensor:
    """`scaled` [n, V] with -inf outside top_k, then top_p of what is left, then min_p."""
    rows = columns.truncated
    assert rows is not None
    top_k, top_p, min_p = columns.top_k[rows, None], columns.top_p[rows, None], columns.min_p[rows, None]
    vocabulary = scaled.shape[-1]
    ordered, order = scaled.sort(stable=True, dim=-1, descending=True)
    last = torch.where(top_k == 0, vocabulary, top_k).clamp(max=vocabulary).long() - 1
    keep = ordered >= ordered.gather(1, last)
    probs = ordered.masked_fill(~keep, -torch.inf).softmax(-1)
    mass_before = probs.double().cumsum(-1) - probs
    keep &= (mass_before < top_p) | (top_p >= 1.0)
    keep &= probs >= min_p * probs[:, :1]
    return scaled.masked_fill(~torch.empty_like(keep).scatter_(1, order, keep), -torch.inf)


def _inverse_cdf(weights: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
    """First index where the running sum of `weights` [B, V] exceeds `uniform` [B] of the total; and the totals [B], float64."""
    vocabulary = weights.shape[-1]
    if vocabulary <= 4 * _BLOCK:
        running = weights.cumsum(-1, dtype=torch.float64)
        total = running[:, -1]
        return _first_above(running, uniform * total).clamp_(max=vocabulary - 1), total
    # A float64 running sum over a large vocabulary costs more than the softmax: sum blocks, then search inside one.
    whole = vocabulary // _BLOCK * _BLOCK
    sums = weights[:, :whole].view(weights.shape[0], -1, _BLOCK).sum(-1, dtype=torch.float64)
    if whole < vocabulary:
        sums = torch.cat([sums, weights[:, whole:].sum(-1, dtype=torch.float64, keepdim=True)], dim=-1)
    running = sums.cumsum(-1)
    total = running[:, -1]
    threshold = uniform * total
    block = _first_above(running, threshold).clamp_(max=sums.shape[-1] - 1)[:, None]
    index = block * _BLOCK + torch.arange(_BLOCK, device=weights.device)
    inside = weights.gather(1, index.clamp(max=vocabulary - 1)).double()
    inside = inside.masked_fill(index >= vocabulary, 0.0).cumsum(-1)
    before = running.gather(1, block) - sums.gather(1, block)
    offset = _first_above(inside, threshold - before[:, 0])
    return (block[:, 0] * _BLOCK + offset).clamp_(max=vocabulary - 1), total


def _first_above(running: Tensor, threshold: Tensor) -> Tensor:
    # Rounding may carry the threshold up to the sum itself, past the last index of positive weight.
    threshold = torch.minimum(threshold, running[:, -1] * (1.0 - 2.0**-52))
    return torch.searchsorted(running, threshold[:, None], right=True)[:, 0]
