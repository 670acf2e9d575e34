"""Tests against a real vLLM on the CPU, in an environment of its own: `make test-vllm`. Skipped where vLLM is not installed."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import gc
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from rlvr import seeding
from rlvr.engines.native import NativeEngine
from rlvr.engines.vllm.engine import VllmEngine
from rlvr.trainers.model.tiny import tiny_tokenizer
from rlvr.types import Completion, Engine, Sampling

ALPHABET = "0123456789+-=?;abcdefghijklmnopqrstuvwxyz "

HERE = Path(__file__).parent
_STARTS_S = 400.0


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.parent != HERE:
            continue
        item.add_marker(pytest.mark.filterwarnings("ignore"))  # what vLLM and its dependencies warn of is not ours to change
        if find_spec("vllm") is None:
            item.add_marker(pytest.mark.skip(reason="vLLM is not installed; `make test-vllm` runs these tests where it is"))


def build_model(seed: int = 0) -> Any:
    """A random Qwen3 whose head is tied to its embedding, sure enough of its tokens that rounding does not change them."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(seed)
    config = Qwen3Config(
        vocab_size=len(tiny_tokenizer(ALPHABET, ("<think>", "</think>"))),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=512,
        initializer_range=0.3,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=1,
        pad_token_id=0,
    )
    return Qwen3ForCausalLM(config).eval()


def perturb(model: Any, seed: int, size: float = 0.03) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(size * torch.randn(parameter.shape, generator=generator))


def prompts(model: Any, count: int, shortest: int = 3, longest: int = 60) -> list[list[int]]:
    rng = seeding.rng("vllm prompts", count, shortest, longest)
    size = model.config.vocab_size
    return [[rng.randrange(2, size) for _ in range(rng.randint(shortest, longest))] for _ in range(count)]


async def together(engine: Engine, requests: Sequence[tuple[Sequence[int], Sampling]]) -> list[Completion]:
    return await asyncio.gather(*[engine.generate(prompt, sampling) for prompt, sampling in requests])


def generate(engine: Engine, requests: Sequence[tuple[Sequence[int], Sampling]]) -> list[Completion]:
    return asyncio.run(together(engine, requests))


def assert_weights_may_come_at_any_time(engine: VllmEngine, model: Any) -> None:
    """Weights are pushed while greedy answers are sampled: those that are begun by one version and ended by another have read all
    that was there. How many of them there are depends on the machine, so it is done again until there were a few."""
    mixed, rounds = 0, 0
    while mixed < 4:
        rounds += 1
        assert rounds <= 20, f"only {mixed} answers were under way when weights came"
        mixed += _push_twice(engine, model, rounds)


def _push_twice(engine: VllmEngine, model: Any, seed: int) -> int:
    """Two versions arrive among 8 answers, the second with the weights of the first: how many answers have tokens of several."""
    requests = [(prompt, Sampling(480, temperature=0.0)) for prompt in prompts(model, 8, 3, 30)]
    short = Sampling(12, temperature=0.0)
    old, version = copy.deepcopy(model), engine.policy_version

    async def main() -> list[Completion]:
        task = asyncio.create_task(together(engine, requests))
        for index in range(2):
            await engine.generate([5 + index], short)  # the others have sampled a few tokens meanwhile
            if index == 0:
                perturb(model, 7 * seed)
            update = await asyncio.to_thread(engine.push_weights)
        assert 0 < update.gap_mean <= update.gap_max < 1e-4  # what was asked after the first push
        return await task

    answers = asyncio.run(main())
    assert engine.policy_version == version + 2
    for (prompt, _), answer in zip(requests, answers, strict=True):
        assert list(answer.versions) == sorted(answer.versions)
        assert set(answer.versions) <= {version, version + 1, version + 2}
        ids = torch.tensor([[*prompt, *answer.token_ids]])
        with torch.no_grad():
            rows = [one(ids).logits[0, len(prompt) - 1 : -1].log_softmax(-1) for one in (old, model)]
        is_new = torch.tensor(answer.versions) > version
        expected = torch.where(is_new[:, None], rows[1], rows[0])
        sampled = expected.gather(-1, torch.tensor(answer.token_ids)[:, None])[:, 0]
        assert sampled.allclose(expected.max(-1).values, atol=1e-4)  # of two that are equal but for rounding it may be either
        assert torch.tensor(answer.logprobs).allclose(sampled, atol=1e-4)
    return sum(answer.versions[0] == version < answer.versions[-1] for answer in answers)


