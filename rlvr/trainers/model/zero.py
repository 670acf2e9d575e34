"""DeepSpeed's ZeRO: the optimizer's state in parts (stage 1), gradients, too (2), and weights, too (3).

DeepSpeed gets float32 weights, our losses and torch's AdamW. What it averages over the processes is multiplied by their number
beforehand, because weights of the loss are normalised over the whole step; autocast and checkpoints are ours. Nothing of it is
compiled: its own CPU optimizer and its shared-memory collectives would be, on the first run on every machine.

Source: ZeRO, arXiv:1910.02054; ZeRO-Offload, arXiv:2101.06840.
"""

from __future__ import annotations

import importlib
import importlib.util
import math
import os
import types
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from rlvr.config import OptimConfig
from rlvr.errors import CheckpointError, ConfigError, TrainingError, boundary
from rlvr.trainers.model.distributed import World
from rlvr.trainers.model.moments import KINDS, MomentsInParts, read, write
from rlvr.trainers.model.optimizer import adamw
from rlvr.trainers.model.parallel import BUCKET, LIVE, Parallel
from rlvr.trainers.model.policy import INSIDE, Policy, unwrap

T = TypeVar("T")


class ZeroStepper:
    """Shares out the policy's model and torch's AdamW with DeepSpeed, and steps with it."""

    is_in_parts = True
    is_in_step = True

    def __init__(self, policy: Policy, settings: OptimConfig, lr: float, world: World, parallel: Parallel) -> None:
        """
        Raises:
            ConfigError: DeepSpeed cannot be imported, or runs on another device.
            TrainingError: a model that it cannot share out.
        """
        self._world = world
        trained = [(name, parameter) for name, parameter in policy.model.named_parameters() if parameter.requires_grad]
        self._optimizer = adamw(policy.parameters(), settings, lr)
        self._engine = _initialized(policy, self._optimizer, world, parallel, clip=settings.grad_clip)
        self.moments: MomentsInParts = ZeroMoments(self._engine, self._optimizer, trained, world, parallel.stage)

    def backward(self, loss: Tensor, *, is_last: bool) -> None:
        self._engine.set_gradient_accumulation_boundary(is_last)
        self._engine.backward(loss * self._world.size)

    def take(self, lr: float) -> float:
        for group in self._optimizer.param_groups:
            group["lr"] = lr
        self._engine.step()  # skipped where the norm is not finite, which is infinite then
        return float(self._engine.get_global_grad_norm())

    def drop(self) -> float:
        self._engine.optimizer.zero_grad()
        return math.nan

    def state_dict(self) -> dict[str, Any]:
        raise TrainingError("DeepSpeed's optimizer has no state of whole parameters; its moments are saved in parts")

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.moments.spread(state)


def share_out(policy: Policy, world: World, parallel: Parallel) -> None:
    """Leave a part of the weights of a policy that is only scored with on each process (stage 3)."""
    _initialized(policy, None, world, parallel, clip=0.0)


class ZeroMoments:
    """AdamW's moments, which DeepSpeed keeps in flat tensors of its own, by the names of the parameters."""

    def __init__(
        self,
        engine: Any,
        optimizer: torch.optim.Optimizer,
        trained: Sequence[tuple[str, nn.Parameter]],
        world: World,
        stage: int,
    ) -> None:
        self._api = importlib.import_module("deepspeed.utils")
        self._optimizer, self._trained, self._world = optimizer, trained, world
        zero = engine.optimizer
        self._flat: list[Tensor] = zero.fp32_partitioned_groups_flat if stage == 3 else zero.single_partition_of_fp32_groups
        for flat in self._flat:  # as AdamW makes it in its first step; DeepSpeed finds it by parameter only where it is there
            zeros = {kind: torch.zeros_like(flat) for kind in KINDS}
            optimizer.state[flat] = {"step": torch.tensor(0.0, device=flat.device), **zeros}
        if stage < 3:
            for parameters, flat in zip(zero.bit16_groups, self._flat, strict=True):
                self._api.lazy_init_hp_params_optimizer_state(parameters, flat, optimizer.state)
        self._put = self._put_part if stage == 3 else self._put_whole

    def steps(self) -> dict[str, float]:
        count = float(self._optimizer.state[self._flat[0]]["step"])
        return {name: count for name, _ in self._trained} if count else {}

    def save(self, folder: Path) -> None:
        """A whole tensor at a time, each kept and written by one of the processes in turn."""
        own: dict[str, Tensor] = {}
        with boundary(CheckpointError, f"the moments for {folder} could not be gathered"):
            for index, (name, parameter) in enumerate(self._trained if self.steps() else ()):
                for kind in KINDS:
                    value = self._api.safe_get_full_optimizer_state(parameter, kind)
                    if index % self._world.size == self._world.rank:
                        own[f"{name}.{kind}"] = value.detach().cpu()
        write(own, folder)

    def load(self, folder: Path, steps: dict[str, float]) -> None:
        for name, parameter in self._trained:
            if name in steps:
                found = {f"{name}.{kind}": torch.zeros(_shape(parameter)) for kind in KINDS}
                read(found, folder, is_alone=True)  # each process for itself: its parts are none that others know of
                self._fill(parameter, {kind: found[f"{name}.{kind}"] for kind in KINDS})
        self._count(max(steps.values(), default=0.0))

    def spread(self, state: dict[str, Any]) -> None:
        parameters = [parameter for group in state["param_groups"] for parameter in group["params"]]
        ordered = sorted(self._trained, key=lambda named: len(_shape(named[1])) < 2)  # as AdamW has them: matrices first
        counts = [0.0]
        for index, (_, parameter) in zip(parameters, ordered, strict=True):
            if (found := state["state"].get(index)) is not None:
                self._fill(parameter, {kind: found[kind] for kind in KINDS})
                counts.append(float(found["step"]))
        self._count(max(counts))

    def _fill(self, parameter: nn.Parameter, values: dict[str, Tensor]) -> None:
        for kind, value in values.items():
            self._put(parameter, value, kind)

    def _put_whole(self, parameter: nn.Parameter, value: Tensor, kind: str) -> None:
        self._api.safe_set_full_optimizer_state(parameter, value, kind)

    def _put_part(self, parameter: nn.Parameter, value: Tensor, kind: str) -> None:
        # Its function for whole tensors takes only those that can be divided by the number of processes.
        part = torch.zeros_like(self._api.safe_get_local_optimizer_state(parameter, kind))
        begin = self._world.rank * part.numel()
        own = value.flatten()[begin : begin + part.numel()]
        part[: own.numel()] = own
        self._api.safe_set_local_optimizer_state(parameter, part, kind)

    def _count(self, updates: float) -> None:
        """One for a flat tensor, whatever is in it."""
        for flat in self._flat:
            self._optimizer.state[flat]["step"].fill_(updates)


