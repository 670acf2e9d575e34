"""Models and tokenizers from a folder or from the Hugging Face hub, checked before any long work starts."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging as transformers_logging

from rlvr.config import ModelConfig
from rlvr.engines.memory import within_memory
from rlvr.errors import CheckpointError, ConfigError, boundary

_WEIGHTS = ("*.safetensors", "pytorch_model*.bin")
_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "vocab.json", "vocab.txt", "spiece.model")


if not torch.accelerator.is_available():
    # Where DeepSpeed is installed, accelerate imports it, and it would warn at every start that it found no GPU.
    os.environ.setdefault("DS_ACCELERATOR", "cpu")


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A causal LM with float32 weights on its device, and its tokenizer. With precision bf16, compute runs in bf16."""

    model: Any
    tokenizer: Any
    path: str
    device: torch.device
    precision: Literal["fp32", "bf16"]

    @property
    def end_ids(self) -> frozenset[int]:
        """Every token that ends the model's turn."""
        return end_ids(self.model, self.tokenizer)


def end_ids(model: Any, tokenizer: Any) -> frozenset[int]:
    """Every token that ends a sequence, according to the generation config, the config and the tokenizer."""
    found: set[int] = set()
    for owner in (getattr(model, "generation_config", None), model.config, tokenizer):
        value = getattr(owner, "eos_token_id", None)
        found.update(value if isinstance(value, (list, tuple)) else [] if value is None else [value])
    return frozenset(found)


def load_model(path: str | Path, settings: ModelConfig) -> LoadedModel:
    """Read a checkpoint in Hugging Face format: a folder, the name of a hub repository, or a run folder (its newest checkpoint).

    Dropout is off: it would make old and new logprobs of the same weights differ.

    Raises:
        ConfigError: no model at `path`, or a device or precision that this machine does not have.
        CheckpointError: an incomplete folder, or weights that do not fit the model.
    """
    device = _device(settings.device)
    precision = precision_on(device, settings.precision)
    source = model_source(path)
    with _quiet_transformers(), boundary(CheckpointError, f"loading {source!r}"):
        tokenizer = AutoTokenizer.from_pretrained(source)
        model, report = AutoModelForCausalLM.from_pretrained(
            source,
            dtype=torch.float32,
            attn_implementation=None if settings.attention == "auto" else settings.attention,
            output_loading_info=True,
        )
    _check_weights(source, model, tokenizer, report)
    smaller = "free the device, use a larger one, or share the model over several processes (load.parallel = fsdp)"
    doing = f"moving {source!r} to {device}"
    with boundary(CheckpointError, doing), within_memory(CheckpointError, doing, smaller):
        model.to(device)
    _switch_dropout_off(model)
    return LoadedModel(model.eval(), tokenizer, source, device, precision)


def newest_checkpoint(path: str) -> str:
    """The newest checkpoint inside a run folder; any other path or name is returned as it is."""
    return str(max(Path(path).glob("checkpoints/step-*"), default=path))


def model_source(path: str | Path) -> str:
    """The folder or hub name that transformers reads for `path`; of a run folder, its newest checkpoint.

    Says what is missing before transformers does, which reports a wrong folder as a wrong hub name.

    Raises:
        ConfigError: there is no model.
        CheckpointError: it is incomplete.
    """
    source = newest_checkpoint(str(Path(path).expanduser()) if str(path).startswith("~") else str(path))
    folder = Path(source)
    if folder.is_dir():
        _check_folder(folder)
    elif folder.exists():
        raise ConfigError(f"{source!r} is a file; give the folder that holds config.json, the weights and the tokenizer")
    elif source.startswith(("/", ".")) or source.count("/") > 1:
        raise ConfigError(
            f"no model at {source!r}: there is no such folder, and it cannot be a name on the Hugging Face hub; "
            "give a folder with config.json, or a hub name such as Qwen/Qwen3-0.6B"
        )
    else:
        _check_hub(source)
    return source


def _check_hub(source: str) -> None:
    from huggingface_hub import get_hf_file_metadata, hf_hub_url, try_to_load_from_cache

    advice = "check the name, the network, HF_TOKEN for gated models, or give a folder"
    doing = (
        f"no model at {source!r}: there is no such folder here, and the Hugging Face hub did not give its config.json; {advice}"
    )
    with boundary(ConfigError, doing):
        # One question without retries: a mistyped folder is reported at once on a machine without network.
        if not isinstance(try_to_load_from_cache(source, "config.json"), str):
            get_hf_file_metadata(hf_hub_url(source, "config.json"))


def _check_folder(folder: Path) -> None:
    if not (folder / "config.json").is_file():
        if (folder / "adapter_config.json").is_file():
            raise ConfigError(f"{folder} holds a LoRA adapter, not a model; merge it into its base model first")
        raise ConfigError(f"{folder} has no config.json; it is not a model in Hugging Face format: give the folder of one")
    if not any(True for pattern in _WEIGHTS for _ in folder.glob(pattern)):
        raise CheckpointError(f"{folder} has no weights ({' or '.join(_WEIGHTS)}); copy them beside config.json")
    if not any((folder / name).is_file() for name in _TOKENIZERS):
        raise CheckpointError(
            f"{folder} has no tokenizer (looked for {', '.join(_TOKENIZERS)}); save the model's tokenizer beside it"
        )


def _check_weights(source: str, model: Any, tokenizer: Any, report: dict[str, Any]) -> None:
    missing = sorted(map(str, report.get("missing_keys", ())))
    if missing:
        raise CheckpointError(
            f"the weights of {source!r} lack {len(missing)} tensors, e.g. {missing[0]}; they would be random. "
            "The checkpoint is incomplete or belongs to another architecture"
        )
    rows = model.get_input_embeddings().weight.shape[0]
    if len(tokenizer) > rows:
        raise CheckpointError(
            f"the tokenizer of {source!r} has {len(tokenizer)} tokens, but the model embeds {rows}; "
            "it is another model's tokenizer, or the embeddings were not resized"
        )


def _device(wanted: str) -> torch.device:
    if wanted == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with boundary(ConfigError, f"load.device = {wanted!r} (allowed: auto, cpu, cuda, cuda:0, ...)"):
        device = torch.device(wanted)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"load.device = {wanted!r}, but torch sees no CUDA device; set load.device=cpu or auto")
    return device


def precision_on(device: torch.device, wanted: str) -> Literal["fp32", "bf16"]:
    """What a recipe's `load.precision` means on a device."""
    if wanted == "bf16":
        return "bf16"
    has_bf16 = device.type == "cuda" and torch.cuda.is_bf16_supported()
    return "bf16" if wanted == "auto" and has_bf16 else "fp32"


def _switch_dropout_off(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        for name, value in vars(module).items():
            if "dropout" in name and isinstance(value, float):
                setattr(module, name, 0.0)


@contextmanager
def _quiet_transformers() -> Iterator[None]:
    """No progress bars and no advice from transformers: what matters here is raised."""
    verbosity, has_bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if has_bars:
            transformers_logging.enable_progress_bar()
