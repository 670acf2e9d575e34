"""The policy's weights on their way to vLLM: in checkpoint format, adapters merged, as a file in memory or in a shared folder."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, Protocol

import torch
from torch import Tensor

from rlvr.engines.ranks import Ranks, said_by
from rlvr.engines.shards import is_part, is_sharded, whole, whole_delta
from rlvr.engines.vllm.request import Weights
from rlvr.errors import ConfigError, EngineError, boundary

_MEMORY = Path("/dev/shm")
_PREFIX, _LOCK = "rlvr-vllm-", "lock"
_ADAPTER = "lora_"  # in the names of an adapter's own tensors
_WRAPPED = ".base_layer."


class ReadTensors(Protocol):
    """One of the two functions that follow."""

    def __call__(self, model: Any, dtype: torch.dtype, *, is_kept: bool = True) -> Mapping[str, Tensor]: ...


def checkpoint_tensors(model: Any, dtype: torch.dtype, *, is_kept: bool = True) -> dict[str, Tensor]:
    """The model's tensors as its checkpoint on disk would have them: one of each tied pair, LoRA adapters merged.

    Raises:
        EngineError: an adapter of a kind that cannot be merged tensor by tensor.
    """
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    merged = merged_tensors(model, dtype, is_kept=is_kept)
    with torch.no_grad(), boundary(EngineError, "reading the policy's weights"):
        return _on_disk(base, merged) if merged else merged


def merged_tensors(model: Any, dtype: torch.dtype, *, is_kept: bool = True) -> dict[str, Tensor]:
    """The same as the model has them in memory, under the names of the model without adapters.

    A model in parts is made whole one tensor at a time, on the CPU, by all its processes together; where it is not kept, nothing
    is left of it.

    Raises:
        EngineError: an adapter of a kind that cannot be merged tensor by tensor.
    """
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    merged: dict[str, Tensor] = {}
    seen: set[Any] = set()
    with torch.no_grad(), boundary(EngineError, "reading the policy's weights"):
        for name, tensor in base.state_dict(keep_vars=True).items():
            is_shared = is_part(tensor)
            key = id(tensor) if is_shared else (tensor.data_ptr(), tensor.shape)
            if _ADAPTER in name or ((is_shared or tensor.numel()) and key in seen):
                continue
            seen.add(key)
            plain = name.replace(_WRAPPED, ".")
            if plain != name and plain.endswith(".weight"):
                tensor = _with_adapters(base.get_submodule(name.partition(_WRAPPED)[0]), whole(tensor))
            tensor = whole(tensor, dtype if tensor.is_floating_point() else None).detach()
            if is_kept:
                merged[plain] = tensor.cpu() if is_shared else tensor
        return merged


def _with_adapters(module: Any, weight: Tensor) -> Tensor:
    if not hasattr(module, "get_delta_weight"):
        raise EngineError(f"{type(module).__name__} cannot be merged into its layer; use LoRA on linear layers")
    for adapter in () if module.disable_adapters else module.active_adapters:
        weight = weight + whole_delta(module, adapter).to(weight.dtype)
    return weight


def _on_disk(base: Any, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Names and layouts of the checkpoint, where transformers keeps others in memory (experts joined into one tensor)."""
    from transformers.core_model_loading import revert_weight_conversion

    found: dict[str, Tensor] = revert_weight_conversion(base, tensors)
    return found


class WeightsFolder:
    """Where the weights lie while vLLM reads them, and, for an instance that has to be started again, until the next ones.

    `folder` must be seen by every instance under the same path; None: this machine's memory, or its disk for temporary files.

    Raises:
        ConfigError: the folder cannot be written to.
    """

    def __init__(self, folder: str | None) -> None:
        parent = Path(folder).expanduser() if folder else _MEMORY if _MEMORY.is_dir() else Path(tempfile.gettempdir())
        with boundary(ConfigError, f"engine.args.folder = {str(parent)!r} cannot be used for weights"):
            _remove_leftovers(parent)
            self.path = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))
            self.path.chmod(0o755)
            self._lock = _lock(self.path / _LOCK)
        self._files: list[Path] = []  # the newest last
        self._written = 0

    def write(self, model: Any, dtype: torch.dtype, read: ReadTensors = checkpoint_tensors) -> Weights:
        """The model's present weights as a file, beside earlier ones; `read` says in which form.

        Raises:
            EngineError: no room, or a model that cannot be written.
        """
        return self._write(read(model, dtype))

    def write_together(
        self, model: Any, dtype: torch.dtype, ranks: Ranks, leader: int, read: ReadTensors = checkpoint_tensors
    ) -> Weights:
        """The same by all ranks together: `leader`, which need not be the same for all, writes for those that name it.

        Raises:
            EngineError: no room, or a model that cannot be written.
        """
        is_writer = ranks.rank == leader
        tensors = read(model, dtype, is_kept=is_writer) if is_writer or is_sharded(model) else {}
        return said_by(ranks, leader, self._write(tensors) if is_writer else None)

    def _write(self, found: Mapping[str, Tensor]) -> Weights:
        from safetensors.torch import save_file

        version = self._next_version()
        path = self.path / f"{version}.safetensors"
        tensors = {name: tensor.cpu().contiguous() for name, tensor in found.items()}
        size = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
        if size > shutil.disk_usage(self.path).free:
            raise EngineError(
                f"the weights take {size / 1e9:.1f} GB, but {self.path.parent} has "
                f"{shutil.disk_usage(self.path).free / 1e9:.1f} GB left; set engine.args.folder to a folder with more room"
            )
        with boundary(EngineError, f"writing the policy's weights to {path}"):
            save_file(tensors, path, metadata={"format": "pt"})
        self._files.append(path)
        return Weights(str(path), version)

    def keep_newest(self) -> None:
        """Remove what no instance reads any more."""
        for path in self._files[:-1]:
            path.unlink(missing_ok=True)
        del self._files[:-1]

    def name_only(self) -> Weights:
        """The name of the next weights, where they go another way."""
        return Weights("", self._next_version())

    def _next_version(self) -> str:
        """No other run has a folder of this name, so that a server that another run uses, too, is found out."""
        self._written += 1
        return f"{self.path.name}-{self._written}"

    def remove(self) -> None:
        """Harmless the second time."""
        shutil.rmtree(self.path, ignore_errors=True)
        if self._lock is not None:
            self._lock.close()


def _lock(path: Path) -> IO[bytes] | None:
    """The file, locked as long as it is open and this process lives; None: another process has it."""
    file = path.open("ab")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        return None
    return file


def _remove_leftovers(parent: Path) -> None:
    """What runs left behind that were killed: in memory it would stay until the machine is started again."""
    for folder in parent.glob(f"{_PREFIX}*"):
        if (folder / _LOCK).is_file() and os.access(folder / _LOCK, os.W_OK) and (lock := _lock(folder / _LOCK)) is not None:
            shutil.rmtree(folder, ignore_errors=True)
            lock.close()
