"""Out of memory: what was being done, and which settings make it smaller."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from rlvr.errors import RlvrError

_ON_THE_CPU = ("can't allocate memory", "not enough memory")


@contextmanager
def within_memory(kind: type[RlvrError], doing: str, advice: str) -> Iterator[None]:
    """Around what may need more memory than there is, on the GPU or beside it; other errors pass.

    Raises:
        kind: memory ran out; says while `doing` what, how much was asked for, and the `advice`.
    """
    try:
        yield
    except RuntimeError as error:
        is_full = isinstance(error, torch.OutOfMemoryError) or any(text in str(error) for text in _ON_THE_CPU)
        if not is_full:
            raise
        first_line = str(error).partition("\n")[0]
        raise kind(f"out of memory while {doing}; {advice}. It said: {first_line}") from error
