"""Engines of several trainer processes that ask the same servers: here the processes are threads, and the servers our own."""

from __future__ import annotations

import asyncio
import copy
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from rlvr.engines import replicated
from rlvr.engines.native import NativeEngine
from rlvr.engines.ranks import Alone, leader_here, said_by
from rlvr.engines.vllm.engine import VllmEngine
from rlvr.errors import EngineError

from ....thread_ranks import TwoRanks
from .test_servers import PROMPTS, FakeVllm, build, generate, start, tokens

__all__ = ["start"]


class Ranks(TwoRanks):
    """Two ranks with a copy of the model each."""

    def __init__(self, *servers: FakeVllm) -> None:
        super().__init__(timeout_s=20)
        self._url = ",".join(server.url for server in servers)
        self.models = [copy.deepcopy(build()) for _ in range(2)]
        self.engines: list[VllmEngine] = self.both(
            lambda rank: VllmEngine(self.models[rank], None, url=self._url, ranks=self.ranks[rank], start_s=20.0)
        )

    def change(self, factor: float) -> None:
        with torch.no_grad():
            for model in self.models:
                model.model.norm.weight.mul_(factor)


@pytest.fixture
def two(start: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Ranks]]:
    monkeypatch.setattr(replicated, "_WATCH_S", 0.1)
    made: list[Ranks] = []

    def make(*servers: FakeVllm) -> Ranks:
        made.append(Ranks(*servers))
        return made[-1]

    yield make
    for one in made:
        one.both(lambda rank, one=one: asyncio.run(one.engines[rank].close()))  # type: ignore[misc]


def updates(server: FakeVllm) -> int:
    return server.log.count("/update_weights")


def test_weights_are_handed_over_once_for_all_ranks_and_all_know_their_version(start: Any, two: Any) -> None:
    servers = [start(), start()]
    ranks = two(*servers)
    assert [updates(server) for server in servers] == [1, 1]
    for version in (1, 2):
        ranks.change(1.3)
        found = ranks.both(lambda rank: ranks.engines[rank].update_weights())
        assert found[0].gap_mean == found[1].gap_mean < 1e-5
        expected = tokens(generate(NativeEngine(ranks.models[0], None), PROMPTS))
        for answers in ranks.both(lambda rank: generate(ranks.engines[rank], PROMPTS)):
            assert tokens(answers) == expected
            assert {answer.policy_version for answer in answers} == {version}
    assert [updates(server) for server in servers] == [3, 3]
    assert [engine.restarts for engine in ranks.engines] == [0, 0]


def test_a_server_that_only_the_second_rank_asks_gets_its_weights_back_from_the_first(start: Any, two: Any) -> None:
    server = start()
    ranks = two(server)
    ranks.change(1.2)
    ranks.both(lambda rank: ranks.engines[rank].update_weights())
    server.stop()
    again = start(port=server.port)
    answers = generate(ranks.engines[1], PROMPTS)
    assert tokens(answers) == tokens(generate(NativeEngine(ranks.models[1], None), PROMPTS))
    assert (again.weight_version, updates(again)) == (server.weight_version, 1)
    deadline = time.monotonic() + 120
    while ranks.engines[0].restarts < 1:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_what_one_rank_finds_wrong_is_an_error_on_all_of_them(start: Any, two: Any) -> None:
    ranks = two(start())
    with torch.no_grad():
        ranks.models[1].model.norm.weight.mul_(1.5)  # the first rank's weights are handed over

    def update(rank: int) -> str:
        with pytest.raises(EngineError) as caught:
            ranks.engines[rank].update_weights()
        return str(caught.value)

    said = ranks.both(update)
    assert said[0] == said[1]
    assert "(of rank 1) does not compute what the trainer's model computes" in said[0]


def test_pushed_weights_are_compared_with_the_next_ones(start: Any, two: Any) -> None:
    ranks = two(start())
    ranks.change(1.2)
    first = ranks.both(lambda rank: ranks.engines[rank].push_weights())
    ranks.change(1.1)
    second = ranks.both(lambda rank: ranks.engines[rank].push_weights())
    assert first[0].gap_mean == ranks.engines[0].start_gap.mean
    assert second[0].gap_mean == second[1].gap_mean < 1e-5
    assert second[0].gap_mean != first[0].gap_mean
    with torch.no_grad():
        ranks.models[0].model.norm.weight.mul_(0.9)  # after the hand-over, so that what is expected is not what was handed over
    wrong = ranks.engines[0]._ask()
    wrong.drawn.result()
    ranks.engines[0]._asked = wrong
    with pytest.raises(EngineError, match="does not compute what the trainer's model computes"):
        ranks.both(lambda rank: ranks.engines[rank].push_weights())


def test_a_word_from_a_rank_that_says_nothing_is_an_error() -> None:
    assert leader_here(Alone()) == 0
    assert said_by(Alone(), 0, "weights") == "weights"
    with pytest.raises(EngineError, match="rank 0 has nothing to say"):
        said_by(Alone(), 0, None)
