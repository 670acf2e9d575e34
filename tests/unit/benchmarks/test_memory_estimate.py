"""What is estimated, against the memory of real processes."""

from __future__ import annotations

import sys

import pytest


@pytest.mark.skipif(sys.platform != "linux", reason="the peak memory of a process is read from Linux's /proc")
@pytest.mark.parametrize("side", ["update", "checkpointed update", "generation"])
def test_a_real_process_takes_what_was_estimated(side: str) -> None:
    import memory_estimate

    found = memory_estimate.measured("tiny", side, threads=1)
    assert memory_estimate.estimated(memory_estimate.CASES["tiny"], side) == pytest.approx(found, rel=memory_estimate.TOLERANCE)
