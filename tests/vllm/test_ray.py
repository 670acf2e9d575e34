"""vLLM in Ray actors, on two 'nodes' of a cluster on this machine."""

from __future__ import annotations

import asyncio
import os
import signal
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from rlvr.engines.native import NativeEngine
from rlvr.engines.ray.engine import RayEngine
from rlvr.errors import EngineError
from rlvr.trainers.model.tiny import tiny_tokenizer
from rlvr.types import Sampling

from .conftest import ALPHABET, build_model, generate, perturb, prompts, together

STORE_BYTES = 80 * 2**20
GREEDY = Sampling(max_tokens=24, temperature=0.0)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'rlvr[ray]'")
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Ray's own, of its start
        patch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]))
        patch.setenv("OMP_NUM_THREADS", "1")
        first = {"num_cpus": 1, "object_store_memory": STORE_BYTES, "include_dashboard": False}
        made = Cluster(initialize_head=True, head_node_args=first)
        made.add_node(num_cpus=1, object_store_memory=STORE_BYTES)
        ray.init(address=made.address, logging_level="ERROR", log_to_driver=False)
    yield ray
    ray.shutdown()
    made.shutdown()


@pytest.fixture(scope="module")
def engine(cluster: Any) -> Iterator[RayEngine]:
    torch.set_num_threads(1)
    tokenizer = tiny_tokenizer(ALPHABET, ("<think>", "</think>"))
    made = RayEngine(build_model(), tokenizer, actors=2, max_rows=32, inner="vllm", vllm={"seed": 3}, start_s=500)
    yield made
    asyncio.run(made.close())


def agree(engine: RayEngine, requests: Any) -> None:
    ours, theirs = generate(engine, requests), generate(NativeEngine(engine._model, None), requests)
    assert [answer.token_ids for answer in ours] == [answer.token_ids for answer in theirs]
    for one, other in zip(ours, theirs, strict=True):
        assert one.logprobs == pytest.approx(other.logprobs, abs=1e-4)


def test_an_instance_on_each_node_answers_and_takes_the_policys_weights(engine: RayEngine, cluster: Any) -> None:
    assert {place.node for place in engine.whereabouts} == {node["NodeID"] for node in cluster.nodes()}
    assert len(cluster.nodes()) == 2
    assert 0 < engine.start_gap.mean < 1e-5
    requests = [(prompt, GREEDY) for prompt in prompts(engine._model, 24, 3, 300)]
    agree(engine, requests)
    perturb(engine._model, 1)
    update = engine.update_weights()
    assert 0 < update.gap_mean <= update.gap_max < 1e-4
    agree(engine, requests)
    perturb(engine._model, 2)
    engine.push_weights()
    agree(engine, requests)
    assert {answer.policy_version for answer in generate(engine, requests)} == {engine.policy_version} == {2}


def test_settings_that_this_vllm_does_not_have_are_named(cluster: Any, engine: RayEngine) -> None:
    with pytest.raises(EngineError, match=r"neither rlvr nor this vLLM has such a setting; did you mean max_model_len\?"):
        RayEngine(build_model(), None, actors=1, cpus=0, inner="vllm", vllm={"max_model_length": 64})


def test_an_actor_that_dies_takes_its_vllm_with_it_and_the_other_one_answers(engine: RayEngine) -> None:
    perturb(engine._model, 3)
    engine.update_weights()
    requests = [(prompt, Sampling(max_tokens=100, temperature=0.0)) for prompt in prompts(engine._model, 16)]
    expected = generate(NativeEngine(engine._model, None), requests)
    victim = engine.whereabouts[0].pid
    children = descendants(victim)
    assert children

    async def with_a_death() -> Any:
        os.kill(victim, signal.SIGSTOP)  # it answers nothing before it dies
        asked = asyncio.create_task(together(engine, requests))
        await asyncio.sleep(0.1)
        os.kill(victim, signal.SIGKILL)
        return await asked

    found = asyncio.run(with_a_death())
    assert [answer.token_ids for answer in found] == [answer.token_ids for answer in expected]
    assert engine.restarts == 1
    deadline = time.monotonic() + 120.0
    while any(Path("/proc", str(pid)).exists() for pid in children):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def descendants(pid: int) -> list[int]:
    """The processes that a process started, and those that they did."""
    found = []
    for path in Path("/proc", str(pid), "task").glob("*/children"):
        for child in map(int, path.read_text().split()):
            found += [child, *descendants(child)]
    return found
