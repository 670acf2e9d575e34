"""A real vLLM server in a process of its own: tokens and weights over HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from rlvr.engines.native import NativeEngine
from rlvr.engines.vllm.engine import VllmEngine
from rlvr.errors import EngineError
from rlvr.trainers.model.tiny import tiny_tokenizer
from rlvr.types import FinishReason, Sampling

from .conftest import ALPHABET, build_model, generate, perturb, prompts

GREEDY = Sampling(max_tokens=24, temperature=0.0)
_STARTS_S = 400.0


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """Its address and its process; it was started with other weights than those that are trained."""
    folder = tmp_path_factory.mktemp("served")
    build_model(seed=7).save_pretrained(folder)
    tiny_tokenizer(ALPHABET, ("<think>", "</think>")).save_pretrained(folder)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    # `vllm serve` asks for the version of a package "vllm", which the CPU build is not called; this is what it runs.
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(folder), "--port", str(port)]
    command += ["--host", "127.0.0.1", "--enable-scale-out", "--logprobs-mode", "processed_logprobs"]
    command += ["--worker-extension-cls", "rlvr.engines.vllm.worker.Worker"]
    command += ["--weight-transfer-config", '{"backend": "rlvr_file"}']
    command += ["--dtype", "float32", "--enforce-eager", "--kv-cache-memory-bytes", str(2**27), "--max-num-seqs", "32"]
    command += ["--no-enable-chunked-prefill", "--max-num-batched-tokens", "4096"]
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
    with log.open("wb") as output:
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=output, start_new_session=True)
    url = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + _STARTS_S
        while not is_up(url):
            assert process.poll() is None, log.read_text()[-3000:]
            assert time.monotonic() < deadline, log.read_text()[-3000:]
            time.sleep(0.5)
        yield url, process
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


def test_a_server_is_trained_with_until_it_dies(
    server: tuple[str, subprocess.Popen[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One after the other, because a server takes a minute to start."""
    url, process = server
    torch.set_num_threads(1)
    model, tokenizer = build_model(), tiny_tokenizer(ALPHABET, ("<think>", "</think>"))
    with pytest.raises(EngineError, match=r"whose vocabulary is not the \d+ tokens"):
        VllmEngine(wider(model), None, url=url)
    engine = VllmEngine(model, tokenizer, max_rows=32, url=url, start_s=0.5)
    native = NativeEngine(model, tokenizer, max_rows=32)
    try:
        assert engine.start_gap.mean < 1e-5
        requests: list[Any] = [(prompt, GREEDY) for prompt in prompts(model, 24, 3, 300)]
        requests += [(prompt, Sampling(60, temperature=0.0, stop=("7", "qx"))) for prompt in prompts(model, 8)]
        same(engine, native, requests)
        perturb(model, 1)
        native.update_weights()
        assert engine.update_weights().gap_mean < 1e-5
        same(engine, native, requests)
        tempered = Sampling(30, temperature=0.5, seed=3)
        first, again = generate(engine, [(requests[0][0], tempered)] * 2)
        assert first.token_ids == again.token_ids
        assert {first.finish_reason} <= {FinishReason.LENGTH, FinishReason.STOP}
        stop(process)
        began = time.monotonic()
        with pytest.raises(EngineError, match=r"no instance of vLLM is left: .* cannot be reached"):
            generate(engine, requests[:4])
        assert time.monotonic() - began < 15
    finally:
        asyncio.run(engine.close())


def same(engine: VllmEngine, native: NativeEngine, requests: Any) -> None:
    ours, theirs = generate(engine, requests), generate(native, requests)
    assert [answer.token_ids for answer in ours] == [answer.token_ids for answer in theirs]
    assert [answer.finish_reason for answer in ours] == [answer.finish_reason for answer in theirs]
    for one, other in zip(ours, theirs, strict=True):
        assert torch.tensor(one.logprobs).allclose(torch.tensor(other.logprobs), atol=1e-4)


def wider(model: Any) -> Any:
    other = build_model()
    other.resize_token_embeddings(model.config.vocab_size + 8)
    return other.eval()
