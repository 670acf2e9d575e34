"""`rlvr explain ALGORITHM --on batch.json`: the trainer's own `prepare` and `token_losses` on a batch written by hand."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from rlvr.errors import ConfigError
from rlvr.trainers.algorithms import Algorithm
from rlvr.trainers.loss import prepare, token_losses
from rlvr.trainers.shaping.base import Identity, KeepAll
from rlvr.types import Completion, FinishReason, Group, Message, Problem, Rollout, Stop, Turn, Verdict

REQUIRED = ("logprobs", "mask", "rewards", "groups")
PER_TOKEN = ("old_logprobs", "sampling_logprobs", "ref_logprobs", "entropy")
# Read only where shapes are applied: what a shape may ask about a rollout beside its score and its length.
FOR_SHAPES = ("correct", "truncated", "target_tokens", "step")
KNOWN = (*REQUIRED, *PER_TOKEN, "max_tokens", *FOR_SHAPES)


@dataclass(frozen=True, slots=True)
class ToyBatch:
    """Rows are rollouts; they may have different lengths and gaps in their mask. Numbers are kept in float64."""

    lengths: tuple[int, ...]
    logprobs: Tensor  # [R, T]
    mask: Tensor  # [R, T] bool
    rewards: Tensor  # [R], final: after shaping; with `compute(are_scores=True)` before it
    groups: tuple[Any, ...]  # [R] labels of any kind
    per_token: dict[str, Tensor]  # those of PER_TOKEN that were given, [R, T]
    max_tokens: int | None
    correct: tuple[bool, ...] = ()  # [R], or empty: right is what scores 1 or more
    truncated: tuple[bool, ...] = ()  # [R], or empty: none is
    target_tokens: tuple[float | None, ...] = ()  # [R], equal in a group, or empty: nothing was asked for
    step: int | None = None  # finished steps of the run, for shapes that change in its course; None: they are through with it

    @classmethod
    def parse(cls, data: object) -> ToyBatch:
        """Read the JSON object of a batch.

        Raises:
            ConfigError: a key is missing or unknown, shapes do not agree, or a number is not finite.
        """
        if not isinstance(data, Mapping):
            raise ConfigError(f"the batch is a JSON {type(data).__name__}; give an object with {', '.join(REQUIRED)}")
        missing = [key for key in REQUIRED if data.get(key) is None]
        unknown = [key for key in data if key not in KNOWN]
        if missing or unknown:
            what = f"lacks {', '.join(missing)}" if missing else f"has unknown keys {', '.join(map(repr, unknown))}"
            raise ConfigError(f"the batch {what}; it may have: {', '.join(KNOWN)}")
        rows = _rows("logprobs", data["logprobs"])
        lengths = tuple(len(row) for row in rows)
        mask = [[_bit(value, row, t) for t, value in enumerate(values)] for row, values in enumerate(_rows("mask", data["mask"]))]
        _check_shape("mask", mask, lengths)
        rewards = [_number("rewards", value, (i,)) for i, value in enumerate(_list("rewards", data["rewards"]))]
        groups = tuple(_list("groups", data["groups"]))
        for key, values in (("rewards", rewards), ("groups", groups)):
            if len(values) != len(lengths):
                raise ConfigError(
                    f"batch.{key} has {len(values)} entries, but logprobs has {len(lengths)} rows; give one for each"
                )
        return cls(
            lengths,
            _padded("logprobs", rows, mask, lengths),
            _pad(mask, lengths).bool(),
            torch.tensor(rewards, dtype=torch.float64),
            groups,
            {key: _padded(key, _rows(key, data[key]), mask, lengths) for key in PER_TOKEN if data.get(key) is not None},
            _max_tokens(data.get("max_tokens")),
            _flags("correct", data, len(lengths)),
            _flags("truncated", data, len(lengths)),
            _targets(data, groups),
            _step(data.get("step")),
        )

    @property
    def group_index(self) -> Tensor:
        """[R] long: groups numbered in the order of their first appearance."""
        labels = [json.dumps(label, sort_keys=True) for label in self.groups]
        return torch.tensor([list(dict.fromkeys(labels)).index(label) for label in labels], dtype=torch.long)

    def ragged(self, values: Tensor) -> list[list[float]]:
        """[R, T] -> lists with the lengths of the input's rows."""
        unsigned_zero = values + 0.0  # -0.0 becomes 0.0
        return [row[:length] for row, length in zip(unsigned_zero.tolist(), self.lengths, strict=True)]


@dataclass(frozen=True, slots=True)
class ToyResult:
    """What the trainer would compute; lists have the shapes of the input."""

    advantages: list[list[float]]
    weights: list[list[float]]
    loss: float
    grad_logprobs: list[list[float]]  # d loss / d logprobs
    dropped_groups: list[Any]  # labels that `keep_group` would replace; they are part of the numbers above
    metrics: dict[str, float]
    notes: list[str]  # what training would do and this computation does not
    rewards: list[float | None]  # after shaping, where shapes were applied; None: left out of its group


