"""One stored line of a file of rollouts, found by its offset. The last few files stay unpacked: people page through them."""

from __future__ import annotations

import gzip
import threading
from collections import OrderedDict
from typing import BinaryIO

from rlvr.errors import EvaluationError, boundary
from rlvr.evaluation.view.files import RolloutFile

_KEPT_BYTES = 192 * 2**20
_LARGEST_KEPT = 96 * 2**20  # a larger file is read up to the line each time


class LineReader:
    """Reads lines of rollout files; may be used from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards `_kept`
        self._kept: OrderedDict[RolloutFile, bytes] = OrderedDict()

    def read(self, file: RolloutFile, offset: int, length: int) -> bytes:
        """
        Raises:
            EvaluationError: the file is gone or damaged.
        """
        with self._lock:
            content = self._kept.get(file)
            if content is not None:
                self._kept.move_to_end(file)
        if content is None:
            with boundary(EvaluationError, f"{file.path} cannot be read"), _open(file) as source:
                content = _upto(source, _LARGEST_KEPT)
                if len(content) > _LARGEST_KEPT:
                    source.seek(offset)
                    return source.read(length)
            self._keep(file, content)
        if len(content) < offset + length:
            raise EvaluationError(f"{file.path} is damaged: it ends before line offset {offset}")
        return content[offset : offset + length]

    def _keep(self, file: RolloutFile, content: bytes) -> None:
        with self._lock:
            self._kept[file] = content
            while sum(map(len, self._kept.values())) > _KEPT_BYTES:
                self._kept.popitem(last=False)


def _open(file: RolloutFile) -> BinaryIO:
    return gzip.open(file.path, "rb") if file.path.suffix == ".gz" else file.path.open("rb")  # type: ignore[return-value]


def _upto(source: BinaryIO, most: int) -> bytes:
    """At most a block more than `most` bytes; of a file that is cut off, what is there."""
    blocks, size = [], 0
    while size <= most:
        try:
            block = source.read(2**20)
        except EOFError:
            break
        if not block:
            break
        blocks.append(block)
        size += len(block)
    return b"".join(blocks)
