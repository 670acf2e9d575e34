"""Recorded decoding steps and the native engine on a GPU, with random weights."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest
import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from rlvr import seeding
from rlvr.engines.decoder import LlamaDecoder
from rlvr.engines.graphs import CudaRecorder
from rlvr.engines.native import NativeEngine
from rlvr.types import Completion, Sampling

VOCABULARY, CONTEXT = 512, 1200


def build(device: torch.device) -> Any:
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=VOCABULARY,
        hidden_size=256,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=64,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=None,
    )
    with device:
        return Qwen3ForCausalLM(config).eval()


class Unrecorded:
    """Runs the work again at every step, on the same fixed places."""

    def record(self, work: Any) -> Any:
        return work

    def forget(self) -> None: ...


@torch.no_grad()
def logits_of(one: LlamaDecoder, device: torch.device) -> list[torch.Tensor]:
    rng = seeding.rng("decoding on a GPU")
    lengths = [9, 4, 250, 13, 40]
    prompts = [[rng.randrange(VOCABULARY) for _ in range(length)] for length in lengths]
    found = [one.prefill(0, prompts, list(range(5)), [600] * 5)]
    for step in range(30):
        if step == 15:
            one.move([4], [2], 4, max(lengths))
            lengths[2] = lengths.pop()
        lengths = [length + 1 for length in lengths]
        tokens = torch.tensor([rng.randrange(VOCABULARY) for _ in lengths], device=device)
        found.append(one.decode(tokens, max(lengths)).clone())
    return found


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_graph_gives_what_its_kernels_give_one_by_one(
    device: torch.device, dtype: torch.dtype, caplog: pytest.LogCaptureFixture
) -> None:
    model = build(device)
    with caplog.at_level(logging.WARNING):
        recorded = LlamaDecoder(model, dtype=dtype, max_context=CONTEXT, recorder=CudaRecorder(device))
        found = logits_of(recorded, device)
    assert not caplog.records, "a step could not be recorded"
    assert len(recorded._steps) > 0
    expected = logits_of(LlamaDecoder(model, dtype=dtype, max_context=CONTEXT, recorder=Unrecorded()), device)
    for ours, theirs in zip(found, expected, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-4 if dtype is torch.float32 else 0.05)


def test_graphs_follow_new_weights_and_a_cache_that_was_given_back(device: torch.device) -> None:
    model = build(device)
    one = LlamaDecoder(model, dtype=torch.bfloat16, max_context=CONTEXT)
    logits_of(one, device)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.02)
    one.refresh()
    one.clear()  # the pool of the first graphs ends here, and another one begins
    found = logits_of(one, device)
    expected = logits_of(LlamaDecoder(model, dtype=torch.bfloat16, max_context=CONTEXT, recorder=Unrecorded()), device)
    for ours, theirs in zip(found, expected, strict=True):
        assert torch.allclose(ours, theirs, atol=0.05)


def test_the_engine_runs_its_own_decoder_and_greedy_tokens_are_the_models(device: torch.device) -> None:
    model = build(device)
    engine = NativeEngine(model, None, max_rows=64)
    assert engine.decoder_name == "llama"
    rng = seeding.rng("greedy on a GPU")
    prompts = [[rng.randrange(VOCABULARY) for _ in range(rng.randrange(4, 60))] for _ in range(48)]

    async def everything() -> list[Completion]:
        asked = (engine.generate(prompt, Sampling(max_tokens=40, temperature=0.0)) for prompt in prompts)
        return await asyncio.gather(*asked)

    agree = total = 0
    for prompt, completion in zip(prompts, asyncio.run(everything()), strict=True):
        ids = torch.tensor([[*prompt, *completion.token_ids]], device=device)
        with torch.no_grad():
            best = model(ids, use_cache=False).logits[0, len(prompt) - 1 : -1].argmax(-1).tolist()
        agree += sum(a == b for a, b in zip(best, completion.token_ids, strict=True))
        total += len(best)
    assert agree / total > 0.99  # ties of random weights may fall either way


def test_the_memory_of_a_cache_comes_back(device: torch.device) -> None:
    engine = NativeEngine(build(device), None, max_rows=256, precision="bf16")
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated(device)

    async def everything() -> None:
        await asyncio.gather(*(engine.generate([1, 2, 3], Sampling(max_tokens=1000, seed=seed)) for seed in range(256)))
        await engine.close()

    asyncio.run(everything())
    assert torch.cuda.memory_allocated(device) <= before + 2**24
