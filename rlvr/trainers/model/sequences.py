"""Token sequences as padded tensors."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def pad(rows: Sequence[Sequence[float]] | Sequence[Sequence[int]], dtype: torch.dtype, width: int | None = None) -> Tensor:
    """[B, T] with zeros on the right; T is `width` or the longest row."""
    width = max(map(len, rows)) if width is None else width
    return torch.tensor([[*row, *(0,) * (width - len(row))] for row in rows], dtype=dtype)
