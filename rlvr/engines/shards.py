"""Weights that lie in parts on several processes (FSDP, ZeRO stage 3), made whole one tensor at a time.

Every function that makes weights whole is called by all of these processes, in the same order.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from rlvr.errors import EngineError, boundary


def is_sharded(model: nn.Module) -> bool:
    return any(map(is_part, model.parameters()))


def is_part(tensor: Tensor) -> bool:
    """Whether it stands for one that lies in parts on several processes."""
    return isinstance(tensor, DTensor) or _is_of_zero(tensor)


def shape_of(parameter: Tensor) -> torch.Size:
    """That of the whole."""
    return parameter.ds_shape if _is_of_zero(parameter) else parameter.shape  # type: ignore[attr-defined]


def whole_delta(module: Any, adapter: str) -> Tensor:
    """What a LoRA adapter adds to the weight of its layer."""
    with _made_whole([*module.lora_A.parameters(), *module.lora_B.parameters()]):
        return whole(module.get_delta_weight(adapter))


@contextmanager
def _made_whole(parameters: Sequence[nn.Parameter]) -> Iterator[None]:
    """Parameters that ZeRO keeps in parts are whole in here; those of FSDP are sharded tensors, which compute as they are."""
    if not any(map(_is_of_zero, parameters)):
        yield
        return
    import deepspeed

    with deepspeed.zero.GatheredParameters(parameters, modifier_rank=None):
        yield


def whole(tensor: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """All of a tensor, in `dtype` where one is given; without a gradient where it was in parts."""
    if _is_of_zero(tensor):
        with _made_whole([tensor]):  # type: ignore[list-item]
            return tensor.detach().to(dtype or tensor.dtype, copy=True)
    if not isinstance(tensor, DTensor):
        return tensor if dtype is None else tensor.to(dtype)
    # Parts that were offloaded lie on the CPU, and are gathered where the processes meet; narrow ones travel faster.
    there: Any = tensor.detach().to(_meeting_place(tensor), dtype or tensor.dtype)
    found: Tensor = there.full_tensor()
    return found


def device_of(model: nn.Module) -> torch.device:
    """Where the model computes, wherever parts of its weights wait."""
    parameter = next(model.parameters())
    return _meeting_place(parameter) if isinstance(parameter, DTensor) else parameter.device


def plain_type(model: Any) -> Any:
    """The model's class as transformers has it: FSDP makes one of its own from it."""
    return next(kind for kind in type(model).__mro__ if not kind.__name__.startswith("FSDP"))


def unsharded(model: Any, dtype: torch.dtype) -> Any:
    """A copy of a sharded model with whole weights of `dtype`, without gradients.

    Raises:
        EngineError: its class cannot be made from its config.
    """
    plain = plain_type(model)
    device = device_of(model)
    with boundary(EngineError, f"{plain.__name__} cannot be copied for generation"), torch.device(device):
        copy = plain(model.config).eval().requires_grad_(False)
    for parameter in copy.parameters():
        parameter.data = parameter.data.to(dtype)  # buffers stay: rotary frequencies lose positions in bf16
    take_over(copy, model)
    for ours, theirs in zip(copy.buffers(), model.buffers(), strict=True):
        ours.copy_(theirs)
    return copy


@torch.no_grad()
def take_over(copy: nn.Module, model: nn.Module) -> None:
    """The sharded model's present weights, into its copy."""
    for ours, theirs in zip(copy.parameters(), model.parameters(), strict=True):
        ours.copy_(whole(theirs, ours.dtype))


def gathered(model: nn.Module, *, is_kept: bool) -> dict[str, Tensor]:
    """The state of a sharded model on the CPU, one tensor at a time on the device; empty where it is not kept (other ranks)."""
    kept: dict[str, Tensor] = {}
    made: dict[int, Tensor] = {}  # tied weights stay one tensor
    with torch.no_grad():
        for name, tensor in model.state_dict(keep_vars=True).items():
            if id(tensor) not in made:
                value = whole(tensor)
                made[id(tensor)] = value.detach().cpu() if is_kept else value.new_empty(0)
            if is_kept:
                kept[name] = made[id(tensor)]
    return kept


def _is_of_zero(tensor: Tensor) -> bool:
    """DeepSpeed leaves an empty tensor where it took a parameter apart, and notes on it what it was."""
    return hasattr(tensor, "ds_shape")


def _meeting_place(tensor: DTensor) -> torch.device:
    kind = tensor.device_mesh.device_type
    return torch.device(kind) if kind == "cpu" else torch.device(kind, torch.cuda.current_device())
