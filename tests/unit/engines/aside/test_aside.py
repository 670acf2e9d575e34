"""The native engine in a process of its own: the same tokens, weights between decoding steps, and what becomes of a death."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from rlvr import seeding
from rlvr.engines.aside.engine import AsideEngine
from rlvr.engines.base import PushedEngine
from rlvr.engines.native import NativeEngine
from rlvr.errors import ContextFullError, EngineError
from rlvr.types import Completion, Engine, Sampling

pytestmark = pytest.mark.processes
VOCABULARY = 40


def build(seed: int = 0) -> Any:
    torch.manual_seed(seed)
    config = Qwen3Config(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        max_position_embeddings=512,
        initializer_range=0.3,
        bos_token_id=None,
        eos_token_id=1,
    )
    return Qwen3ForCausalLM(config).eval()


def requests(count: int, tokens: int = 30) -> list[tuple[list[int], Sampling]]:
    rng = seeding.rng("aside", count)
    return [([rng.randrange(2, VOCABULARY) for _ in range(rng.randint(3, 9))], Sampling(tokens, seed=i)) for i in range(count)]


async def together(engine: Engine, asked: Sequence[tuple[Sequence[int], Sampling]]) -> list[Completion]:
    return await asyncio.gather(*[engine.generate(prompt, sampling) for prompt, sampling in asked])


def perturb(model: Any, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator)


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def wait_until_gone(pid: int, seconds: float = 120.0) -> bool:
    deadline = time.monotonic() + seconds
    while is_running(pid) and time.monotonic() < deadline:
        time.sleep(0.01)
    return not is_running(pid)


@pytest.fixture(scope="module")
def model() -> Any:
    return build()


@pytest.fixture(scope="module")
def engine(model: Any) -> Iterator[AsideEngine]:
    made = AsideEngine(model, None, threads=1, restarts=2)
    yield made
    pid = made.pid
    asyncio.run(made.close())
    assert not is_running(pid)


def test_it_is_an_engine_that_takes_weights_while_it_generates(engine: AsideEngine) -> None:
    assert isinstance(engine, PushedEngine)
    assert not isinstance(NativeEngine(build(), None), PushedEngine)


def test_its_tokens_and_logprobs_are_the_native_engines_bit_for_bit(engine: AsideEngine, model: Any) -> None:
    here = NativeEngine(model, None)
    here.policy_version = engine.policy_version
    assert asyncio.run(together(engine, requests(24))) == asyncio.run(together(here, requests(24)))


def test_after_an_update_it_has_the_new_weights(engine: AsideEngine, model: Any) -> None:
    before = asyncio.run(together(engine, requests(3)))
    version = engine.policy_version
    perturb(model, 1)
    updated = engine.update_weights()
    assert updated.gap_max < 1e-4
    assert engine.policy_version == version + 1
    here = NativeEngine(model, None)
    here.policy_version = version + 1
    after = asyncio.run(together(engine, requests(3)))
    assert after == asyncio.run(together(here, requests(3)))
    assert [one.token_ids for one in after] != [one.token_ids for one in before]


def test_weights_pushed_while_it_generates_change_sequences_in_flight_and_every_token_says_so(
    engine: AsideEngine, model: Any
) -> None:
    async def main() -> list[Completion]:
        first = engine.policy_version
        flying = asyncio.create_task(together(engine, requests(16, tokens=400)))  # some end by themselves soon
        await asyncio.sleep(0)
        while not engine._in_flight:
            await asyncio.sleep(0)
        with pytest.raises(EngineError, match=r"\d+ requests are in flight"):
            engine.update_weights()
        await asyncio.sleep(0.03)
        perturb(model, 2)
        await asyncio.to_thread(engine.push_weights)
        assert engine.policy_version == first + 1
        late = await together(engine, requests(1))
        found = await flying
        assert late[0].versions == (first + 1,) * len(late[0].token_ids)
        return found

    mixed: list[Completion] = []
    for _ in range(20):  # on a quick machine all answers may be there before the weights
        first = engine.policy_version
        mixed = [one for one in asyncio.run(main()) if one.token_versions is not None]
        if mixed:
            break
    assert mixed
    for one in mixed:
        assert set(one.versions) == {first, first + 1}
        assert list(one.versions) == sorted(one.versions)
        assert one.policy_version == first
    assert engine.update_weights().gap_max < 1e-4  # looks at the probes of the push, too


def test_a_process_with_other_weights_is_an_error(engine: AsideEngine, model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    other = build(5)
    kept = engine._written

    def wrong() -> str:
        with monkeypatch.context() as inner:
            inner.setattr(engine, "_model", other)
            return kept()

    monkeypatch.setattr(engine, "_written", wrong)
    engine.push_weights()  # does not wait for what the probes say
    with pytest.raises(EngineError, match="does not compute what the trainer's model computes"):
        engine.push_weights()
    monkeypatch.undo()
    assert engine.update_weights().gap_max < 1e-4


def test_refused_requests_are_errors_of_their_own(engine: AsideEngine) -> None:
    with pytest.raises(ContextFullError, match="the context holds 512"):
        asyncio.run(engine.generate([2] * 512, Sampling(max_tokens=1)))
    with pytest.raises(EngineError, match="top_p"):
        asyncio.run(engine.generate([2], Sampling(max_tokens=1, top_p=2.0)))


def test_a_cancelled_request_leaves_the_process(engine: AsideEngine) -> None:
    async def main() -> None:
        task = asyncio.create_task(together(engine, requests(16, tokens=500)))  # some end by themselves soon
        await asyncio.sleep(0.02)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert engine.update_weights().gap_max < 1e-4  # which nothing in flight hinders


def test_a_process_that_is_killed_is_started_again_and_asked_again(engine: AsideEngine, model: Any) -> None:
    async def main() -> list[Completion]:
        os.kill(engine.pid, signal.SIGSTOP)  # it answers nothing before it dies
        flying = asyncio.create_task(together(engine, requests(6, tokens=400)))
        await asyncio.sleep(0.05)
        os.kill(engine.pid, signal.SIGKILL)
        return await asyncio.wait_for(flying, 60)

    old, restarts = engine.pid, engine.restarts
    found = asyncio.run(main())
    assert (engine.restarts, engine.pid != old) == (restarts + 1, True)
    here = NativeEngine(model, None)
    here.policy_version = engine.policy_version
    assert found == asyncio.run(together(here, requests(6, tokens=400)))


def test_one_that_dies_too_often_fails_what_it_was_asked_and_what_comes_after_and_is_closed_twice(model: Any) -> None:
    fragile = AsideEngine(model, None, threads=1, restarts=0)
    folder = fragile._folder.path
    assert folder.exists()

    async def main() -> None:
        os.kill(fragile.pid, signal.SIGSTOP)  # it answers nothing before it dies
        flying = asyncio.create_task(together(fragile, requests(16, tokens=500)))
        await asyncio.sleep(0.02)
        os.kill(fragile.pid, signal.SIGKILL)
        with pytest.raises(EngineError, match=r"died \(code -9\).*rollout.max_staleness = 0"):
            await asyncio.wait_for(flying, 60)
        with pytest.raises(EngineError, match=r"died \(code -9\)"):
            await fragile.generate([2, 3], Sampling(max_tokens=5))

    asyncio.run(main())
    asyncio.run(fragile.close())
    asyncio.run(fragile.close())
    assert not folder.exists()


def test_a_process_that_hangs_is_started_again_and_asked_again_and_one_that_works_for_long_is_not(model: Any) -> None:
    engine = AsideEngine(model, None, threads=1, restarts=1, silent_s=1.0)
    here = NativeEngine(model, None)

    async def main() -> None:
        await asyncio.sleep(1.2)  # it says that it is there
        long = await together(engine, requests(8, tokens=500))
        assert engine.restarts == 0
        os.kill(engine.pid, signal.SIGSTOP)
        assert await asyncio.wait_for(together(engine, requests(8, tokens=500)), 60) == long
        assert engine.restarts == 1
        os.kill(engine.pid, signal.SIGSTOP)
        with pytest.raises(EngineError, match=r"said nothing for 1 s; it was started again 1 times before"):
            await asyncio.wait_for(together(engine, requests(2, tokens=5)), 60)
        assert await together(here, requests(8, tokens=500)) == long

    try:
        asyncio.run(main())
    finally:
        asyncio.run(engine.close())
    with pytest.raises(EngineError, match="silent_s = 0; seconds are more than 0, and restarts"):
        AsideEngine(model, None, silent_s=0.0)


def test_a_model_that_cannot_be_had_is_an_error_at_once(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(AsideEngine, "_written", lambda self: "/nowhere/weights.safetensors")
    with pytest.raises(EngineError, match=r"did not start: .*reading the policy's weights from /nowhere"):
        AsideEngine(model, None, threads=1)


ORPHAN = """
import asyncio, os, sys
sys.path.insert(0, {here!r})
from test_aside import build
from rlvr.engines.aside.engine import AsideEngine
from rlvr.types import Sampling

async def main():
    engine = AsideEngine(build(), None, threads=1)
    asked = [asyncio.ensure_future(engine.generate([2, 3], Sampling(500, seed=i))) for i in range(4)]
    await asyncio.sleep(0.02)
    print(engine.pid, flush=True)
    await asyncio.sleep(60)

asyncio.run(main())
"""


def test_nothing_stays_when_the_trainer_is_killed() -> None:
    command = [sys.executable, "-c", ORPHAN.format(here=str(Path(__file__).parent))]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as trainer:
        assert trainer.stdout is not None
        pid = int(trainer.stdout.readline())
        assert is_running(pid)
        # What it has not read when it dies makes the end of the connection an error instead of an end.
        trainer.send_signal(signal.SIGSTOP)
        time.sleep(0.5)
        trainer.kill()
    assert wait_until_gone(pid)
