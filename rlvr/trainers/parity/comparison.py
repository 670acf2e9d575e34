"""The same batch through our loss and through another package's: the losses, and the gradient of every parameter.

Ours is the trainer's own path: rollouts, `build_batch`, advantages, packed scoring, `token_losses`. Theirs gets the
log-probabilities of a plain padded forward pass of the same weights, and their own functions do the rest. All of it is float64,
but for the norms inside the model, so that what is left of a difference is not rounding.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from rlvr.envs.tasks import TinyModel
from rlvr.trainers.algorithms import Algorithm, build
from rlvr.trainers.batch import build_batch, fill_advantages
from rlvr.trainers.loss import token_losses
from rlvr.trainers.model.policy import Policy
from rlvr.trainers.model.tiny import tiny_model
from rlvr.types import Completion, FinishReason, Group, Message, Problem, Rollout, Turn

TOLERANCE = 1e-9  # of a loss
GRADIENT_TOLERANCE = 1e-6  # relative to the largest one: transformers' norms compute in float32, whatever the weights are in
GROUPS, GROUP_SIZE, LONGEST = 3, 4, 9
_SPEC = TinyModel(alphabet="0123456789", hidden=32, layers=2, heads=2, kv_heads=1, head_dim=16, intermediate=48)


@dataclass(frozen=True, slots=True)
class Setting:
    """A preset of ours with its arguments, and the same thing in the other package's words."""

    algorithm: str
    arguments: Mapping[str, Any]
    theirs: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return " ".join([self.algorithm, *(f"{key}={value}" for key, value in self.arguments.items())])


@dataclass(frozen=True, slots=True)
class TheirBatch:
    """R rollouts in T columns, as padded trainers have them: column t is the t-th sampled token. float64."""

    logprobs: Tensor  # [R, T], with gradient
    old: Tensor  # [R, T]
    ref: Tensor  # [R, T]
    mask: Tensor  # [R, T] bool
    rewards: Tensor  # [R]
    group_size: int  # rollouts of a group stand together


class Peer(Protocol):
    """Another package's loss."""

    @property
    def name(self) -> str: ...

    @property
    def version(self) -> str: ...

    @property
    def settings(self) -> Sequence[Setting]: ...

    def loss(self, batch: TheirBatch, setting: Setting) -> Tensor:
        """A scalar that can be differentiated."""
        ...


@dataclass(frozen=True, slots=True)
class ParameterGap:
    """`gap` is the largest absolute difference of the gradients, `largest` the largest absolute gradient of ours."""

    name: str
    largest: float
    gap: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """Worst over the seeds. `parameters` are of the worst seed."""

    setting: str
    loss: float
    their_loss: float
    loss_gap: float
    parameters: tuple[ParameterGap, ...]

    @property
    def gradient_gap(self) -> float:
        """The largest difference of any parameter's gradient, relative to the largest gradient."""
        return max(p.gap for p in self.parameters) / max(max(p.largest for p in self.parameters), 1e-300)

    @property
    def is_equal(self) -> bool:
        return self.loss_gap <= TOLERANCE and self.gradient_gap <= GRADIENT_TOLERANCE


def compare(peer: Peer, setting: Setting, seeds: Sequence[int] = range(3)) -> Comparison:
    """One setting, on random rollouts of random lengths; old and reference policies differ from the present one."""
    found = [_compare_once(peer, setting, seed) for seed in seeds]
    return max(found, key=lambda one: (one.loss_gap > TOLERANCE, one.gradient_gap))


def _compare_once(peer: Peer, setting: Setting, seed: int) -> Comparison:
    model = tiny_model(_SPEC, seed)[0].double().eval()
    groups = _groups(seed)
    algorithm = build(setting.algorithm, dict(setting.arguments)).bind(max_tokens=LONGEST)
    generator = torch.Generator().manual_seed(seed)
    rollouts = [rollout for group in groups for rollout in group.rollouts]

    theirs = _plain_logprobs(model, rollouts)
    mask = torch.tensor([[t < rollout.completion_tokens for t in range(theirs.shape[1])] for rollout in rollouts])
    noise = [0.3 * torch.randn(theirs.shape, generator=generator, dtype=torch.float64) for _ in range(2)]
    old, ref = (theirs.detach() + one for one in noise)
    rewards = torch.tensor([rollout.reward for rollout in rollouts], dtype=torch.float64)
    their_loss = peer.loss(TheirBatch(theirs, old, ref, mask, rewards, GROUP_SIZE), setting)
    their_gradient = _gradients(model, their_loss)

    loss = _our_loss(model, groups, algorithm, old, ref)
    gradient = _gradients(model, loss)
    parameters = tuple(
        ParameterGap(name, float(gradient[name].abs().max()), float((gradient[name] - their_gradient[name]).abs().max()))
        for name in gradient
    )
    gap = abs(loss.item() - their_loss.item())
    return Comparison(setting.name, loss.item(), their_loss.item(), gap, parameters)


