"""Keys and values of the rows that are being decoded: dense slots, no concatenation."""

from __future__ import annotations

import torch
from torch import Tensor

_LENGTH_BLOCK = 16  # positions
_LITTLE_BYTES = 2**28


class SlotCache:
    """Per layer, keys and values [rows, kv_heads, capacity, head_dim]; slots 0..n-1 belong to the n active rows.

    `mask` [rows, kv_heads, 1, capacity] is added to attention scores: 0 on a row's own positions, -inf elsewhere.
    Tensors grow in blocks; what lies beyond a row's length is stale and masked.
    """

    def __init__(self, *, layers: int, kv_heads: int, head_dim: int, dtype: torch.dtype, device: torch.device) -> None:
        self._layers, self._kv_heads, self._head_dim = layers, kv_heads, head_dim
        self._dtype, self._device = dtype, device
        self._past: tuple[int, int, list[tuple[Tensor, Tensor]]] | None = None
        self.clear()

    def clear(self) -> None:
        """Forget all rows and give the memory back."""
        self.rows, self.capacity = 0, 0
        self._final = 0  # positions that the longest row may come to
        self.lengths = torch.zeros(0, dtype=torch.long, device=self._device)
        self._both = self._empty(0, 0)
        self.mask = torch.zeros(0, self._kv_heads, 1, 0, dtype=self._dtype, device=self._device)
        self._slice_layers()

    def nbytes(self) -> int:
        return self._both.nbytes

    def reserve(self, rows: int, length: int, final: int) -> bool:
        """Make room for `rows` rows of `length` positions, keeping what is there; at once for `final` where that is little.

        Returns whether the tensors are new ones.
        """
        self._final = max(self._final, final)
        if rows <= self.rows and length <= self.capacity:
            return False
        old_rows, old_capacity = self.rows, self.capacity
        if rows > self.rows:
            self.rows = max(rows, min(2 * self.rows, rows + 64))
        if length > self.capacity:
            element = self._dtype.itemsize
            whole = 2 * self._layers * self.rows * self._kv_heads * self._final * self._head_dim * element
            is_little = whole <= (_LITTLE_BYTES if self._device.type == "cpu" else _free_bytes(self._device) // 2)
            wanted = max(length, self._final if is_little else min(self.capacity * 3 // 2, self._final))
            self.capacity = -(-wanted // _LENGTH_BLOCK) * _LENGTH_BLOCK
        both = self._empty(self.rows, self.capacity)
        both[:, :, :old_rows, :, :old_capacity] = self._both
        mask = torch.full((self.rows, self._kv_heads, 1, self.capacity), -torch.inf, dtype=self._dtype, device=self._device)
        mask[:old_rows, ..., :old_capacity] = self.mask
        lengths = torch.zeros(self.rows, dtype=torch.long, device=self._device)
        lengths[:old_rows] = self.lengths
        self._both, self.mask, self.lengths = both, mask, lengths
        self._slice_layers()
        return True

    def start(self, first: int, lengths: Tensor) -> None:
        """Slots from `first` on begin with prompts of `lengths` [n] positions (to be filled by `fill`)."""
        last = first + lengths.shape[0]
        self.lengths[first:last] = lengths
        is_own = torch.arange(self.capacity, device=self._device) < lengths[:, None, None, None]
        self.mask[first:last] = torch.where(is_own, 0.0, -torch.inf).to(self._dtype)

    def fill(self, layer: int, slots: Tensor, keys: Tensor, values: Tensor) -> None:
        """Write prompt keys and values [n, kv_heads, T, head_dim] into `slots` [n], from position 0."""
        length = keys.shape[2]
        self.keys[layer][slots, :, :length] = keys
        self.values[layer][slots, :, :length] = values

    def advance(self, active: int, rows: int) -> tuple[Tensor, Tensor]:
        """Open the next position of the `active` first rows, and position 0 of the idle slots up to `rows`.

        Returns those positions [rows], and where `append` writes [rows, 2 * kv_heads].
        """
        if active < rows:
            self.lengths[active:rows] = 0
        positions = self.lengths[:rows].clone()
        self.mask[:rows].scatter_(3, positions[:, None, None, None].expand(rows, self._kv_heads, 1, 1), 0.0)
        self.lengths[:rows] += 1
        return positions, self._starts[:rows] + positions[:, None]

    def append(self, layer: int, places: Tensor, both: Tensor) -> None:
        """Write one position of each row, its keys and then its values [rows, 2 * kv_heads, head_dim], where `advance` said."""
        self._flat[layer].index_put_((places,), both)

    def past(self, rows: int, length: int) -> list[tuple[Tensor, Tensor]]:
        """Each layer's keys [rows * kv_heads, head_dim, length] and values [rows * kv_heads, length, head_dim]: views of what is
        here, until `reserve` or `clear`."""
        if self._past is None or self._past[:2] != (rows, length):
            views = [layer[:, :rows, :, :length].flatten(1, 2).unbind() for layer in self._both]
            self._past = rows, length, [(keys.transpose(1, 2), values) for keys, values in views]
        return self._past[2]

    def move(self, sources: Tensor, targets: Tensor, length: int) -> None:
        """Copy the rows `sources` [n] over the rows `targets` [n]; no row is longer than `length`."""
        self._both[:, :, targets, :, :length] = self._both[:, :, sources, :, :length]
        self.mask[targets] = self.mask[sources]
        self.lengths[targets] = self.lengths[sources]

    def _empty(self, rows: int, capacity: int) -> Tensor:
        # Zeros, not garbage: a masked weight of 0 times a stale NaN would still be NaN.
        shape = (self._layers, 2, rows, self._kv_heads, capacity, self._head_dim)
        return torch.zeros(shape, dtype=self._dtype, device=self._device)

    def _slice_layers(self) -> None:
        self.keys, self.values = [layer[0] for layer in self._both], [layer[1] for layer in self._both]
        self._flat = [layer.view(-1, self._head_dim) for layer in self._both]
        # Where each row's keys and values begin, of each head.
        starts = torch.arange(2 * self.rows * self._kv_heads, device=self._device) * self.capacity
        self._starts = starts.view(2, self.rows, self._kv_heads).transpose(0, 1).reshape(self.rows, 2 * self._kv_heads)
        self._past = None


def _free_bytes(device: torch.device) -> int:
    """Of a GPU's memory, what nobody holds, and what torch holds and does not use."""
    free, _ = torch.cuda.mem_get_info(device)
    return int(free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device))
