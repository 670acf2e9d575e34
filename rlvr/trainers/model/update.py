"""One optimizer step from micro-batches, on one process or many."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rlvr.config import OptimConfig
from rlvr.engines.memory import within_memory
from rlvr.errors import TrainingError
from rlvr.trainers.model.distributed import World
from rlvr.trainers.model.moments import Moments
from rlvr.trainers.model.optimizer import adamw, clip_gradients, learning_rate, schedule_factor
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


class Updater:
    """Owns the optimizer. The gradient of a step is the sum over its micro-batches and over all ranks."""

    def __init__(self, policy: Policy, settings: OptimConfig, steps: int, world: World) -> None:
        self._policy = policy
        self._parameters = policy.parameters()
        self._settings = settings
        self._steps = steps
        self._world = world
        everything = sum(parameter.numel() for parameter in policy.model.parameters())
        trained = sum(parameter.numel() for parameter in self._parameters)
        self.peak_lr = learning_rate(settings, everything, is_adapter=trained < everything)
        self._optimizer = adamw(self._parameters, settings, self.peak_lr)
        self.moments = Moments.of(self._optimizer, policy.model.named_parameters())

    def step(self, losses: Iterable[Callable[[], Tensor]], step: int) -> StepStats:
        """Accumulate the gradients of `losses` (each computed when it is called) and update the parameters once.

        Raises:
            TrainingError: the loss or the gradient is not finite; the parameters were not touched.
        """
        self._optimizer.zero_grad(set_to_none=True)
        total = 0.0
        together = self._world.together(f"the update of step {step + 1}") if self._policy.is_sharded else nullcontext()
        with together, enough_memory(f"computing the update of step {step + 1}", self._settings):
            for compute in self._in_step(losses):
                loss = compute()
                loss.backward()  # type: ignore[no-untyped-call]
                total += loss.item()
        if not self._policy.is_sharded:  # those of shards are summed layer by layer, as they come
            self._world.sum_gradients(self._parameters)
        total = self._world.sum(torch.tensor(total, device=self._world.device)).item()
        norm = clip_gradients(self._parameters, self._settings.grad_clip).item()
        if not (math.isfinite(total) and math.isfinite(norm)):
            self._optimizer.zero_grad(set_to_none=True)
            raise TrainingError(
                f"step {step + 1}: loss {total} with gradient norm {norm} is not finite; the weights were not touched. "
                "Lower optim.lr, or look at the step's rollouts for logprobs of -inf"
            )
        lr = self.peak_lr * schedule_factor(self._settings, step, self._steps)
        for group in self._optimizer.param_groups:
            group["lr"] = lr
        with enough_memory(f"taking the optimizer's step {step + 1}", self._settings):
            self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)  # 4 bytes a parameter that generation can have
        return StepStats(total, norm, lr)

    def _in_step(self, losses: Iterable[Callable[[], Tensor]]) -> list[Callable[[], Tensor]]:
        """The losses; where weights are in parts, as many as the rank with the most has, because all gather them together."""
        own = list(losses)
        if not self._policy.is_sharded:
            return own
        return own + [self._policy.idle] * (self._world.most(len(own)) - len(own))

    def state_dict(self) -> dict[str, Any]:
        return self._optimizer.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """That of whole parameters, also into those that lie in parts."""
        if self._policy.is_sharded:
            self.moments.spread(state)
        else:
            self._optimizer.load_state_dict(state)