def compute(algorithm: Algorithm, batch: ToyBatch, *, are_scores: bool = False) -> ToyResult:
    """One update's numbers. `are_scores`: the batch's rewards are what verifiers gave, and the algorithm's shapes are applied.

    Raises:
        ConfigError: the algorithm or a shape needs an input that the batch lacks.
    """
    if batch.max_tokens is not None:
        algorithm = algorithm.bind(max_tokens=batch.max_tokens)
    if batch.step is not None:
        algorithm = algorithm.at_step(batch.step)
    shaped: list[float | None] = list(batch.rewards.tolist())
    is_learned = torch.ones(len(batch.lengths), dtype=torch.bool)
    if are_scores:
        shaped, is_learned = _shaped(algorithm, batch)
        batch = _with_rewards(batch, shaped, is_learned)
    for key in _needed_by(algorithm):
        if key not in batch.per_token:
            raise ConfigError(f"batch.{key} is missing, but {algorithm.name!r} with these settings needs it")
    rollout_index = torch.arange(len(batch.lengths))
    prepared = prepare(
        algorithm,
        rewards=batch.rewards,
        group_index=batch.group_index,
        rollout_index=rollout_index,
        mask=batch.mask,
        policy_logprobs=batch.per_token.get("old_logprobs", batch.logprobs),
        ref_logprobs=batch.per_token.get("ref_logprobs"),
    )
    logprobs = batch.logprobs.clone().requires_grad_()
    parts = token_losses(
        algorithm,
        logprobs=logprobs,
        advantages=prepared.advantages,
        weights=prepared.weights,
        mask=batch.mask,
        rollout_index=rollout_index,
        **batch.per_token,
    )
    (gradient,) = torch.autograd.grad(parts.loss, logprobs)
    dropped = _dropped(algorithm, batch)
    return ToyResult(
        advantages=batch.ragged(prepared.advantages),
        weights=batch.ragged(prepared.weights),
        loss=parts.loss.item(),
        grad_logprobs=batch.ragged(gradient),
        dropped_groups=dropped,
        metrics=parts.sums.means(),
        notes=_notes(algorithm, dropped, shaped if are_scores else None),
        rewards=shaped,
    )


def _shaped(algorithm: Algorithm, batch: ToyBatch) -> tuple[list[float | None], Tensor]:
    """[R] rewards after the algorithm's shapes, and [R] bool: whether a rollout's tokens stay in the loss."""
    rollouts = [_rollout(batch, i) for i in range(len(batch.lengths))]
    rewards: list[float | None] = [None] * len(rollouts)
    index_of = batch.group_index.tolist()
    for index in sorted(set(index_of)):
        places = [i for i, group in enumerate(index_of) if group == index]
        group = Group(rollouts[places[0]].problem, tuple(rollouts[i] for i in places))
        for place, reward in zip(places, algorithm.shape(group), strict=True):
            rewards[place] = reward
    is_learned = [reward is not None and algorithm.in_loss(one) for one, reward in zip(rollouts, rewards, strict=True)]
    return rewards, torch.tensor(is_learned)


def _rollout(batch: ToyBatch, i: int) -> Rollout:
    target = batch.target_tokens[i] if batch.target_tokens else None
    problem = Problem(str(batch.groups[i]), (), None, {} if target is None else {"target_tokens": target})
    reward = float(batch.rewards[i])
    is_correct = batch.correct[i] if batch.correct else reward >= 1
    is_truncated = bool(batch.truncated and batch.truncated[i])
    tokens = int(batch.mask[i].sum())
    finish = FinishReason.LENGTH if is_truncated else FinishReason.STOP
    turn = Turn((), Completion((), (), finish, reported_tokens=tokens), Message("assistant", ""))
    verdict = Verdict.correct() if is_correct else Verdict.incorrect()
    return Rollout(problem, i, [turn], Stop.LENGTH if is_truncated else Stop.STOP, {"batch": verdict}, reward)


def _with_rewards(batch: ToyBatch, rewards: list[float | None], is_learned: Tensor) -> ToyBatch:
    """The batch with shaped rewards. A rollout that was left out is alone in a group of its own, and without tokens."""
    groups = tuple(
        label if reward is not None else ["left out", i]
        for i, (label, reward) in enumerate(zip(batch.groups, rewards, strict=True))
    )
    numbers = torch.tensor([0.0 if reward is None else reward for reward in rewards], dtype=torch.float64)
    return replace(batch, rewards=numbers, groups=groups, mask=batch.mask & is_learned.unsqueeze(1))


def _needed_by(algorithm: Algorithm) -> list[str]:
    needs = {
        "ref_logprobs": algorithm.needs_reference,
        "sampling_logprobs": algorithm.correction is not None,
        "entropy": algorithm.entropy_coef > 0,
    }
    return [key for key, is_needed in needs.items() if is_needed]


def _dropped(algorithm: Algorithm, batch: ToyBatch) -> list[Any]:
    if isinstance(algorithm.keep_group, KeepAll):
        return []
    members: dict[int, list[float]] = {}
    labels: dict[int, Any] = {}
    for index, label, reward in zip(batch.group_index.tolist(), batch.groups, batch.rewards.tolist(), strict=True):
        labels.setdefault(index, label)
        members.setdefault(index, []).append(reward)
    return [labels[index] for index, rewards in members.items() if not algorithm.keep_group(_group(labels[index], rewards))]


