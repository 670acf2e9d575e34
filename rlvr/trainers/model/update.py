"""One optimizer step from micro-batches, on one process or many."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from rlvr.config import OptimConfig
from rlvr.engines.memory import within_memory
from rlvr.errors import TrainingError
from rlvr.progress import PROGRESS
from rlvr.trainers.model.distributed import World
from rlvr.trainers.model.moments import Moments, MomentsInParts
from rlvr.trainers.model.optimizer import adamw, clip_gradients, learning_rate, schedule_factor
from rlvr.trainers.model.parallel import Parallel, Way
from rlvr.trainers.model.policy import Policy


def enough_memory(doing: str, settings: OptimConfig) -> AbstractContextManager[None]:
    """Where the policy computes; TrainingError names the settings when memory runs out."""
    advice = (
        f"lower optim.tokens_per_microbatch (it is {settings.tokens_per_microbatch}), set load.gradient_checkpointing = true, "
        "or hold less: load.precision = bf16, load.lora_rank, or several processes with load.parallel = fsdp (and offload = true)"
    )
    return within_memory(TrainingError, doing, advice)


@dataclass(frozen=True, slots=True)
class StepStats:
    loss: float
    grad_norm: float
    lr: float


class Stepper(Protocol):
    """How gradients add up and become an update."""

    moments: MomentsInParts
    is_in_parts: bool  # weights, or what belongs to them, are shared out
    is_in_step: bool  # processes meet in every backward pass: all of them need as many as the one with the most

    def backward(self, loss: Tensor, *, is_last: bool) -> None:
        """Add a loss's gradient to what is there; `is_last` of this update."""
        ...

    def take(self, lr: float) -> float:
        """Update once, and forget the gradients.

        Returns:
            The norm of the gradient of all processes, before it was clipped; where it is not finite, nothing was updated.
        """
        ...

    def drop(self) -> float:
        """Forget the gradients; their norm, NaN where nobody knows it."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Of whole parameters, as torch has it."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """That of whole parameters, also into those that lie in parts."""
        ...


class TorchStepper:
    """torch's AdamW over parameters that are whole or sharded tensors."""

    def __init__(self, policy: Policy, settings: OptimConfig, lr: float, world: World) -> None:
        self.is_in_parts = self.is_in_step = policy.is_sharded
        self._parameters = policy.parameters()
        self._clip = settings.grad_clip
        self._world = world
        self._optimizer = adamw(self._parameters, settings, lr)
        self.moments: MomentsInParts = Moments.of(self._optimizer, policy.model.named_parameters())

    def backward(self, loss: Tensor, *, is_last: bool) -> None:
        loss.backward()  # type: ignore[no-untyped-call]

    def take(self, lr: float) -> float:
        norm = self._norm()
        if math.isfinite(norm):
            for group in self._optimizer.param_groups:
                group["lr"] = lr
            self._optimizer.step()
        self._forget()
        return norm

    def drop(self) -> float:
        norm = self._norm()
        self._forget()
        return norm

    def state_dict(self) -> dict[str, Any]:
        return self._optimizer.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if self.is_in_parts:
            self.moments.spread(state)
        else:
            self._optimizer.load_state_dict(state)

    def _norm(self) -> float:
        if not self.is_in_step:  # those of shards are summed layer by layer, as they come
            self._world.sum_gradients(self._parameters)
        return clip_gradients(self._parameters, self._clip).item()

    def _forget(self) -> None:
        self._optimizer.zero_grad(set_to_none=True)  # 4 bytes a parameter that generation can have


class Updater:
    """The gradient of a step is the sum over its micro-batches and over all ranks."""

    def __init__(self, policy: Policy, settings: OptimConfig, steps: int, world: World, parallel: Parallel | None = None) -> None:
        """
        Raises:
            ConfigError, TrainingError: DeepSpeed is asked for and not installed, or cannot share the model out.
        """
        self._policy = policy
        self._settings = settings
        self._steps = steps
        self._world = world
        everything = sum(parameter.numel() for parameter in policy.model.parameters())
        trained = sum(parameter.numel() for parameter in policy.parameters())
        self.peak_lr = learning_rate(settings, everything, is_adapter=trained < everything)
        self._stepper = _stepper(policy, settings, self.peak_lr, world, parallel)
        self.moments = self._stepper.moments

    @property
    def is_in_parts(self) -> bool:
        """Whether weights or moments are shared out over the processes."""
        return self._stepper.is_in_parts

    def step(self, losses: Iterable[Callable[[], Tensor]], step: int) -> StepStats:
        """Accumulate the gradients of `losses` (each computed when it is called) and update the parameters once.

        Raises:
            TrainingError: the loss or the gradient is not finite; the parameters were not touched.
        """
        total = 0.0
        with self._together(step), enough_memory(f"computing the update of step {step + 1}", self._settings):
            own = self._in_step(losses)
            for index, compute in enumerate(own):
                loss = compute()
                self._stepper.backward(loss, is_last=index + 1 == len(own))
                total += loss.item()
                PROGRESS.made()
        total = self._world.sum(torch.tensor(total, device=self._world.device)).item()
        lr = self.peak_lr * schedule_factor(self._settings, step, self._steps)
        with self._together(step), enough_memory(f"taking the optimizer's step {step + 1}", self._settings):
            norm = self._stepper.take(lr) if math.isfinite(total) else self._stepper.drop()
        if not (math.isfinite(total) and math.isfinite(norm)):
            raise TrainingError(
                f"step {step + 1}: loss {total} with gradient norm {norm} is not finite; the weights were not touched. "
                "Lower optim.lr, or look at the step's rollouts for logprobs of -inf"
            )
        return StepStats(total, norm, lr)

    def state_dict(self) -> dict[str, Any]:
        return self._stepper.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """That of whole parameters, also into those that lie in parts."""
        self._stepper.load_state_dict(state)

    def _together(self, step: int) -> AbstractContextManager[None]:
        return self._world.together(f"the update of step {step + 1}") if self._stepper.is_in_step else nullcontext()

    def _in_step(self, losses: Iterable[Callable[[], Tensor]]) -> list[Callable[[], Tensor]]:
        """The losses; where processes meet in every backward pass, as many as the rank with the most has."""
        own = list(losses)
        if not self._stepper.is_in_step:
            return own
        return own + [self._policy.idle] * (self._world.most(len(own)) - len(own))


def _stepper(policy: Policy, settings: OptimConfig, lr: float, world: World, parallel: Parallel | None) -> Stepper:
    if parallel is None or parallel.way is not Way.DEEPSPEED or world.size == 1:
        return TorchStepper(policy, settings, lr, world)
    from rlvr.trainers.model.zero import ZeroStepper

    return ZeroStepper(policy, settings, lr, world, parallel)
