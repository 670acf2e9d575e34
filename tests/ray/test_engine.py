"""The native engine in Ray actors on two 'nodes'."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from rlvr import seeding
from rlvr.config import EngineConfig
from rlvr.engines.base import PushedEngine
from rlvr.engines.make import verifier_pool
from rlvr.engines.native import NativeEngine
from rlvr.engines.ray.engine import RayEngine
from rlvr.errors import ConfigError, ContextFullError, EngineError
from rlvr.integrations.ray_grading import RayPool
from rlvr.trainers.train import train
from rlvr.types import Completion, Engine, Sampling
from rlvr.verifiers.pool import WorkerPool

from ..tiny_qwen import tiny_qwen

VOCABULARY = 40

pytestmark = pytest.mark.processes


def build() -> Any:
    return tiny_qwen(vocabulary=VOCABULARY, context=96, tie_word_embeddings=True)


@pytest.fixture(scope="module")
def engine(cluster: Any) -> Iterator[RayEngine]:
    made = RayEngine(build(), None, actors=2, max_rows=16)
    yield made
    asyncio.run(made.close())
    asyncio.run(made.close())  # harmless


async def answers(engine: Engine, count: int = 12, tokens: int = 12) -> list[Completion]:
    rng = seeding.rng("ray engine")
    prompts = [[rng.randrange(VOCABULARY) for _ in range(rng.randrange(2, 9))] for _ in range(count)]
    asked = (engine.generate(prompt, Sampling(max_tokens=tokens, seed=seed)) for seed, prompt in enumerate(prompts))
    return await asyncio.gather(*asked)


def pids(engine: RayEngine) -> list[int]:
    return [place.pid for place in engine.whereabouts]


def same(ours: list[Completion], theirs: list[Completion]) -> None:
    for one, other in zip(ours, theirs, strict=True):
        assert one.token_ids == other.token_ids
        assert one.finish_reason is other.finish_reason
        assert one.logprobs == pytest.approx(other.logprobs, abs=1e-4)


def test_actors_on_both_nodes_draw_what_the_native_engine_draws(engine: RayEngine, cluster: Any) -> None:
    same(asyncio.run(answers(engine)), asyncio.run(answers(NativeEngine(engine._model, None))))
    assert len({place.node for place in engine.whereabouts}) == 2
    assert engine.start_gap.mean < 1e-4


def test_new_weights_reach_every_actor(engine: RayEngine) -> None:
    before, version = asyncio.run(answers(engine)), engine.policy_version
    with torch.no_grad():
        for parameter in engine._model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.3)
    update = engine.update_weights()
    assert update.gap_max < 1e-3
    after = asyncio.run(answers(engine))
    assert {one.policy_version for one in after} == {version + 1}
    assert [one.token_ids for one in before] != [one.token_ids for one in after]
    same(after, asyncio.run(answers(NativeEngine(engine._model, None))))


def test_weights_that_come_meanwhile_are_taken_between_two_steps(engine: RayEngine) -> None:
    assert isinstance(engine, PushedEngine)
    before = engine.policy_version

    async def pushed() -> list[Completion]:
        asked = asyncio.create_task(answers(engine, 24, 80))
        while not engine._in_flight:
            await asyncio.sleep(0)
        with torch.no_grad():
            engine._model.model.norm.weight.mul_(1.01)
        await asyncio.to_thread(engine.push_weights)
        return await asked

    mixed: list[Completion] = []
    deadline = time.monotonic() + 240.0
    while not mixed:  # on a quick machine the answers are there before the weights
        assert time.monotonic() < deadline
        version = engine.policy_version
        found = asyncio.run(pushed())
        assert {number for one in found for number in one.versions} <= {version, version + 1}
        mixed = [one for one in found if one.token_versions is not None]
    assert all(list(one.versions) == sorted(one.versions) for one in mixed)
    update = engine.update_weights()  # looks at what was compared after the last push, too
    assert update.gap_max < 1e-3
    assert engine.policy_version > before + 1
    same(asyncio.run(answers(engine)), asyncio.run(answers(NativeEngine(engine._model, None))))


def test_an_actor_that_is_killed_is_replaced_and_what_it_was_asked_is_asked_again(engine: RayEngine) -> None:
    expected = asyncio.run(answers(NativeEngine(engine._model, None), 24, 60))
    victim, restarts = pids(engine)[0], engine.restarts

    async def with_a_death() -> list[Completion]:
        os.kill(victim, signal.SIGSTOP)  # it answers nothing before it dies
        asked = asyncio.create_task(answers(engine, 24, 60))
        await asyncio.sleep(0.05)
        os.kill(victim, signal.SIGKILL)
        return await asked

    same(asyncio.run(with_a_death()), expected)
    assert engine.restarts == restarts + 1
    deadline = time.monotonic() + 240.0
    while victim in pids(engine):  # it is replaced in the background: the other one answers meanwhile
        assert time.monotonic() < deadline
        same(asyncio.run(answers(engine, 24, 60)), expected)


def test_requests_that_cannot_be_served_are_refused_here(engine: RayEngine) -> None:
    with pytest.raises(ContextFullError):
        asyncio.run(engine.generate([1] * 96, Sampling(max_tokens=4)))
    with pytest.raises(EngineError, match="prompt"):
        asyncio.run(engine.generate([], Sampling(max_tokens=4)))


def test_a_cluster_without_room_is_said_so(cluster: Any) -> None:
    with pytest.raises(EngineError, match="asks for 64 CPUs and 0 GPUs of one node"):
        RayEngine(build(), None, actors=1, cpus=64, start_s=1.0)


def test_a_run_with_ray_grades_on_its_nodes_and_any_other_run_here() -> None:
    assert verifier_pool(EngineConfig(name="ray")) is RayPool
    assert verifier_pool(EngineConfig()) is WorkerPool


@pytest.mark.skipif(find_spec("vllm") is not None, reason="vLLM is installed")
def test_nodes_without_vllm_are_told_what_to_install(cluster: Any) -> None:
    with pytest.raises(EngineError, match=r"not installed on this node of the Ray cluster: pip install 'rlvr\[ray,vllm\]'"):
        RayEngine(build(), None, actors=1, cpus=0, inner="vllm")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"actors": 0}, "actors = 0"),
        ({"inner": "vlm"}, "engine.args.inner = 'vlm'; choose one of native, vllm"),
        ({"vllm": {"seed": 1}}, "engine.args.inner = 'native' with engine.args.vllm"),
        ({"gap_limit": 0.0}, "engine.args.gap_limit = 0; it is more than 0"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        RayEngine(build(), None, **settings)


@pytest.mark.learning
def test_a_run_with_ray_trains_as_one_with_the_native_engine_does(cluster: Any, tmp_path: Path) -> None:
    def trained(folder: str, **engine: Any) -> dict[str, torch.Tensor]:
        run = train(
            model="new:tiny",
            task="chains",
            steps=2,
            threads=1,
            out=str(tmp_path / folder),
            rollout={"group_size": 4, "problems_per_step": 4, "max_tokens": 12},
            optim={"lr": 1e-3},
            eval={"problems": 0},
            engine=engine,
        )
        return load_file(run.checkpoint / "model.safetensors")

    ours = trained("ray", name="ray", args={"actors": 2})
    theirs = trained("native", name="native")
    assert all(torch.allclose(tensor, theirs[name], atol=1e-4) for name, tensor in ours.items())
