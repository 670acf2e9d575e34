"""Weight averaging of two models of one architecture: a long-thinking and a short-thinking one, or two specialists.

Source: "model merging", Kimi k1.5, arXiv:2501.12599, section 2.4 (a plain average, without further training).
"""

from __future__ import annotations

import json
import shutil
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rlvr.engines.load import model_source
from rlvr.errors import CheckpointError, ConfigError, boundary

# What may differ between two checkpoints of one architecture: where they came from and which library wrote them.
_INCIDENTAL = ("_name_or_path", "transformers_version", "dtype", "torch_dtype", "use_cache")
_INDEX = "model.safetensors.index.json"
_SINGLE = "model.safetensors"
# Weights, and a trainer's state that belongs to one parent alone.
_LEFT_BEHIND = ("*.safetensors", "*.bin", "*.pt", "moments", _INDEX)


@dataclass(frozen=True, slots=True)
class Merged:
    """`weight` is the first model's share. `averaged` tensors are floating point; `copied` ones were equal in both."""

    path: Path
    weight: float
    averaged: int
    copied: int
    parameters: int


def merge_models(first: str | Path, second: str | Path, out: str | Path, *, weight: float = 0.5) -> Merged:
    """Write weight * first + (1 - weight) * second to `out`, in files like the first model's, one tensor in memory at a time.

    Sums are taken in a wider dtype, and stored in the first model's. Config, generation config and tokenizer are the first's.

    Raises:
        ConfigError: a weight outside [0, 1], `out` exists, or the models differ in architecture, tensors or vocabulary.
        CheckpointError: a folder is incomplete, or the disk refuses.
    """
    if not 0 <= weight <= 1:
        raise ConfigError(f"--weight {weight:g}, but the first model's share lies between 0 and 1")
    one, other, target = _local(first), _local(second), Path(out)
    if target.exists():
        raise ConfigError(f"{target} exists already; give --out a new folder")
    _check_config(one, other)
    _check_vocabulary(one, other)
    draft = target.with_name(target.name + ".tmp")
    shutil.rmtree(draft, ignore_errors=True)
    try:
        with boundary(CheckpointError, f"the merged model could not be written to {target}"):
            shutil.copytree(one, draft, ignore=shutil.ignore_patterns(*_LEFT_BEHIND))
            averaged, copied, parameters = _write_weights(one, other, draft, weight)
            draft.replace(target)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return Merged(target, weight, averaged, copied, parameters)


def _local(model: str | Path) -> Path:
    source = model_source(model)
    if Path(source).is_dir():
        return Path(source)
    from huggingface_hub import snapshot_download

    with boundary(CheckpointError, f"{source!r} could not be fetched"):
        return Path(snapshot_download(source))


def _check_config(one: Path, other: Path) -> None:
    left, right = (_json(folder / "config.json") for folder in (one, other))
    for key in sorted({*left, *right} - {*_INCIDENTAL}):
        if left.get(key) != right.get(key):
            raise ConfigError(
                f"the models differ in {key}: {left.get(key)!r} ({one}) and {right.get(key)!r} ({other}); only checkpoints of "
                "one architecture can be averaged, and it helps only where both come from one ancestor"
            )


def _check_vocabulary(one: Path, other: Path) -> None:
    from transformers import AutoTokenizer

    with boundary(CheckpointError, f"the tokenizers of {one} and {other} cannot be read"):
        left, right = (AutoTokenizer.from_pretrained(folder).get_vocab() for folder in (one, other))
    differing = sorted(token for token in {*left, *right} if left.get(token) != right.get(token))
    if differing:
        raise ConfigError(
            f"the tokenizers differ in {len(differing)} tokens, e.g. {differing[0]!r}: {left.get(differing[0])} and "
            f"{right.get(differing[0])}; their rows of the embedding mean different things and cannot be averaged"
        )


def _write_weights(one: Path, other: Path, draft: Path, weight: float) -> tuple[int, int, int]:
    """Returns how many tensors were averaged and copied, and how many numbers they hold."""
    from safetensors import safe_open

    files, others = _tensor_files(one), _tensor_files(other)
    if missing := sorted(set(files) ^ set(others)):
        raise ConfigError(f"{len(missing)} tensors are in one of the models only, e.g. {missing[0]!r}; they cannot be averaged")
    averaged = copied = parameters = 0
    with ExitStack() as stack:
        opened = {path: stack.enter_context(safe_open(path, framework="pt")) for path in {*files.values(), *others.values()}}
        for path in dict.fromkeys(files.values()):
            header, names = _header(path)
            with (draft / path.name).open("wb") as file:
                # Shapes, dtypes and places stay what they were, so the header does, too, and only one tensor is held at a time.
                file.write(header)
                for name in names:
                    left, right = opened[path].get_tensor(name), opened[others[name]].get_tensor(name)
                    file.write(_average(name, left, right, weight).contiguous().flatten().view(torch.uint8).numpy().data)
                    is_averaged = left.is_floating_point()
                    averaged, copied = averaged + is_averaged, copied + (not is_averaged)
                    parameters += left.numel()
    if (one / _INDEX).is_file():
        shutil.copy2(one / _INDEX, draft / _INDEX)
    return averaged, copied, parameters


def _header(path: Path) -> tuple[bytes, list[str]]:
    """The first bytes of a safetensors file, up to the first tensor, and the tensors' names in the order of their bytes."""
    with path.open("rb") as file:
        size = file.read(8)
        text = file.read(int.from_bytes(size, "little"))
    places = {name: entry["data_offsets"] for name, entry in json.loads(text).items() if name != "__metadata__"}
    return size + text, sorted(places, key=lambda name: (places[name][0], places[name][1]))


def _average(name: str, left: Tensor, right: Tensor, weight: float) -> Tensor:
    if left.shape != right.shape:
        raise ConfigError(f"tensor {name!r} has shape {list(left.shape)} in one model and {list(right.shape)} in the other")
    if not left.is_floating_point():
        if not torch.equal(left, right):
            raise ConfigError(f"tensor {name!r} holds whole numbers that differ; they cannot be averaged")
        return left
    wide = torch.float64 if left.dtype in (torch.float32, torch.float64) else torch.float32
    mixed = torch.lerp(right.to(wide), left.to(wide), weight)
    if not bool(torch.isfinite(mixed).all()):
        raise ConfigError(
            f"tensor {name!r} is not finite after averaging: one of the models is broken, or {left.dtype} overflows"
        )
    return mixed.to(left.dtype)


def _tensor_files(folder: Path) -> dict[str, Path]:
    """Tensor name -> file, in stored order."""
    from safetensors import safe_open

    if (folder / _INDEX).is_file():
        places: dict[str, Any] = _json(folder / _INDEX)["weight_map"]
        return {name: folder / str(file) for name, file in places.items()}
    if not (folder / _SINGLE).is_file():
        raise ConfigError(f"{folder} has no {_SINGLE} or {_INDEX}; only models stored as safetensors can be merged")
    with boundary(CheckpointError, f"{folder / _SINGLE} cannot be read"), safe_open(folder / _SINGLE, framework="pt") as file:
        return {str(name): folder / _SINGLE for name in file.keys()}  # noqa: SIM118


def _json(path: Path) -> dict[str, Any]:
    with boundary(CheckpointError, f"{path} cannot be read"):
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found
