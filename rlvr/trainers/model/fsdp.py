"""FSDP2: every process keeps a part of the weights, their gradients and their moments, and gathers a layer as it is needed.

Source: PyTorch FSDP, arXiv:2304.11277; ZeRO stage 3, arXiv:1910.02054.
"""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Any, Literal, TypeVar

import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import (
    CPUOffloadPolicy,
    FSDPModule,
    MixedPrecisionPolicy,
    OffloadPolicy,
    fully_shard,
    register_fsdp_forward_method,
)

from rlvr.errors import TrainingError, boundary
from rlvr.trainers.model.distributed import World
from rlvr.trainers.model.parallel import Parallel
from rlvr.trainers.model.policy import INSIDE, Policy, unwrap

T = TypeVar("T")


def shard(policy: Policy, parallel: Parallel, precision: Literal["fp32", "bf16"], world: World) -> None:
    """Share the policy's model out over all processes, in place; what it was asked about its layout was asked before.

    The parts are float32, whatever the model computes in, and so are the sums of gradients. With `offload` they lie in the
    machine's memory, and AdamW runs there.

    Raises:
        TrainingError: a model that cannot be shared out.
    """
    device = world.device or torch.device("cpu")
    causal_lm = unwrap(policy.model)
    settings: dict[str, Any] = {
        "mesh": init_device_mesh(device.type, (world.size,)),
        # The root, too: weights that stay whole after a pass would be taken for the master weights.
        "reshard_after_forward": True,
        "mp_policy": MixedPrecisionPolicy(
            param_dtype=torch.bfloat16 if precision == "bf16" else None, reduce_dtype=torch.float32
        ),
        "offload_policy": CPUOffloadPolicy(pin_memory=device.type == "cuda") if parallel.offload else OffloadPolicy(),
    }
    with boundary(TrainingError, f"{type(causal_lm).__name__} cannot be shared out (load.parallel = fsdp)"):
        for layer in _layers(causal_lm):
            fully_shard(layer, **settings)
        fully_shard(causal_lm, **settings)
        for module in causal_lm.modules():
            if isinstance(module, FSDPModule):
                # Weights of the loss are normalised over the whole step: gradients are summed, not averaged.
                module.set_gradient_divide_factor(1.0)
                module.set_force_sum_reduction_for_comms(True)
        setattr(causal_lm, INSIDE, types.MethodType(_call, causal_lm))
        register_fsdp_forward_method(causal_lm, INSIDE)


def _call(_: nn.Module, compute: Callable[[], T]) -> T:
    return compute()


def _layers(causal_lm: nn.Module) -> list[nn.Module]:
    """The decoder layers, each of which is gathered by itself."""
    kinds = getattr(causal_lm, "_no_split_modules", None) or ()
    found = [module for module in causal_lm.modules() if type(module).__name__ in kinds]
    if found:
        return found
    lists = [module for module in causal_lm.modules() if isinstance(module, nn.ModuleList) and len(module)]
    return list(max(lists, key=lambda one: sum(parameter.numel() for parameter in one.parameters()), default=[]))
