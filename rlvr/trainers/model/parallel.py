"""Ways in which several processes share a model: `[load.parallel]` of a recipe."""

from __future__ import annotations

import difflib
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Any

from pydantic import TypeAdapter, ValidationError

from rlvr.config import ParallelConfig
from rlvr.errors import ConfigError


class Way(StrEnum):
    DDP = "ddp"  # every process has the whole model, and gradients are added up
    FSDP = "fsdp"  # every process has a part of weights, gradients and moments; layers are gathered as they are needed


@dataclass(frozen=True, slots=True)
class Parallel:
    """How this run's processes share the model, and how long they wait for each other."""

    way: Way = Way.DDP
    offload: bool = False  # fsdp: the parts lie in the machine's memory, not the GPU's
    timeout_s: float = 7200.0  # a rank waits no longer for the others, whatever they are doing
    join_s: float = 60.0  # within which all processes have to come


_ONLY = {"offload": (Way.FSDP,)}
_ELSEWHERE = {
    "deepspeed": "; 'fsdp' shares what ZeRO stage 3 shares, and with offload = true what ZeRO-Offload keeps beside the GPU"
}


def parallel_of(config: ParallelConfig) -> Parallel:
    """
    Raises:
        ConfigError: no such way, or an argument that it does not take.
    """
    if config.name not in list(Way):
        raise ConfigError(f"load.parallel = {config.name!r}, but the ways are: {', '.join(Way)}{_ELSEWHERE.get(config.name, '')}")
    way = Way(config.name)
    known = [field.name for field in fields(Parallel) if field.name != "way" and way in _ONLY.get(field.name, (way,))]
    for name in config.arguments:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"it has {', '.join(known)}"
            raise ConfigError(f"load.parallel.{name}: {way} has no such argument; {hint}")
    return Parallel(way, **{name: _checked(name, value) for name, value in config.arguments.items()})


def _checked(name: str, value: Any) -> Any:
    kind = {"offload": bool}.get(name, float)
    try:
        found: Any = TypeAdapter(kind).validate_python(value, strict=kind is not float)
    except ValidationError:
        raise ConfigError(f"load.parallel.{name} = {value!r}, but it should be a {kind.__name__}") from None
    if kind is float and found <= 0:
        raise ConfigError(f"load.parallel.{name} = {value!r}, but it should be more than 0 seconds")
    return found
