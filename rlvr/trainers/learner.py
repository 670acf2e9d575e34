"""Learns from one step's groups: old and reference logprobs, advantages, and the optimizer steps."""

from __future__ import annotations

import copy
import functools
import operator
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from rlvr.config import RunConfig
from rlvr.progress import PROGRESS
from rlvr.trainers.algorithms import Algorithm
from rlvr.trainers.batch import build_batch, fill_advantages, minibatches
from rlvr.trainers.loss import LossParts, LossSums, token_losses
from rlvr.trainers.model.packing import microbatches
from rlvr.trainers.model.policy import Layout, Policy, Scores
from rlvr.trainers.model.update import enough_memory
from rlvr.trainers.run.session import Session
from rlvr.types import Group, StepBatch


class Reference:
    """The policy that KL is measured against: the base model under a LoRA adapter, `model`, or else a copy as of now."""

    def __init__(
        self, policy: Policy, model: nn.Module | None = None, share_out: Callable[[Policy], object] = lambda policy: None
    ) -> None:
        self._policy = policy
        self._has_adapter = hasattr(policy.model, "disable_adapter")
        self._frozen = policy
        if not self._has_adapter:
            frozen = copy.deepcopy(policy.model) if model is None else model
            self._frozen = policy.with_model(frozen.requires_grad_(False))
            share_out(self._frozen)  # as the policy is

    def score(self, batch: StepBatch, rows: Tensor, temperature: float) -> Tensor:
        adapter_off: AbstractContextManager[Any] = nullcontext()
        if self._has_adapter:
            adapter_off = self._policy.model.disable_adapter()  # type: ignore[operator]
        with torch.no_grad(), adapter_off:
            return _score(self._frozen, batch, rows, temperature).logprobs

    def refresh(self) -> None:
        """Take over the policy's present weights."""
        self._frozen.model.load_state_dict(self._policy.model.state_dict())

    def state_dict(self) -> dict[str, Tensor]:
        return self._frozen.model.state_dict()

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self._frozen.model.load_state_dict(state)