@contextlib.contextmanager
def on_one_core() -> Iterator[None]:
    """For what is started meanwhile. vLLM's processes wait in loops that give way to others of their core alone; on several
    cores the thread that reads requests may get nowhere for seconds, until there is nothing else to do."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@dataclass(frozen=True, slots=True)
class Pair:
    """vLLM and the native engine on one model, whose weights a test may change if it updates both."""

    model: Any
    tokenizer: Any
    vllm: VllmEngine
    native: NativeEngine

    def update(self) -> Any:
        self.native.update_weights()
        return self.vllm.update_weights()


@pytest.fixture(autouse=True)
def collected() -> Iterator[None]:
    """vLLM's client leaves a zmq context to the garbage collector, which complains: here, where that is not an error."""
    yield
    gc.collect()


@pytest.fixture(scope="session")
def started() -> Iterator[Pair]:
    """Started once: that takes longer than all the tests of it."""
    torch.set_num_threads(1)
    model, tokenizer = build_model(), tiny_tokenizer(ALPHABET, ("<think>", "</think>"))
    with on_one_core():
        engine = VllmEngine(model, tokenizer, max_rows=32)
    yield Pair(model, tokenizer, engine, NativeEngine(model, tokenizer, max_rows=32))
    asyncio.run(engine.close())
    gc.collect()


@pytest.fixture
def pair(started: Pair) -> Iterator[Pair]:
    """With the weights it started with, before and after the test."""
    before = copy.deepcopy(started.model.state_dict())
    yield started
    started.model.load_state_dict(before)
    started.update()


@dataclass(frozen=True, slots=True)
class Served:
    """A `vllm serve`: its address, the model that it was started with, and its process."""

    url: str
    model: Path
    process: subprocess.Popen[bytes]


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A real server in a process of its own, for all tests; it was started with other weights than those that are trained."""
    with serving(tmp_path_factory.mktemp("served")) as served:
        yield served


@contextlib.contextmanager
def serving(folder: Path, *arguments: str) -> Iterator[Served]:
    """With further `arguments` for vLLM."""
    build_model(seed=7).save_pretrained(folder)
    tiny_tokenizer(ALPHABET, ("<think>", "</think>")).save_pretrained(folder)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    # `vllm serve` asks for the version of a package "vllm", which the CPU build is not called; this is what it runs.
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(folder), "--port", str(port)]
    command += ["--host", "127.0.0.1", "--enable-scale-out", "--logprobs-mode", "processed_logprobs"]
    command += ["--worker-extension-cls", "rlvr.engines.vllm.worker.Worker"]
    command += ["--weight-transfer-config", '{"backend": "rlvr"}']
    command += ["--dtype", "float32", "--enforce-eager", "--kv-cache-memory-bytes", str(2**27), "--max-num-seqs", "32"]
    command += ["--no-enable-chunked-prefill", "--max-num-batched-tokens", "4096", *arguments]
    environment = {
        **os.environ,
        "VLLM_SERVER_DEV_MODE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_LOGGING_LEVEL": "ERROR",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "OMP_NUM_THREADS": "1",
        "TORCH_COMPILE_DISABLE": "1",
    }
    log = Path(folder / "log.txt")
    with log.open("wb") as output, on_one_core():
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=output, start_new_session=True)
    url = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + _STARTS_S
        while not is_up(url):
            assert process.poll() is None, log.read_text()[-3000:]
            assert time.monotonic() < deadline, log.read_text()[-3000:]
            time.sleep(0.5)
        yield Served(url, folder, process)
    finally:
        stop(process)


def stop(process: subprocess.Popen[bytes]) -> None:
    """The server and the processes that it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(timeout=30)


def is_up(url: str) -> bool:
    try:
        with urllib.request.urlopen(url + "/health", timeout=2) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False
