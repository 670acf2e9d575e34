"""What advantages and weights are computed from: the whole step at once, however it is split into micro-batches later."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Groups:
    """Statistics of the groups of R rollouts, each spread back to [R]. Group ids may be any integers in any order."""

    index: Tensor  # [R] long

    def sizes(self) -> Tensor:
        """[R] long: how many rollouts share the group of each."""
        return self.sum(torch.ones_like(self.index))

    def sum(self, values: Tensor) -> Tensor:
        """[R] -> [R]: the sum over each rollout's group."""
        ids, inverse = torch.unique(self.index, return_inverse=True)
        return values.new_zeros(len(ids)).index_add(0, inverse, values)[inverse]

    def mean(self, values: Tensor) -> Tensor:
        return self.sum(values) / self.sizes()

    def is_constant(self, values: Tensor) -> Tensor:
        """[R] bool: all values of the rollout's group are equal. Exact, where a computed std is only nearly zero."""
        ids, inverse = torch.unique(self.index, return_inverse=True)
        low = values.new_zeros(len(ids)).scatter_reduce(0, inverse, values, "amin", include_self=False)
        high = values.new_zeros(len(ids)).scatter_reduce(0, inverse, values, "amax", include_self=False)
        return (low == high)[inverse]


@dataclass(frozen=True, slots=True)
class Step:
    """R rollouts in B rows of T positions. A rollout has several rows when a chat template rewrote its history."""

    rewards: Tensor  # [R], finite
    group_index: Tensor  # [R] long: rollout -> group
    rollout_index: Tensor  # [B] long: row -> rollout, in [0, R); rows of one rollout are in the order of time
    mask: Tensor  # [B, T] bool: True on sampled tokens
    token_penalty: Tensor | None = None  # [B, T]: kl_coef * KL estimate, where KL is part of the reward
    values: Tensor | None = None  # [B, T]: the critic's, where there is one

    @property
    def rollouts(self) -> int:
        return self.rewards.shape[0]

    @property
    def groups(self) -> Groups:
        return Groups(self.group_index)

    def sum_per_rollout(self, values: Tensor) -> Tensor:
        """[B, T] -> [R]: the sum over the sampled tokens of all rows of a rollout."""
        rows = values.masked_fill(~self.mask, 0).sum(1)
        return rows.new_zeros(self.rollouts).index_add(0, self.rollout_index, rows)

    def tokens_per_rollout(self) -> Tensor:
        """[R], in the rewards' dtype."""
        return self.sum_per_rollout(self.mask.to(self.rewards.dtype))

    def spread(self, values: Tensor) -> Tensor:
        """[R] -> [B, T]: each rollout's value on its sampled tokens, 0 elsewhere."""
        return values[self.rollout_index].unsqueeze(1) * self.mask.to(values.dtype)

    def rows(self, index: Tensor) -> Step:
        """The step that consists of these rows alone (a mini-batch with an optimizer step of its own)."""
        kept, rollout_index = torch.unique(self.rollout_index[index], return_inverse=True)
        return replace(
            self,
            rewards=self.rewards[kept],
            group_index=self.group_index[kept],
            rollout_index=rollout_index,
            mask=self.mask[index],
            token_penalty=None if self.token_penalty is None else self.token_penalty[index],
            values=None if self.values is None else self.values[index],
        )
