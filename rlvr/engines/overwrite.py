"""The trainer's weights over those of a copy of its model in another process."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from rlvr.errors import EngineError


@torch.no_grad()
def overwrite(model: Any, tensors: Mapping[str, torch.Tensor]) -> None:
    """Copy `tensors` (one of each group that is tied) over the model's own.

    Raises:
        EngineError: they are of another model: some are unknown, or some of the model's are not among them.
    """
    own = model.state_dict()
    if unknown := sorted(tensors.keys() - own.keys()):
        raise EngineError(f"the policy's weights have {len(unknown)} tensors that the model lacks, e.g. {unknown[0]}")
    written = set()
    for name, tensor in tensors.items():
        own[name].copy_(tensor)
        written.add(own[name].data_ptr())
    missing = sorted(name for name, tensor in own.items() if tensor.numel() and tensor.data_ptr() not in written)
    if missing:
        raise EngineError(f"the policy's weights lack {len(missing)} tensors of the model, e.g. {missing[0]}")