class Learner:
    """Turns groups into updates of the session's policy."""

    def __init__(self, session: Session, recipe: RunConfig, algorithm: Algorithm, reference: Reference | None) -> None:
        self._session = session
        self._policy = session.policy
        self._recipe = recipe
        self._algorithm = algorithm
        self._reference = reference
        self._temperature = recipe.rollout.temperature
        # Then the correction accounts for what lies between the policy of now and the one that sampled.
        self._is_decoupled = recipe.rollout.max_staleness > 0 and algorithm.stale.is_decoupled

    def prepare(self, groups: Sequence[Group]) -> StepBatch:
        """The step's rollouts with their old and reference logprobs, advantages and weights."""
        batch = build_batch(groups, self._algorithm.in_loss)
        stale = [] if self._is_decoupled else self._stale_rows(groups, batch)
        # On the first and only update the policy has not moved yet: its own logprobs are the old ones.
        if stale or self._updates_per_step > 1 or self._algorithm.needs_policy_logprobs:
            batch.old_logprobs = self._filled(batch, lambda rows: self._old(batch, rows))
            # What an earlier policy sampled is compared with that policy.
            batch.old_logprobs[stale] = batch.sampling_logprobs[stale]
        if self._reference is not None:
            reference = self._reference
            batch.ref_logprobs = self._filled(batch, lambda rows: reference.score(batch, rows, self._temperature))
        fill_advantages(batch, self._algorithm)
        return batch

    def learn(self, step_batch: StepBatch) -> dict[str, float]:
        """All passes over the step's mini-batches; returns its metrics, none if there is no signal in them.

        Raises:
            TrainingError: a loss or gradient is not finite; that update was not applied.
        """
        batches = minibatches(step_batch, self._algorithm, self._recipe.optim.minibatches)
        sums: list[LossSums] = []
        updates = []
        for _ in range(self._recipe.optim.epochs):
            for batch in batches:
                if len(self._rows_with_signal(batch)):
                    updates.append(self._session.updater.step(self._losses(batch, sums), self._session.step))
        if not updates:
            return {}
        means = _means(sums, self._session)
        means["loss"] = sum(update.loss for update in updates) / len(updates)
        means["grad_norm"] = sum(update.grad_norm for update in updates) / len(updates)
        means["lr"] = updates[-1].lr
        return means

    @property
    def _updates_per_step(self) -> int:
        return self._recipe.optim.epochs * self._recipe.optim.minibatches

    def _stale_rows(self, groups: Sequence[Group], batch: StepBatch) -> list[int]:
        """Rows of rollouts that waited for this step, sampled by an earlier policy."""
        rollouts = [rollout for group in groups for rollout in group.rollouts]
        is_stale = [any(turn.completion.policy_version < self._session.step for turn in rollout.turns) for rollout in rollouts]
        return [row for row, owner in enumerate(batch.rollout_index.tolist()) if is_stale[owner]]

    def _old(self, batch: StepBatch, rows: Tensor) -> Tensor:
        with torch.no_grad():
            return _score(self._policy, batch, rows, self._temperature).logprobs

    def _filled(self, batch: StepBatch, score: Any) -> Tensor:
        """[B, T] of per-token values, computed in micro-batches that the ranks share, and the same on all of them."""
        world = self._session.world
        values = torch.zeros(batch.loss_mask.shape)
        parts = self._microbatches(batch, range(len(batch.lengths)))
        own = world.share(parts)
        with enough_memory("scoring a step's rollouts", self._recipe.optim):
            for rows in own:
                part = score(rows)
                values[rows, : part.shape[1]] = part.cpu()
                PROGRESS.made()
        if self._policy.is_sharded and len(own) * world.size < len(parts):
            score(parts[0])  # the others have one more, and need this rank's part of the weights
        return world.sum(values)

    def _microbatches(self, batch: StepBatch, rows: Sequence[int]) -> list[Tensor]:
        lengths = batch.lengths.tolist()
        if self._algorithm.needs_whole_rollouts:
            return self._whole_rollouts(batch, rows)
        sizes = [lengths[row] for row in rows]
        # Rollouts of a group that are joined share their prompt; otherwise those of the same length waste least.
        is_joined = self._policy.layout(max(sizes, default=0)) is Layout.JOINED
        parts = microbatches(sizes, self._recipe.optim.tokens_per_microbatch, in_order=is_joined)
        return [torch.tensor([rows[index] for index in part]) for part in parts]

    def _whole_rollouts(self, batch: StepBatch, rows: Sequence[int]) -> list[Tensor]:
        """Micro-batches that never split the rows of one rollout."""
        lengths, owner = batch.lengths.tolist(), batch.rollout_index.tolist()
        rows_of: dict[int, list[int]] = {}
        for row in rows:
            rows_of.setdefault(owner[row], []).append(row)
        rollouts = list(rows_of.values())
        sizes = [sum(lengths[row] for row in group) for group in rollouts]
        parts = microbatches(sizes, self._recipe.optim.tokens_per_microbatch)
        return [torch.tensor([row for index in part for row in rollouts[index]]) for part in parts]

    def _losses(self, batch: StepBatch, sums: list[LossSums]) -> list[Any]:
        world = self._session.world
        owner = batch.rollout_index.tolist()
        rollouts = sorted({owner[row] for row in self._rows_with_signal(batch)})
        mine_of = {rollout: place % world.size == world.rank for place, rollout in enumerate(rollouts)}
        mine = [row for row in self._rows_with_signal(batch) if mine_of[owner[row]]]  # a rollout's rows stay on one rank

        def loss_of(rows: Tensor) -> Tensor:
            parts = self._parts(batch, rows)
            sums.append(parts.sums)
            return parts.loss

        return [lambda rows=rows: loss_of(rows) for rows in self._microbatches(batch, mine)]

    def _rows_with_signal(self, batch: StepBatch) -> list[int]:
        """Rows that can have a gradient. Those whose advantages are all zero cost a pass and move nothing."""
        algorithm = self._algorithm
        every_row_counts = algorithm.entropy_coef > 0 or (algorithm.needs_reference and not algorithm.kl_in_reward)
        has_signal = (batch.advantages != 0).any(1) | every_row_counts
        rows: list[int] = has_signal.nonzero()[:, 0].tolist()
        return rows

    def _parts(self, batch: StepBatch, rows: Tensor) -> LossParts:
        width = int(batch.lengths[rows].max())
        scores = _score(
            self._policy, batch, rows, self._temperature, entropy=True, entropy_gradient=self._algorithm.entropy_coef > 0
        )
        device = scores.logprobs.device

        def part(values: Tensor | None) -> Tensor | None:
            return None if values is None else values[rows, :width].to(device)

        return token_losses(
            self._algorithm,
            logprobs=scores.logprobs,
            advantages=batch.advantages[rows, :width].to(device),
            weights=batch.weights[rows, :width].to(device),
            mask=batch.loss_mask[rows, :width].to(device),
            rollout_index=batch.rollout_index[rows].to(device),
            old_logprobs=part(batch.old_logprobs),
            sampling_logprobs=part(batch.sampling_logprobs),
            ref_logprobs=part(batch.ref_logprobs),
            entropy=scores.entropy,
        )


def _score(
    policy: Policy, batch: StepBatch, rows: Tensor, temperature: float, *, entropy: bool = False, entropy_gradient: bool = False
) -> Scores:
    lengths = batch.lengths[rows]
    width = int(lengths.max())
    return policy.score(
        batch.input_ids[rows, :width],
        lengths,
        batch.loss_mask[rows, :width],
        temperature=temperature,
        entropy=entropy,
        entropy_gradient=entropy_gradient,
    )


_METRIC_NAMES = {
    "clipped": "clip_share",
    "policy_kl": "policy_kl",
    "entropy": "entropy",
    "ref_kl": "ref_kl",
    "sampling_kl": "sampling_kl",
    "corrected": "corrected_share",
    "ratio_max": "ratio_max",
}


def _means(sums: Sequence[LossSums], session: Session) -> dict[str, float]:
    """Metrics of all micro-batches of all ranks."""
    everyone = [part for rank in session.world.gather_lists(sums) for part in rank]
    means = functools.reduce(operator.add, everyone).means()
    return {_METRIC_NAMES[key]: value for key, value in means.items() if key in _METRIC_NAMES}
