"""From groups of rollouts to the tensors of one optimizer step."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from rlvr.trainers.algorithms import Algorithm
from rlvr.trainers.loss import prepare
from rlvr.trainers.model.sequences import pad
from rlvr.trainers.step import Step
from rlvr.types import Group, Rollout, Segment, StepBatch


def build_batch(groups: Sequence[Group], in_loss: Callable[[Rollout], bool] = lambda rollout: True) -> StepBatch:
    """The rollouts of `groups` as a batch on the CPU, one row a segment; logprobs, advantages and weights still to be filled.

    Every rollout needs a reward and at least one sampled token. Of those that are not `in_loss` every token is masked, while
    their rewards stay.
    """
    rollouts = [rollout for group in groups for rollout in group.rollouts]
    group_index = [index for index, group in enumerate(groups) for _ in group.rollouts]
    rows = [(index, segment) for index, rollout in enumerate(rollouts) for segment in rollout.segments()]
    segments = [segment for _, segment in rows]
    input_ids = pad([segment.token_ids for segment in segments], torch.long)
    width = input_ids.shape[1]
    zeros = torch.zeros(input_ids.shape)
    return StepBatch(
        input_ids=input_ids,
        lengths=torch.tensor([len(segment.token_ids) for segment in segments]),
        loss_mask=pad([_mask(segment, learned=in_loss(rollouts[index])) for index, segment in rows], torch.bool, width),
        sampling_logprobs=pad([segment.sampling_logprobs for segment in segments], torch.float32, width),
        old_logprobs=None,
        ref_logprobs=None,
        values=None,
        advantages=zeros,
        weights=zeros,
        rewards=torch.tensor([float(rollout.reward) for rollout in rollouts if rollout.reward is not None]),
        rollout_index=torch.tensor([index for index, _ in rows]),
        group_index=torch.tensor(group_index),
    )


def _mask(segment: Segment, *, learned: bool) -> tuple[bool, ...]:
    return segment.loss_mask if learned else (False,) * len(segment.loss_mask)


def fill_advantages(batch: StepBatch, algorithm: Algorithm) -> None:
    """Set `advantages` and `weights` from the whole batch; KL in the reward reads `old_logprobs` and `ref_logprobs`."""
    prepared = prepare(
        algorithm,
        rewards=batch.rewards,
        group_index=batch.group_index,
        rollout_index=batch.rollout_index,
        mask=batch.loss_mask,
        policy_logprobs=batch.old_logprobs,
        ref_logprobs=batch.ref_logprobs,
        values=batch.values,
    )
    batch.advantages = prepared.advantages
    batch.weights = prepared.weights


def minibatches(batch: StepBatch, algorithm: Algorithm, parts: int) -> list[StepBatch]:
    """Split a filled batch by groups, for one optimizer step each: advantages stay, weights are normalised over each part."""
    if parts == 1:
        return [batch]
    part_of_row = batch.group_index[batch.rollout_index] % parts
    step = Step(batch.rewards, batch.group_index, batch.rollout_index, batch.loss_mask)
    rows_of = [(part_of_row == part).nonzero()[:, 0] for part in range(parts)]
    return [_part(batch, rows, step.rows(rows), algorithm) for rows in rows_of if len(rows)]


def _part(batch: StepBatch, rows: Tensor, step: Step, algorithm: Algorithm) -> StepBatch:
    def of(values: Tensor | None) -> Tensor | None:
        return None if values is None else values[rows]

    return StepBatch(
        input_ids=batch.input_ids[rows],
        lengths=batch.lengths[rows],
        loss_mask=batch.loss_mask[rows],
        sampling_logprobs=batch.sampling_logprobs[rows],
        old_logprobs=of(batch.old_logprobs),
        ref_logprobs=of(batch.ref_logprobs),
        values=of(batch.values),
        advantages=batch.advantages[rows],
        weights=algorithm.aggregate(step),
        rewards=step.rewards,
        rollout_index=step.rollout_index,
        group_index=step.group_index,
    )


def rollout_advantages(batch: StepBatch) -> list[float]:
    """[R] the mean advantage over each rollout's sampled tokens, for the record."""
    count = len(batch.rewards)
    mask = batch.loss_mask.to(batch.advantages.dtype)
    sums = torch.zeros(count).index_add(0, batch.rollout_index, (batch.advantages * mask).sum(1))
    tokens = torch.zeros(count).index_add(0, batch.rollout_index, mask.sum(1))
    values: list[float] = (sums / tokens.clamp(min=1)).tolist()
    return values
