"""Low-rank adapters through peft."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from rlvr.config import ModelConfig
from rlvr.errors import CheckpointError, ConfigError, boundary
from rlvr.seeding import seed as derive_seed


def check_adapter(settings: ModelConfig) -> None:
    """
    Raises:
        ConfigError: an adapter was asked for, but peft is not installed.
    """
    if settings.lora_rank and importlib.util.find_spec("peft") is None:
        raise ConfigError(f"load.lora_rank = {settings.lora_rank}, but peft is not installed: pip install 'rlvr[lora]'")


def with_adapter(model: Any, settings: ModelConfig, seed: int, checkpoint: Path | None) -> Any:
    """The model with a trainable LoRA adapter: a fresh one, or that of a checkpoint.

    Source: LoRA, arXiv:2106.09685.

    Raises:
        ConfigError: the target modules do not exist in this model.
        CheckpointError: the checkpoint holds no adapter.
    """
    from peft import LoraConfig, PeftModel, get_peft_model

    if checkpoint is not None:
        with boundary(CheckpointError, f"the adapter in {checkpoint} cannot be loaded"), _quiet_peft():
            return PeftModel.from_pretrained(model, checkpoint, is_trainable=True).float()
    config = LoraConfig(
        r=settings.lora_rank, lora_alpha=settings.lora_alpha, target_modules=settings.lora_targets, task_type="CAUSAL_LM"
    )
    with (
        boundary(ConfigError, f"a LoRA adapter on {settings.lora_targets!r} cannot be made"),
        torch.random.fork_rng(devices=[]),
        _quiet_peft(),
    ):
        torch.manual_seed(derive_seed("lora", seed))
        return get_peft_model(model, config)


@contextmanager
def _quiet_peft() -> Iterator[None]:
    """peft calls a name that transformers is about to drop."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        yield
