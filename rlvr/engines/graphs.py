"""Decoding steps that are recorded once and repeated.

On a GPU a step is hundreds of small kernels, and starting them one by one takes longer than running them. A recorded step reads
and writes the tensors that it was recorded with, so sizes are rounded up to a few, inputs are copied to fixed places, and what
was recorded is dropped whenever the cache or the weights move.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from rlvr.errors import EngineError, boundary

_LOG = logging.getLogger(__name__)
_WARM_UPS = 2  # before recording: matrix libraries set themselves up at the first calls, which no graph can hold
_FEW_ROWS = 32
_FINE, _COARSE = 256, 1024  # positions

Step = Callable[
    [Tensor, Tensor, Tensor], Tensor
]  # tokens [R], positions [R] and cache places [R, 2 * kv_heads] to states [R, hidden]


class Recorder(Protocol):
    """Turns work on fixed tensors into a call that repeats it."""

    def record(self, work: Callable[[], Tensor]) -> Callable[[], Tensor]:
        """`work` must do the same whenever it runs, and running it again must change nothing. Returns what repeats it."""
        ...

    def forget(self) -> None:
        """Nothing that was recorded is needed any more."""
        ...


class CudaRecorder:
    """CUDA graphs. All share one pool of memory: they never run at the same time, and nothing in it is needed between two runs.

    Source: https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream: torch.cuda.Stream | None = None
        self._pool: Any = None

    def record(self, work: Callable[[], Tensor]) -> Callable[[], Tensor]:
        with torch.cuda.device(self._device):
            if self._stream is None:
                self._stream = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
            if self._pool is None:
                self._pool = torch.cuda.graph_pool_handle()
            current, graph = torch.cuda.current_stream(self._device), torch.cuda.CUDAGraph()
            self._stream.wait_stream(current)
            try:
                with torch.cuda.stream(self._stream):
                    for _ in range(_WARM_UPS):
                        work()
                # Other threads may take memory of their own meanwhile.
                with torch.cuda.graph(graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"):
                    found = work()
            finally:
                torch.cuda.set_stream(current)  # a capture that fails may leave its own one
                current.wait_stream(self._stream)

        def repeat() -> Tensor:
            graph.replay()
            return found

        return repeat

    def forget(self) -> None:
        # A pool ends with the last graph in it; torch refuses to begin it again.
        self._pool = None


@dataclass(frozen=True, slots=True)
class _Recording:
    tokens: Tensor
    positions: Tensor
    places: Tensor
    repeat: Callable[[], Tensor]


class RecordedSteps:
    """Decoding steps of a few sizes, each recorded when it is first needed; plain ones where there is no recorder.

    A step that cannot be recorded is run plainly, as are all after it.
    """

    def __init__(self, recorder: Recorder | None) -> None:
        self._recorder = recorder
        self._recordings: dict[tuple[int, int], _Recording] = {}

    def __len__(self) -> int:
        return len(self._recordings)

    @property
    def is_recording(self) -> bool:
        return self._recorder is not None

    def forget(self) -> None:
        """The tensors that were recorded are gone, or about to go."""
        self._recordings.clear()
        if self._recorder is not None:
            self._recorder.forget()

    def sizes(self, rows: int, length: int, *, room: tuple[int, int]) -> tuple[int, int]:
        """The rows and the length that a step is run with, at least those given, and within `room` where those given are."""
        if self._recorder is None:
            return rows, length
        return _within(bucket_of_rows(rows), rows, room[0]), _within(bucket_of_length(length), length, room[1])

    def run(self, key: tuple[int, int], step: Step, tokens: Tensor, positions: Tensor, places: Tensor) -> Tensor:
        """`step` on these inputs. What it returns may be overwritten by the next call."""
        if self._recorder is None:
            return step(tokens, positions, places)
        if key not in self._recordings and not self._record(key, step, tokens, positions, places):
            return step(tokens, positions, places)
        recording = self._recordings[key]
        recording.tokens.copy_(tokens)
        recording.positions.copy_(positions)
        recording.places.copy_(places)
        return recording.repeat()

    def _record(self, key: tuple[int, int], step: Step, tokens: Tensor, positions: Tensor, places: Tensor) -> bool:
        assert self._recorder is not None
        fixed = (tokens.clone(), positions.clone(), places.clone())
        try:
            with boundary(EngineError, f"recording a decoding step of {key[0]} rows and {key[1]} positions"):
                self._recordings[key] = _Recording(*fixed, self._recorder.record(lambda: step(*fixed)))
        except EngineError as error:
            _LOG.warning("%s; decoding goes on without recorded steps, and slower", error)
            self._recorder = None
            self.forget()
            return False
        return True


def bucket_of_rows(rows: int) -> int:
    """Multiples of 8 up to 32, then powers of two and what lies halfway between them."""
    if rows <= _FEW_ROWS:
        return -(-rows // 8) * 8
    power = 1 << (rows - 1).bit_length()
    return power // 4 * 3 if rows <= power // 4 * 3 else power


def bucket_of_length(length: int) -> int:
    """Multiples of 256 up to 2,048 positions, of 1,024 above: what is beyond a row's end is read and masked."""
    block = _FINE if length <= 8 * _FINE else _COARSE
    return -(-length // block) * block


def _within(bucket: int, least: int, room: int) -> int:
    return min(bucket, room) if least <= room else bucket
