"""vLLM's sleep between the last rollout of a step and new weights. On a CPU it gives nothing back, but keeps the same order."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from rlvr.engines.base import RestingEngine
from rlvr.errors import EngineError
from rlvr.trainers.overlap.pace import InTurn
from rlvr.types import Sampling

from .conftest import Pair, generate, perturb, prompts
from .test_colocated import GREEDY, agree, asynchronous_llm, replica


@pytest.fixture
def sleeper(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """The engine that all tests share, with the setting `sleep`; what vLLM is told, in order."""
    monkeypatch.setattr(pair.vllm, "_sleeps", True)
    monkeypatch.setattr(replica(pair), "_setup", replace(replica(pair)._setup, sleeps=True))
    llm, said = asynchronous_llm(pair), []
    for name in ("sleep", "wake_up", "pause_generation", "finish_weight_update", "reset_prefix_cache", "resume_generation"):
        really = getattr(llm, name)

        async def noted(*args: Any, name: str = name, do: Any = really, **named: Any) -> Any:
            said.append((name, args[0]) if name == "wake_up" else name)
            return await do(*args, **named)

        monkeypatch.setattr(llm, name, noted)
    yield said
    if replica(pair)._is_asleep:
        pair.update()


def test_it_sleeps_through_the_update_and_wakes_up_with_the_new_weights(pair: Pair, sleeper: list[Any]) -> None:
    assert isinstance(pair.vllm, RestingEngine)
    turn, is_asleep = InTurn(pair.vllm), []

    def update() -> None:
        is_asleep.append(pair.vllm._thread.run(asynchronous_llm(pair).is_sleeping()))
        perturb(pair.model, 11)

    asyncio.run(turn.compute(update))
    handed_over = asyncio.run(turn.hand_over())
    pair.native.update_weights()
    assert handed_over is not None
    assert handed_over.gap_max < 1e-4
    assert is_asleep == [True]
    assert sleeper == [
        "sleep", ("wake_up", ["weights"]), "finish_weight_update", ("wake_up", ["kv_cache"]), "reset_prefix_cache",
        "resume_generation",
    ]  # fmt: skip
    agree(pair, [(prompt, GREEDY) for prompt in prompts(pair.model, 8)])


def test_resting_twice_sleeps_once(pair: Pair, sleeper: list[Any]) -> None:
    pair.vllm.rest()
    pair.vllm.rest()
    pair.update()
    assert sleeper.count("sleep") == 1
    agree(pair, [(prompt, GREEDY) for prompt in prompts(pair.model, 4)])


def test_it_does_not_sleep_under_a_request(pair: Pair, sleeper: list[Any]) -> None:
    async def both() -> None:
        asking = asyncio.create_task(pair.vllm.generate(prompts(pair.model, 1)[0], Sampling(max_tokens=8)))
        await asyncio.sleep(0)
        with pytest.raises(EngineError, match="cannot sleep while 1 requests are in flight"):
            pair.vllm.rest()
        await asking

    asyncio.run(both())
    assert sleeper == []


def test_without_the_setting_it_stays_awake(pair: Pair) -> None:
    pair.vllm.rest()
    assert generate(pair.vllm, [(prompts(pair.model, 1)[0], GREEDY)])[0].token_ids