class _Root(nn.Module):
    """What DeepSpeed takes for the model: whatever is computed with the policy's goes through its forward pass."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, compute: Callable[[], T]) -> T:
        return compute()


def _initialized(
    policy: Policy, optimizer: torch.optim.Optimizer | None, world: World, parallel: Parallel, *, clip: float
) -> Any:
    device = world.device or torch.device("cpu")
    deepspeed = _imported(device)
    causal_lm = unwrap(policy.model)
    root = _Root(policy.model)
    doing = f"{type(causal_lm).__name__} cannot be shared out (load.parallel = deepspeed, stage {parallel.stage})"
    with boundary(TrainingError, doing):
        backend = "nccl" if device.type == "cuda" else "gloo"
        deepspeed.init_distributed(dist_backend=backend, auto_mpi_discovery=False, verbose=False)
        config = _config(parallel, clip, has_optimizer=optimizer is not None)
        if parallel.stage == 3:  # whole, weights need not fit on the device: each goes there by itself to be taken apart
            deepspeed.zero.Init(module=root, config_dict_or_path=config)
        engine, *_ = deepspeed.initialize(model=root, optimizer=optimizer, config=config)
        for buffer in policy.model.buffers():
            buffer.data = buffer.data.to(device)
        if parallel.stage == 3:
            # The head is multiplied with in chunks, not called.
            for parameter in causal_lm.get_output_embeddings().parameters():
                deepspeed.zero.register_external_parameter(root, parameter)
    inside = types.MethodType(lambda _, compute: engine(compute), causal_lm)
    object.__setattr__(causal_lm, INSIDE, inside)
    return engine


def _config(parallel: Parallel, clip: float, *, has_optimizer: bool) -> dict[str, Any]:
    place = {"device": "cpu", "pin_memory": torch.cuda.is_available()}
    zero: dict[str, Any] = {"stage": parallel.stage, "reduce_bucket_size": BUCKET, "allgather_bucket_size": BUCKET}
    if parallel.offload and has_optimizer:
        zero["offload_optimizer"] = place
    if parallel.stage == 3:
        zero |= {"stage3_max_live_parameters": LIVE, "stage3_max_reuse_distance": LIVE}
        if parallel.offload:
            zero["offload_param"] = place
    return {
        "train_micro_batch_size_per_gpu": 1,  # for its statistics; how many micro-batches there are is said for each update
        "gradient_accumulation_steps": 1,
        "gradient_clipping": clip,
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,  # torch's fused AdamW needs no compiler
    }


def _imported(device: torch.device) -> Any:
    os.environ.setdefault("DS_ACCELERATOR", device.type)
    with boundary(ConfigError, "load.parallel = 'deepspeed', but DeepSpeed cannot be imported: pip install 'rlvr[deepspeed]'"):
        deepspeed = importlib.import_module("deepspeed")
        found = deepspeed.accelerator.get_accelerator().device_name()
    if found != device.type:
        raise ConfigError(f"DeepSpeed runs on {found!r} in this process, but the model on {device.type!r}; unset DS_ACCELERATOR")
    if device.type == "cpu":
        # They wait for each other in a loop that nothing ends when a process is lost, and are compiled on their first use.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.utils.logger.setLevel("ERROR")  # one process speaks, and it is ours that says what matters
    warnings.filterwarnings("ignore", r"`torch\.distributed\.\w+` is deprecated", FutureWarning)  # old names that it calls
    return deepspeed


def _shape(parameter: nn.Parameter) -> torch.Size:
    return getattr(parameter, "ds_shape", parameter.shape)
