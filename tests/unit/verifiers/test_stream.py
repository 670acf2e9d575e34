from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from rlvr.errors import ConfigError, TaskError, VerifierError
from rlvr.types import Problem, Rollout
from rlvr.verifiers.runner import Grader, WeightedVerifier
from rlvr.verifiers.stream import grade_stream, grade_text, verify_stream

MISBEHAVING = f"{Path(__file__).parent / 'plugins' / 'misbehaving.py'}:misbehaving"


def rollouts(count: int) -> Iterator[Rollout]:
    for number in range(count):
        yield Rollout.from_response(Problem(str(number), (), number), f"<answer>{number}</answer>")


@pytest.mark.parametrize("verifier", ["number", MISBEHAVING])
def test_everything_comes_out_graded_and_in_order(verifier: str) -> None:
    graded = list(verify_stream(WeightedVerifier(verifier), rollouts(300)))
    assert [rollout.problem.id for rollout in graded] == [str(number) for number in range(300)]
    assert all(rollout.reward == 1.0 for rollout in graded)


def test_a_slow_one_does_not_change_the_order() -> None:
    responses = ["a", "hang", "b", "c", "exit", "d"]
    items = [Rollout.from_response(Problem("p", (), ""), response) for response in responses]
    graded = list(verify_stream(WeightedVerifier(MISBEHAVING), items, timeout_s=0.4))
    assert [rollout.response for rollout in graded] == responses
    assert [rollout.reward for rollout in graded] == [1.0, None, 1.0, 1.0, None, 1.0]


def test_only_a_window_is_held() -> None:
    held: list[int] = []
    produced = 0

    def counted() -> Iterator[Rollout]:
        nonlocal produced
        for rollout in rollouts(200):
            produced += 1
            yield rollout

    async def run() -> None:
        consumed = 0
        async with Grader([WeightedVerifier("number")]) as grader:
            async for _ in grade_stream(grader, counted(), window=8):
                consumed += 1
                held.append(produced - consumed)

    asyncio.run(run())
    assert len(held) == 200
    assert max(held) <= 8 + 1  # one more waits in the reader's hand


def test_results_come_before_the_source_goes_on() -> None:
    asked = threading.Event()

    def conversation() -> Iterator[Rollout]:
        yield next(rollouts(1))
        assert asked.wait(30)  # the next line is only written once the first verdict was read
        yield next(rollouts(1))

    stream = verify_stream(WeightedVerifier("number"), conversation())
    assert next(stream).reward == 1.0
    asked.set()
    assert [rollout.reward for rollout in stream] == [1.0]


def test_what_the_source_raises_comes_after_what_it_gave() -> None:
    def broken() -> Iterator[Rollout]:
        yield from rollouts(3)
        raise TaskError("line 4 is wrong")

    stream = verify_stream(WeightedVerifier("number"), broken())
    assert [next(stream).reward for _ in range(3)] == [1.0] * 3
    with pytest.raises(TaskError, match="line 4"):
        next(stream)


def test_a_foreign_error_of_the_source_is_ours_in_the_end() -> None:
    def broken() -> Iterator[Rollout]:
        yield from rollouts(1)
        raise OSError("disk gone")

    with pytest.raises(VerifierError, match="disk gone"):
        list(verify_stream(WeightedVerifier("number"), broken()))


def test_leaving_early_stops_the_reader() -> None:
    stream = verify_stream(WeightedVerifier("number"), rollouts(10_000))
    next(stream)
    stream.close()
    for thread in threading.enumerate():
        if thread.name.startswith("rlvr-reader"):
            thread.join(60)
            assert not thread.is_alive()


def test_settings_are_checked_before_anything_is_read() -> None:
    def untouched() -> Iterator[Rollout]:
        raise AssertionError("was read")
        yield

    with pytest.raises(ConfigError):
        verify_stream(WeightedVerifier("number", 1.0, {"tolerence": 1}), untouched())


def test_one_text_can_be_graded_alone() -> None:
    assert grade_text("number", 5, "it is 5").score == 1.0
    assert grade_text("number", "3.14159", "3.14", settings={"tolerance": 0.01}).score == 1.0
    assert grade_text(MISBEHAVING, None, "raise").score is None
