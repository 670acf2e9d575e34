"""How many threads a small model is decoded with."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from rlvr.engines.shards import device_of, shape_of

# A second thread has to be woken for every product, which takes about 100 microseconds: half of what one thread needs on a few
# dozen rows for a matrix of this many elements. Smaller ones go faster, and at half the CPU time, with one thread.
_ELEMENTS_WORTH_A_THREAD = 1 << 16


def decoding_threads(model: Any) -> int | None:
    """1 where the model's matrices are too small for more; None where torch's own setting is right.

    It depends on the model alone, never on the batch: another number of threads may mean other last bits.
    """
    matrices = [shape.numel() for shape in map(shape_of, model.parameters()) if len(shape) == 2]
    is_small = bool(matrices) and sum(matrices) / len(matrices) <= _ELEMENTS_WORTH_A_THREAD
    return 1 if is_small and device_of(model).type == "cpu" else None


@dataclass(frozen=True, slots=True)
class Shares:
    """CPU threads of two processes that work at the same time."""

    generation: int
    update: int


def shares(total: int) -> Shares:
    """`total` threads shared out between generation and update; each has one, at least."""
    return Shares(max(1, total // 2), max(1, total - total // 2))


@contextmanager
def threads(count: int | None) -> Iterator[None]:
    """Inside, torch uses `count` threads; None changes nothing."""
    before = torch.get_num_threads()
    if count is None or count == before:
        yield
        return
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