def _notes(algorithm: Algorithm, dropped: Sequence[Any], shaped: Sequence[float | None] | None) -> list[str]:
    notes = []
    if dropped:
        labels = ", ".join(map(str, dropped))
        notes.append(f"training would drop and refill groups without signal: {labels}; they are part of these numbers")
    if shaped is not None:
        notes.append("rewards were taken as scores, and shaped")
        left_out = [str(i) for i, reward in enumerate(shaped) if reward is None]
        notes += [f"rollouts {', '.join(left_out)} are left out of their groups"] if left_out else []
    elif not isinstance(algorithm.shape, Identity):
        shape = type(algorithm.shape).__name__
        notes.append(f"rewards are taken as final: the {shape} that training adds is not applied to them")
    return notes


def _group(label: Any, rewards: Sequence[float]) -> Group:
    problem = Problem(str(label), (), None)
    return Group(problem, tuple(Rollout(problem, i, reward=reward) for i, reward in enumerate(rewards)))


def _list(key: str, value: object) -> list[Any]:
    if not isinstance(value, list):
        raise ConfigError(f"batch.{key} is {type(value).__name__}; give a list")
    if not value:
        raise ConfigError(f"batch.{key} is empty; give one entry for each rollout")
    return value


def _rows(key: str, value: object) -> list[list[Any]]:
    rows = _list(key, value)
    for i, row in enumerate(rows):
        if not isinstance(row, list):
            raise ConfigError(f"batch.{key}[{i}] is {type(row).__name__}; give a list of lists, one for each rollout")
    return rows


def _padded(key: str, rows: list[list[Any]], mask: list[list[float]], lengths: tuple[int, ...]) -> Tensor:
    _check_shape(key, rows, lengths)
    checked = [
        [_number(key, value, (i, t)) if mask[i][t] else _unread(key, value, (i, t)) for t, value in enumerate(row)]
        for i, row in enumerate(rows)
    ]
    return _pad(checked, lengths)


def _pad(rows: list[list[float]], lengths: tuple[int, ...]) -> Tensor:
    width = max(*lengths, 1)
    return torch.tensor([row + [0.0] * (width - len(row)) for row in rows], dtype=torch.float64)


def _check_shape(key: str, rows: Sequence[Sequence[Any]], lengths: tuple[int, ...]) -> None:
    if len(rows) != len(lengths):
        raise ConfigError(f"batch.{key} has {len(rows)} rows, but logprobs has {len(lengths)}")
    for i, (row, length) in enumerate(zip(rows, lengths, strict=True)):
        if len(row) != length:
            raise ConfigError(f"batch.{key}[{i}] has {len(row)} values, but logprobs[{i}] has {length}")


def _number(key: str, value: object, at: tuple[int, ...]) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ConfigError(f"batch.{key}{''.join(f'[{i}]' for i in at)} = {value!r}; give a finite number")
    return float(value)


def _unread(key: str, value: object, at: tuple[int, ...]) -> float:
    # Outside the mask anything numeric may stand, NaN too: the trainer must not care, and null is what tools write there.
    if value is None:
        return math.nan
    return float(value) if isinstance(value, float) else _number(key, value, at)


def _bit(value: object, row: int, t: int) -> float:
    if value not in (0, 1):
        raise ConfigError(f"batch.mask[{row}][{t}] = {value!r}; give 1 for a sampled token and 0 for any other")
    return float(bool(value))


def _flags(key: str, data: Mapping[Any, Any], count: int) -> tuple[bool, ...]:
    if data.get(key) is None:
        return ()
    values = _list(key, data[key])
    if len(values) != count or any(value not in (0, 1) for value in values):
        raise ConfigError(f"batch.{key} = {values!r}; give true or false for each of the {count} rollouts")
    return tuple(map(bool, values))


def _targets(data: Mapping[Any, Any], groups: Sequence[Any]) -> tuple[float | None, ...]:
    given = data.get("target_tokens")
    if given is None:
        return ()
    values = given if isinstance(given, list) else [given] * len(groups)
    if len(values) != len(groups):
        raise ConfigError(
            f"batch.target_tokens has {len(values)} entries for {len(groups)} rollouts; give one for each, or a number"
        )
    numbers = tuple(None if value is None else _number("target_tokens", value, (i,)) for i, value in enumerate(values))
    of_group: dict[str, float | None] = {}
    for label, number in zip(groups, numbers, strict=True):
        if of_group.setdefault(json.dumps(label, sort_keys=True), number) != number:
            raise ConfigError(f"batch.target_tokens differs within group {label!r}; the rollouts of a group share a prompt")
    return numbers


def _step(value: object) -> int | None:
    if value is None or (isinstance(value, int) and not isinstance(value, bool) and value >= 0):
        return value
    raise ConfigError(f"batch.step = {value!r}; give the number of finished steps, 0 or more")


def _max_tokens(value: object) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ConfigError(f"batch.max_tokens = {value!r}; give the longest response in tokens, 1 or more")
    return value
