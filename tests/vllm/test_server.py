"""A real vLLM server in a process of its own: tokens and weights over HTTP."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from safetensors.torch import load_file, save_file

from rlvr.engines.native import NativeEngine
from rlvr.engines.vllm import broadcast
from rlvr.engines.vllm.engine import VllmEngine
from rlvr.errors import EngineError
from rlvr.trainers.model.tiny import tiny_tokenizer
from rlvr.types import FinishReason, Sampling

from .conftest import ALPHABET, Served, assert_weights_may_come_at_any_time, build_model, generate, perturb, prompts, serving

GREEDY = Sampling(max_tokens=24, temperature=0.0)


def test_a_server_answers_with_the_policys_weights_and_follows_its_updates(server: Served) -> None:
    torch.set_num_threads(1)
    model, tokenizer = build_model(), tiny_tokenizer(ALPHABET, ("<think>", "</think>"))
    with pytest.raises(EngineError, match=r"whose vocabulary is not the \d+ tokens"):
        VllmEngine(wider(model), None, url=server.url)
    engine = VllmEngine(model, tokenizer, max_rows=32, url=server.url)
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
        assert_weights_may_come_at_any_time(engine, model)
    finally:
        asyncio.run(engine.close())


LEFT = """
import os, signal, sys, torch
from rlvr.engines.vllm import broadcast
from rlvr.engines.vllm import broadcast
from rlvr.engines.vllm.engine import VllmEngine
sys.path.insert(0, {root!r})
from tests.vllm.conftest import build_model, perturb

def dies(group, tensor, count=[0]):
    count[0] += 1
    if count[0] == 12:
        os.kill(os.getpid(), signal.SIGKILL)
    sends(group, tensor)

model = build_model()
engine = VllmEngine(model, None, max_rows=32, url={url!r}, weights="gloo")
sends, broadcast._broadcast = broadcast._broadcast, dies
perturb(model, 2)
engine.update_weights()
"""


def test_a_server_takes_weights_over_the_network_and_survives_a_trainer_that_is_killed_while_it_sends_them(
    server: Served,
) -> None:
    torch.set_num_threads(1)
    code = LEFT.format(root=str(Path(__file__).parents[2]), url=server.url)
    assert subprocess.run([sys.executable, "-c", code], timeout=120, check=False).returncode == -signal.SIGKILL
    model, tokenizer = build_model(), tiny_tokenizer(ALPHABET, ("<think>", "</think>"))
    engine = VllmEngine(model, tokenizer, max_rows=32, url=server.url, weights="gloo")
    native = NativeEngine(model, tokenizer, max_rows=32)
    requests: list[Any] = [(prompt, GREEDY) for prompt in prompts(model, 24, 3, 300)]
    try:
        for seed in (1, 2):
            perturb(model, seed)
            native.update_weights()
            assert engine.update_weights().gap_mean < 1e-5
            same(engine, native, requests)
        assert_weights_may_come_at_any_time(engine, model)
    finally:
        asyncio.run(engine.close())


def test_a_server_of_two_workers_takes_its_weights_over_the_network_and_goes_on_after_some_that_it_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.set_num_threads(1)
    model, tokenizer = build_model(), tiny_tokenizer(ALPHABET, ("<think>", "</think>"))
    native = NativeEngine(model, tokenizer, max_rows=32)
    requests: list[Any] = [(prompt, GREEDY) for prompt in prompts(model, 16, 3, 300)]
    with serving(tmp_path, "--tensor-parallel-size", "2") as served:
        engine = VllmEngine(model, tokenizer, max_rows=32, url=served.url, weights="gloo")
        try:
            same(engine, native, requests)
            written = engine._folder.write_together

            def damaged(*arguments: Any) -> Any:
                weights = written(*arguments)
                save_file({**load_file(weights.path), "model.norm.weight": torch.ones(7)}, weights.path)
                return weights

            with monkeypatch.context() as inner:
                inner.setattr(engine._folder, "write_together", damaged)
                with pytest.raises(EngineError, match=r"did not take the weights over: .*is that the model that is trained"):
                    engine.update_weights()
            assert httpx.get(f"{served.url}/weight_info").json()["weight_version"].startswith("abandoned-")
            sends = broadcast._broadcast
            for last in (1, 2, 5, 9, 14, 20, 23):  # vLLM forgets to read the second worker's answer to a call that failed
                left = iter(range(last))
                with monkeypatch.context() as inner:
                    inner.setattr(broadcast, "_broadcast", lambda *one, left=left: sends(*one) if next(left, 99) < 99 else 1 / 0)
                    with pytest.raises(EngineError, match="did not take the weights over: taking weights"):
                        engine.update_weights()
            perturb(model, 3)
            native.update_weights()
            assert engine.update_weights().gap_mean < 1e-5
            same(engine, native, requests)
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
