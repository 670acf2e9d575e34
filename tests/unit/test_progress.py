"""What the work of a process counts."""

from __future__ import annotations

import asyncio

import pytest

from rlvr.engines.native import NativeEngine
from rlvr.envs.tasks import load_task
from rlvr.progress import PROGRESS, Progress
from rlvr.trainers.model.tiny import tiny_model
from rlvr.types import Sampling


def test_what_takes_long_in_one_piece_is_uncounted_until_the_last_of_it_ends() -> None:
    progress = Progress()
    progress.made()
    assert (progress.count, progress.is_uncounted) == (1, False)
    with progress.uncounted():
        with pytest.raises(KeyError), progress.uncounted():
            raise KeyError
        assert progress.is_uncounted
        assert progress.count == 2  # a piece that has ended is progress, however it ended
    assert (progress.count, progress.is_uncounted) == (3, False)


def test_every_decoding_step_counts_and_waiting_does_not() -> None:
    spec = load_task("chains", {}).tiny
    assert spec is not None
    engine = NativeEngine(*tiny_model(spec, 0))
    before = PROGRESS.count
    asyncio.run(asyncio.sleep(0.01))
    assert PROGRESS.count == before
    completion = asyncio.run(engine.generate([1, 2, 3], Sampling(max_tokens=6)))
    assert PROGRESS.count - before >= len(completion.token_ids) - 1  # the prompt gave the first
    assert not PROGRESS.is_uncounted
