"""Out of memory, on the side of the update or of generation, is an error that names the settings to change."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from rlvr.config import OptimConfig
from rlvr.engines.memory import within_memory
from rlvr.engines.native import NativeEngine
from rlvr.envs.tasks import load_task
from rlvr.errors import CheckpointError, EngineError, TrainingError
from rlvr.trainers.model.distributed import World
from rlvr.trainers.model.policy import Policy
from rlvr.trainers.model.tiny import tiny_model
from rlvr.trainers.model.update import Updater
from rlvr.types import Sampling

FULL_GPU = "CUDA out of memory. Tried to allocate 20.00 GiB.\nGPU 0 has a total capacity of 79 GiB"
FULL_CPU = "alloc_cpu.cpp:127: DefaultCPUAllocator: can't allocate memory: you tried to allocate 80 bytes"


def tiny() -> tuple[Any, Any]:
    spec = load_task("chains", {}).tiny
    assert spec is not None
    return tiny_model(spec, 0)


def full(*_: Any, **__: Any) -> Any:
    raise torch.OutOfMemoryError(FULL_GPU)


def test_the_update_names_the_settings_that_make_it_smaller_and_leaves_the_weights_alone() -> None:
    policy = Policy(tiny()[0])
    before = [parameter.detach().clone() for parameter in policy.parameters()]
    updater = Updater(policy, OptimConfig(tokens_per_microbatch=512), 10, World())
    with pytest.raises(TrainingError) as failed:
        updater.step([policy.idle, full], step=6)
    said = str(failed.value)
    assert said.startswith("out of memory while computing the update of step 7; lower optim.tokens_per_microbatch (it is 512)")
    for setting in ("load.gradient_checkpointing = true", "load.precision = bf16", "load.lora_rank", "load.parallel = fsdp"):
        assert setting in said
    assert said.endswith("It said: CUDA out of memory. Tried to allocate 20.00 GiB.")
    assert all(torch.equal(old, new) for old, new in zip(before, policy.parameters(), strict=True))


def test_generation_names_its_own_settings() -> None:
    model = GPT2LMHeadModel(GPT2Config(vocab_size=32, n_positions=64, n_embd=16, n_layer=1, n_head=2, eos_token_id=0))
    engine = NativeEngine(model, None, max_rows=96)
    assert engine.decoder_name == "generic"
    model.register_forward_pre_hook(full)
    with pytest.raises(EngineError) as failed:
        asyncio.run(engine.generate([1, 2, 3], Sampling(max_tokens=4)))
    said = str(failed.value)
    assert said.startswith("out of memory while generating, with ")
    assert "lower engine.max_rows (it is 96)" in said
    assert "rollout.max_tokens" in said
    assert "Tried to allocate 20.00 GiB" in said


@pytest.mark.parametrize("error", [torch.OutOfMemoryError(FULL_GPU), RuntimeError(FULL_CPU)])
def test_memory_runs_out_on_either_side(error: RuntimeError) -> None:
    with (
        pytest.raises(CheckpointError, match=r"out of memory while loading; do less\. It said: ") as failed,
        within_memory(CheckpointError, "loading", "do less"),
    ):
        raise error
    assert failed.value.__cause__ is error


def test_other_errors_pass() -> None:
    failing: Callable[[], Any] = lambda: torch.zeros(2) @ torch.zeros(3)  # noqa: E731
    with pytest.raises(RuntimeError, match="size"), within_memory(CheckpointError, "loading", "do less"):
        failing()