def _our_loss(model: nn.Module, groups: Sequence[Group], algorithm: Algorithm, old: Tensor, ref: Tensor) -> Tensor:
    batch = build_batch(groups, algorithm.in_loss)
    batch.rewards = batch.rewards.double()
    starts = [len(rollout.turns[0].prompt_ids) for group in groups for rollout in group.rollouts]
    batch.old_logprobs, batch.ref_logprobs = (_in_columns(part, starts, batch.loss_mask) for part in (old, ref))
    fill_advantages(batch, algorithm)
    scores = Policy(model).score(batch.input_ids, batch.lengths, batch.loss_mask)
    return token_losses(
        algorithm,
        logprobs=scores.logprobs,
        advantages=batch.advantages,
        weights=batch.weights,
        mask=batch.loss_mask,
        rollout_index=batch.rollout_index,
        old_logprobs=batch.old_logprobs,
        ref_logprobs=batch.ref_logprobs if algorithm.needs_reference else None,
    ).loss


def _in_columns(values: Tensor, starts: Sequence[int], mask: Tensor) -> Tensor:
    """[R, T] by sampled token to [R, W] by place in the sequence."""
    found = torch.zeros(mask.shape, dtype=values.dtype)
    for row, start in enumerate(starts):
        count = int(mask[row].sum())
        found[row, start : start + count] = values[row, :count]
    return found


def _plain_logprobs(model: nn.Module, rollouts: Sequence[Rollout]) -> Tensor:
    """[R, T], 0 on padding: one padded forward pass, and the log-softmax of all logits."""
    sequences = [[*r.turns[0].prompt_ids, *r.turns[0].completion.token_ids] for r in rollouts]
    width = max(map(len, sequences))
    ids = torch.tensor([[*sequence, *[0] * (width - len(sequence))] for sequence in sequences])
    real = torch.tensor([[1] * len(sequence) + [0] * (width - len(sequence)) for sequence in sequences])
    every = model(input_ids=ids, attention_mask=real, use_cache=False).logits[:, :-1].log_softmax(-1)
    chosen = every.gather(-1, ids[:, 1:, None])[..., 0]
    rows = []
    for rollout, row in zip(rollouts, chosen, strict=True):
        start, count = len(rollout.turns[0].prompt_ids) - 1, rollout.completion_tokens
        rows.append(torch.cat([row[start : start + count], row.new_zeros(LONGEST - count)]))
    return torch.stack(rows)


def _gradients(model: nn.Module, loss: Tensor) -> dict[str, Tensor]:
    named = dict(model.named_parameters())
    values = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
    return {name: torch.zeros_like(named[name]) if value is None else value for name, value in zip(named, values, strict=True)}


def _groups(seed: int) -> list[Group]:
    numbers = random.Random(seed)
    made = []
    for index in range(GROUPS):
        problem = Problem(f"p{index}", (Message("user", str(index)),), "")
        prompt = tuple(numbers.randrange(3, 12) for _ in range(numbers.randrange(2, 5)))
        rollouts = []
        for sample in range(GROUP_SIZE):
            tokens = tuple(numbers.randrange(3, 12) for _ in range(numbers.randrange(1, LONGEST + 1)))
            completion = Completion(tokens, (0.0,) * len(tokens), FinishReason.STOP)
            turn = Turn(prompt, completion, Message("assistant", ""))
            reward = numbers.choice((0.0, 0.0, 0.5, 1.0))
            rollouts.append(Rollout(problem, sample, [turn], reward=reward))
        rollouts[0].reward, rollouts[1].reward = 1.0, 0.0  # every group has a signal
        made.append(Group(problem, tuple(rollouts)))
    return made
