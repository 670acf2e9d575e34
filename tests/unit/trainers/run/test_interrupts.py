"""Signals while a run is under way cancel it; after it they do not cut off what a rank of several says at its end."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from rlvr.errors import TrainingError
from rlvr.trainers.model.distributed import World
from rlvr.trainers.run import interrupts
from rlvr.trainers.run.interrupts import run_interruptibly

ALONE, ONE_OF_TWO = World(), World(0, 2)


@pytest.fixture
def outside() -> Iterator[list[int]]:
    """The signals that came to the program around the run."""
    heard: list[int] = []
    signals = (signal.SIGTERM, signal.SIGINT)
    before = {number: signal.signal(number, lambda number, frame: heard.append(number)) for number in signals}
    yield heard
    for number, handler in before.items():
        signal.signal(number, handler)


async def finishes() -> None:
    await asyncio.sleep(0)


async def fails() -> None:
    raise TrainingError("a rank was lost")


async def is_ended() -> None:
    os.kill(os.getpid(), signal.SIGTERM)
    await asyncio.sleep(60)


def end_this_process() -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        os.kill(os.getpid(), number)


@pytest.mark.parametrize("world", [ALONE, ONE_OF_TWO])
def test_a_signal_interrupts_the_run_and_not_the_program_around_it(world: World, outside: list[int]) -> None:
    with pytest.raises(KeyboardInterrupt):
        run_interruptibly(is_ended, world)
    assert outside == []


@pytest.mark.parametrize("world", [ALONE, ONE_OF_TWO])
def test_after_a_run_that_ended_well_signals_are_the_programs_again(world: World, outside: list[int]) -> None:
    run_interruptibly(finishes, world)
    end_this_process()
    assert outside == [signal.SIGTERM, signal.SIGINT]


def test_after_a_run_alone_that_failed_signals_are_the_programs_again(outside: list[int]) -> None:
    with pytest.raises(TrainingError):
        run_interruptibly(fails, ALONE)
    end_this_process()
    assert outside == [signal.SIGTERM, signal.SIGINT]


def test_a_rank_that_failed_may_finish_speaking_before_signals_reach_the_program(
    monkeypatch: pytest.MonkeyPatch, outside: list[int]
) -> None:
    now = 100.0
    monkeypatch.setattr(interrupts, "time", SimpleNamespace(monotonic=lambda: now))
    with pytest.raises(TrainingError):
        run_interruptibly(fails, ONE_OF_TWO)
    end_this_process()
    assert outside == []
    now += 10.0
    end_this_process()
    assert outside == [signal.SIGTERM, signal.SIGINT]
    os.kill(os.getpid(), signal.SIGTERM)
    assert outside == [signal.SIGTERM, signal.SIGINT, signal.SIGTERM]
