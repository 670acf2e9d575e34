"""The native engine in several processes: the same tokens as in one, groups together, weights everywhere, and a death."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch

from rlvr import seeding
from rlvr.config import EngineConfig
from rlvr.engines.load import LoadedModel
from rlvr.engines.make import make_engine
from rlvr.engines.native import NativeEngine
from rlvr.engines.spread import SpreadEngine
from rlvr.errors import ConfigError, EngineError
from rlvr.types import Completion, Engine, Sampling

from ...tiny_qwen import tiny_qwen

pytestmark = pytest.mark.processes
VOCABULARY, GROUP = 40, 4


def build() -> Any:
    return tiny_qwen(vocabulary=VOCABULARY, context=256, eos_token_id=1)


def groups(count: int, tokens: int = 30) -> list[tuple[list[int], Sampling]]:
    rng = seeding.rng("spread", count)
    prompts = [[rng.randrange(2, VOCABULARY) for _ in range(rng.randint(3, 9))] for _ in range(count)]
    return [(prompt, Sampling(tokens, seed=GROUP * i + k)) for i, prompt in enumerate(prompts) for k in range(GROUP)]


async def together(engine: Engine, asked: Sequence[tuple[Sequence[int], Sampling]]) -> list[Completion]:
    return await asyncio.gather(*[engine.generate(prompt, sampling) for prompt, sampling in asked])


@pytest.fixture(scope="module")
def model() -> Any:
    return build()


@pytest.fixture(scope="module")
def engine(model: Any) -> Iterator[SpreadEngine]:
    made = SpreadEngine(model, None, processes=2, restarts=2)
    yield made
    asyncio.run(made.close())


def test_tokens_and_logprobs_are_those_of_one_process(model: Any, engine: SpreadEngine) -> None:
    asked = groups(6)
    alone = asyncio.run(together(NativeEngine(model, None), asked))
    assert asyncio.run(together(engine, asked)) == alone


def test_groups_stay_together_and_are_shared_out(model: Any, engine: SpreadEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    served: dict[int, list[tuple[int, ...]]] = {}
    for index, member in enumerate(engine._members):

        async def generate(prompt: tuple[int, ...], sampling: Sampling, index: int = index, ask: Any = member.generate) -> Any:
            served.setdefault(index, []).append(prompt)
            return await ask(prompt, sampling)

        monkeypatch.setattr(member, "generate", generate)
    asyncio.run(together(engine, groups(6)))
    assert [len(prompts) for prompts in served.values()] == [3 * GROUP, 3 * GROUP]
    assert not set(served[0]) & set(served[1])
    assert engine._busy == [0, 0]
    assert not engine._prompts


def test_new_weights_are_everywhere(model: Any, engine: SpreadEngine) -> None:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
    update, version = engine.update_weights(), engine.policy_version
    assert update is not None
    second = engine.update_weights()
    assert second is not None
    assert second.gap_max < 1e-5  # of what both processes computed with the first ones
    asked = groups(4)
    alone = NativeEngine(model, None)
    alone.policy_version = version + 1
    assert asyncio.run(together(engine, asked)) == asyncio.run(together(alone, asked))


def test_weights_cannot_change_under_a_request(engine: SpreadEngine) -> None:
    async def both() -> None:
        asking = asyncio.create_task(together(engine, groups(2)))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        with pytest.raises(EngineError, match="requests are in flight"):
            engine.update_weights()
        await asking

    asyncio.run(both())


def test_a_process_that_is_killed_comes_back_and_answers_the_same(model: Any, engine: SpreadEngine) -> None:
    asked = groups(8, tokens=120)
    alone = NativeEngine(model, None)
    alone.policy_version = engine.policy_version

    async def with_a_death() -> list[Completion]:
        os.kill(engine.pids[0], signal.SIGSTOP)  # it answers nothing before it dies
        asking = asyncio.create_task(together(engine, asked))
        await asyncio.sleep(0.01)
        os.kill(engine.pids[0], signal.SIGKILL)
        return await asking

    before = engine.restarts
    assert asyncio.run(with_a_death()) == asyncio.run(together(alone, asked))
    assert engine.restarts == before + 1


def test_one_process_needs_no_other(model: Any) -> None:
    alone = SpreadEngine(model, None, processes=1)
    assert alone.pids == ()
    assert alone.update_weights() is None


def test_no_processes_at_all_is_refused(model: Any) -> None:
    with pytest.raises(EngineError, match=r"processes = 0; set it to 1 or more"):
        SpreadEngine(model, None, processes=0)


def test_a_recipe_asks_for_it_with_a_setting_of_the_native_engine(model: Any) -> None:
    loaded = LoadedModel(model, None, "", torch.device("cpu"), "fp32")
    made = make_engine(EngineConfig(args={"processes": 1}), loaded)
    assert isinstance(made, SpreadEngine)
    assert isinstance(make_engine(EngineConfig(), loaded), NativeEngine)
    with pytest.raises(ConfigError, match="did you mean processes"):
        make_engine(EngineConfig(args={"processes": 1, "proceses": 2}), loaded)
