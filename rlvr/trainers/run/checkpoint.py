"""Checkpoints: Hugging Face folders with the trainer's state inside, written whole or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from rlvr.errors import CheckpointError, boundary

STATE = "trainer.pt"
BEST = "best"  # beside the checkpoints, without the state
_NEARLY_NOTHING = 1 << 20  # bytes of free disk


def save_checkpoint(folder: Path, step: int, model: Any, tokenizer: Any, state: Mapping[str, Any], *, keep: int) -> Path:
    """Write `folder/step-NNNNNN`, which `AutoModelForCausalLM.from_pretrained` loads; older ones beyond `keep` go.

    Raises:
        CheckpointError: it could not be written (a full disk, most often); earlier checkpoints are untouched.
    """
    target = checkpoint_at(folder, step)
    if not is_whole(target):  # runs are deterministic: it would hold the same
        tidy(folder, keep=keep)
        with drafted(target) as draft:
            write_model(draft, model, tokenizer, state)
        tidy(folder, keep=keep)
    return target


def checkpoint_at(folder: Path, step: int) -> Path:
    return folder / f"step-{step:06d}"


def is_whole(checkpoint: Path) -> bool:
    return (checkpoint / STATE).is_file()


def write_model(
    draft: Path, model: Any, tokenizer: Any, state: Mapping[str, Any], tensors: dict[str, torch.Tensor] | None = None
) -> None:
    """A Hugging Face folder and the trainer's state; `tensors` are the model's where it does not have them whole itself."""
    with _no_progress_bar():
        model.save_pretrained(draft, **({} if tensors is None else {"state_dict": tensors}))
    tokenizer.save_pretrained(draft)
    torch.save(dict(state), draft / STATE)


@contextmanager
def drafted(target: Path) -> Iterator[Path]:
    """A folder to write a checkpoint in, which becomes `target` when the block ends well, and else is removed.

    Raises:
        CheckpointError: it could not be written; earlier checkpoints are untouched.
    """
    draft = _draft(target)
    try:
        with boundary(CheckpointError, f"checkpoint {target} could not be written, earlier ones are untouched"):
            draft.mkdir(parents=True, exist_ok=True)
            yield draft
            _sync(draft)
            if target.exists():  # what another hand left of an earlier one
                shutil.rmtree(target)
            draft.replace(target)
            _sync_entry(target.parent)
    except CheckpointError as error:
        # torch.save words a full disk as "unexpected pos"; the unfinished draft still fills it here.
        if "No space left" in str(error) or shutil.disk_usage(draft.parent).free < _NEARLY_NOTHING:
            raise CheckpointError(f"{error}. The disk is full: free some space, then continue with --resume") from error
        raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def tidy(folder: Path, *, keep: int) -> None:
    """Remove all but the newest `keep` checkpoints, and what killed processes left; only one trains in a run folder."""
    for old in checkpoints(folder)[:-keep]:
        # Out of the way first: a crash in the middle must not leave half of a checkpoint under the name of a whole one.
        old.replace(_draft(old))
    for draft in folder.glob(".step-*.tmp"):
        shutil.rmtree(draft, ignore_errors=True)


def _draft(checkpoint: Path) -> Path:
    return checkpoint.with_name(f".{checkpoint.name}.{os.getpid()}.tmp")


def checkpoints(folder: Path) -> list[Path]:
    """Whole checkpoints, oldest first."""
    return sorted(path for path in folder.glob("step-*") if is_whole(path))


def load_state(checkpoint: Path) -> dict[str, Any]:
    """The trainer's state of a checkpoint.

    Raises:
        CheckpointError: it is missing or damaged.
    """
    advice = "delete this folder, and --resume continues from the checkpoint before it"
    with boundary(CheckpointError, f"the trainer's state in {checkpoint} cannot be read; {advice}"):
        state: dict[str, Any] = torch.load(checkpoint / STATE, map_location="cpu", weights_only=True)
        return state


def check_space(folder: Path, model: Any, keep: int, *, keeps_best: bool = False) -> None:
    """Refuse to start or continue a run in `folder` whose checkpoints will not fit.

    A checkpoint holds the weights (of an adapter alone, where there is one) and two moments of AdamW in fp32; one more than
    `keep` exists while saving. With `keeps_best` the best weights lie beside them, twice while they are replaced. What the
    run has written already needs no further space.

    Raises:
        CheckpointError: too little free disk.
    """
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    is_adapter = hasattr(model, "peft_config")
    saved = trained if is_adapter else sum(parameter.numel() for parameter in model.parameters())
    need = (keep + 1) * 4 * (saved + 2 * trained) + (2 * 4 * saved if keeps_best else 0)
    written = [path for name in ("checkpoints", BEST) for path in (folder / name).rglob("*") if path.is_file()]
    need -= sum(path.stat().st_size for path in written)
    existing = next(parent for parent in [folder, *folder.parents] if parent.exists())
    free = shutil.disk_usage(existing).free
    if need > free:
        what = f"checkpoints in {folder}" + (" and the best weights" if keeps_best else "")
        raise CheckpointError(
            f"{what} need about {need / 1e9:.3g} GB, but {free / 1e9:.3g} GB are free; "
            "free some space, choose another out=, or lower checkpoint.keep"
        )


@contextmanager
def _no_progress_bar() -> Iterator[None]:
    """transformers draws a bar for every file that it saves, through the middle of ours."""
    from transformers.utils import logging

    was_on = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if was_on:
            logging.enable_progress_bar()


def _sync(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
    _sync_entry(folder)


def _sync_entry(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
