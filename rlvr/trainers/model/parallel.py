"""Ways in which several processes share a model: `[load.parallel]` of a recipe."""

from __future__ import annotations

import difflib
import os
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Any

from pydantic import TypeAdapter, ValidationError

from rlvr.config import ParallelConfig
from rlvr.errors import ConfigError

# Elements of a bucket and of gathered layers in DeepSpeed. Its own are made for the largest models: 2 GB and 4 GB.
BUCKET = 1 << 26
LIVE = 1 << 27


class Way(StrEnum):
    DDP = "ddp"  # every process has the whole model, and gradients are added up
    FSDP = "fsdp"  # every process has a part of weights, gradients and moments; layers are gathered as they are needed
    DEEPSPEED = "deepspeed"  # ZeRO: of moments (stage 1), gradients (2) and weights (3) every process has a part


@dataclass(frozen=True, slots=True)
class Parallel:
    """How this run's processes share the model, and how long they wait for each other."""

    way: Way = Way.DDP
    stage: int = 2  # deepspeed
    offload: bool = False  # what lies in parts lies in the machine's memory, not the GPU's
    timeout_s: float = 900.0  # so long nothing moves on any rank while one waits for the others: longer than a tool may take
    join_s: float = 60.0  # within which all processes have to come

    @property
    def shares_weights(self) -> bool:
        """Whether a process has a part of the weights alone, where there are several."""
        return self.way is Way.FSDP or (self.way is Way.DEEPSPEED and self.stage == 3)


_ONLY = {"offload": (Way.FSDP, Way.DEEPSPEED), "stage": (Way.DEEPSPEED,)}
_STAGES = (1, 2, 3)


def parallel_of(config: ParallelConfig) -> Parallel:
    """
    Raises:
        ConfigError: no such way, or an argument that it does not take.
    """
    if config.name not in list(Way):
        raise ConfigError(f"load.parallel = {config.name!r}, but the ways are: {', '.join(Way)}")
    way = Way(config.name)
    known = [field.name for field in fields(Parallel) if field.name != "way" and way in _ONLY.get(field.name, (way,))]
    for name in config.arguments:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"it has {', '.join(known)}"
            raise ConfigError(f"load.parallel.{name}: {way} has no such argument; {hint}")
    return Parallel(way, **{name: _checked(name, value) for name, value in config.arguments.items()})


def check_launcher(parallel: Parallel) -> None:
    """accelerate's own settings of DeepSpeed reach those alone that train with accelerate.

    Raises:
        ConfigError: `accelerate launch` was given some that the recipe does not have.
    """
    if os.environ.get("ACCELERATE_USE_DEEPSPEED", "").lower() != "true":
        return
    if file := os.environ.get("ACCELERATE_DEEPSPEED_CONFIG_FILE"):
        raise ConfigError(
            f"accelerate was given deepspeed_config_file = {file}, which rlvr does not read; leave it out, and say in the "
            "recipe's [load.parallel] what is to be shared (name = 'deepspeed', stage, offload)"
        )
    stage = os.environ.get("ACCELERATE_DEEPSPEED_ZERO_STAGE", "2")
    offloads = os.environ.get("ACCELERATE_DEEPSPEED_OFFLOAD_OPTIMIZER_DEVICE", "none") != "none"
    if parallel.way is not Way.DEEPSPEED or str(parallel.stage) != stage or parallel.offload != offloads:
        own = f"{parallel.way}" + (f", stage {parallel.stage}" if parallel.way is Way.DEEPSPEED else "")
        raise ConfigError(
            f"accelerate was told to use DeepSpeed with ZeRO stage {stage}{', offloaded' if offloads else ''}, but the recipe's "
            f"load.parallel is {own}{', offloaded' if parallel.offload else ''}; add load.parallel.name=deepspeed "
            f"load.parallel.stage={stage} load.parallel.offload={str(offloads).lower()}, or set distributed_type to MULTI_GPU"
        )


def _checked(name: str, value: Any) -> Any:
    kind = {"offload": bool, "stage": int}.get(name, float)
    try:
        found: Any = TypeAdapter(kind).validate_python(value, strict=kind is not float)
    except ValidationError:
        raise ConfigError(f"load.parallel.{name} = {value!r}, but it should be a {kind.__name__}") from None
    if name == "stage" and found not in _STAGES:
        raise ConfigError(f"load.parallel.stage = {value!r}, but ZeRO has the stages 1, 2 and 3")
    if kind is float and found <= 0:
        raise ConfigError(f"load.parallel.{name} = {value!r}, but it should be more than 0 seconds")
    return found
