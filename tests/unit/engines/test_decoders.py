"""Each decoder against the model's own forward pass."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Literal

import pytest
import torch
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    GraniteConfig,
    GraniteForCausalLM,
    Lfm2Config,
    Lfm2ForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from rlvr import seeding
from rlvr.engines.native import NativeEngine
from rlvr.types import Completion, Sampling

VOCABULARY = 40
SHAPE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "initializer_range": 0.3,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": 0,
}


def build(family: str) -> Any:
    torch.manual_seed(0)
    match family:
        case "qwen3":
            model = Qwen3ForCausalLM(Qwen3Config(**SHAPE, head_dim=16, tie_word_embeddings=True))
        case "qwen2":
            model = Qwen2ForCausalLM(Qwen2Config(**SHAPE, tie_word_embeddings=False))
        case "llama":
            model = LlamaForCausalLM(LlamaConfig(**SHAPE, rope_parameters=LLAMA3_ROPE, attention_bias=True))
        case "mistral":
            model = MistralForCausalLM(MistralConfig(**SHAPE, sliding_window=8))
        case "granite":
            model = GraniteForCausalLM(GraniteConfig(**SHAPE, embedding_multiplier=3.0))
        case "lfm2":
            model = Lfm2ForCausalLM(Lfm2Config(**SHAPE, layer_types=["conv", "full_attention"]))
        case "mamba":
            model = MambaForCausalLM(
                MambaConfig(
                    vocab_size=VOCABULARY, hidden_size=16, state_size=4, num_hidden_layers=1, bos_token_id=None, eos_token_id=None
                )
            )
        case "gpt2":
            model = GPT2LMHeadModel(
                GPT2Config(
                    vocab_size=VOCABULARY,
                    n_positions=128,
                    n_embd=32,
                    n_layer=2,
                    n_head=2,
                    initializer_range=0.3,
                    bos_token_id=None,
                    eos_token_id=None,
                )
            )
    for parameter in model.parameters():  # biases start at zero, which would hide that they are left out
        if parameter.dim() == 1:
            torch.nn.init.normal_(parameter, mean=float(parameter.detach().mean()), std=0.2)
    return model.eval()


LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
DECODERS = {"qwen3": "llama", "qwen2": "llama", "llama": "llama", "gpt2": "generic"}


def prompts(count: int, shortest: int = 3, longest: int = 9) -> list[list[int]]:
    rng = seeding.rng("prompts", count)
    return [[rng.randrange(VOCABULARY) for _ in range(rng.randint(shortest, longest))] for _ in range(count)]


async def together(engine: NativeEngine, requests: Sequence[tuple[Sequence[int], Sampling]]) -> list[Completion]:
    return await asyncio.gather(*[engine.generate(prompt, sampling) for prompt, sampling in requests])


def generate(engine: NativeEngine, requests: Sequence[tuple[Sequence[int], Sampling]]) -> list[Completion]:
    return asyncio.run(together(engine, requests))


def logprobs_of(model: Any, prompt: Sequence[int], completion: Completion, temperature: float = 1.0) -> torch.Tensor:
    tokens = torch.tensor([[*prompt, *completion.token_ids]])
    with torch.no_grad():
        logits = model(input_ids=tokens).logits[0, len(prompt) - 1 : -1] / temperature
    return logits.log_softmax(-1).gather(1, torch.tensor(completion.token_ids)[:, None])[:, 0]


@pytest.mark.parametrize("family", DECODERS)
def test_greedy_tokens_are_those_of_transformers_generate(family: str) -> None:
    model = build(family)
    engine = NativeEngine(model, None)
    assert engine.decoder_name == DECODERS[family]
    questions = prompts(6)
    ours = generate(engine, [(prompt, Sampling(max_tokens=20, temperature=0.0)) for prompt in questions])
    for prompt, completion in zip(questions, ours, strict=True):
        tokens = torch.tensor([prompt])
        expected = model.generate(
            tokens, attention_mask=torch.ones_like(tokens), max_new_tokens=20, do_sample=False, pad_token_id=0
        )
        assert list(completion.token_ids) == expected[0, len(prompt) :].tolist()


@pytest.mark.parametrize("family", DECODERS)
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_logprobs_are_those_of_a_plain_forward_pass(family: str, temperature: float) -> None:
    model = build(family)
    questions = prompts(5)
    requests = [(p, Sampling(max_tokens=15, temperature=temperature, seed=i)) for i, p in enumerate(questions)]
    for prompt, completion in zip(questions, generate(NativeEngine(model, None), requests), strict=True):
        expected = logprobs_of(model, prompt, completion, temperature)
        torch.testing.assert_close(torch.tensor(completion.logprobs), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("family", DECODERS)
def test_a_rollout_does_not_depend_on_what_else_is_in_the_batch(family: str) -> None:
    model = build(family)
    rng = seeding.rng("lengths")
    requests = [(p, Sampling(max_tokens=rng.randint(1, 40), seed=i)) for i, p in enumerate(prompts(64))]
    alone = [generate(NativeEngine(model, None), [request])[0] for request in requests[:6]]
    for max_rows in (64, 7, 3):
        crowded = generate(NativeEngine(model, None, max_rows=max_rows), requests)
        for one, other in zip(alone, crowded[:6], strict=True):
            assert one.token_ids == other.token_ids
            torch.testing.assert_close(torch.tensor(one.logprobs), torch.tensor(other.logprobs), atol=1e-5, rtol=0)


@pytest.mark.parametrize("family", DECODERS)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_an_update_of_any_weight_is_seen(family: str, precision: Literal["fp32", "bf16"]) -> None:
    model = build(family)
    engine = NativeEngine(model, None, precision=precision)
    request = (prompts(1)[0], Sampling(max_tokens=1, temperature=0.0))
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        [before] = generate(engine, [request])
        with torch.no_grad():
            parameter.add_(torch.randn(parameter.shape, generator=generator))
        version = engine.policy_version
        engine.update_weights()
        [after] = generate(engine, [request])
        assert after.policy_version == version + 1
        # A constant added to every key of a head leaves the attention as it was.
        assert after.logprobs != before.logprobs or "k_proj.bias" in name
        if precision == "fp32":
            expected = logprobs_of(model, request[0], after)
            torch.testing.assert_close(torch.tensor(after.logprobs), expected, atol=1e-3, rtol=1e-3)


def test_generation_leaves_the_trainers_model_as_it_was() -> None:
    for family in ("qwen3", "gpt2"):
        model = build(family).train()
        before = {name: value.clone() for name, value in model.state_dict().items()}
        generate(NativeEngine(model, None), [([1, 2, 3], Sampling(max_tokens=5))])
        assert model.training
        for name, value in model.state_dict().items():
            assert torch.equal(value, before[name])
        model(input_ids=torch.tensor([[1, 2, 3]])).logits.sum().backward()  # no inference tensors were left in it


def test_bf16_stays_close_to_fp32_and_leaves_the_master_weights() -> None:
    model = build("qwen3")
    engine = NativeEngine(model, None, precision="bf16")
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    prompt = prompts(1)[0]
    [completion] = generate(engine, [(prompt, Sampling(max_tokens=20, seed=1))])
    gap = (torch.tensor(completion.logprobs) - logprobs_of(model, prompt, completion)).abs()
    assert 0 < gap.mean() < 0.2


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")  # peft asks transformers
def test_lora_adapters_are_merged_into_the_engines_copies() -> None:
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(build("qwen3"), LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False))
    engine = NativeEngine(model, None)
    assert engine.decoder_name == "llama"
    prompt = prompts(1)[0]
    for _ in range(2):
        [completion] = generate(engine, [(prompt, Sampling(max_tokens=10, seed=1))])
        expected = logprobs_of(model, prompt, completion)
        torch.testing.assert_close(torch.tensor(completion.logprobs), expected, atol=1e-4, rtol=1e-4)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "lora_B" in name:
                    parameter.mul_(-0.5)
        engine.update_weights()


def test_large_fp32_models_share_their_weights_instead_of_fusing_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rlvr.engines.weights._FUSE_BELOW", 0)
    model = build("qwen2")
    engine = NativeEngine(model, None)
    layer = engine._decoder._weights.layers[0]  # type: ignore[attr-defined]
    assert layer.qkv.weights[0].data_ptr() == model.model.layers[0].self_attn.q_proj.weight.data_ptr()
    prompt = prompts(1)[0]
    [completion] = generate(engine, [(prompt, Sampling(max_tokens=10))])
    expected = logprobs_of(model, prompt, completion)
    torch.testing.assert_close(torch.tensor(completion.logprobs), expected, atol=1e-4, rtol=0)


def test_a_model_that_only_looks_like_llama_is_told_by_its_logits() -> None:
    model = build("granite")
    assert NativeEngine(model, None).decoder_name == "generic"


@pytest.mark.parametrize("family", ["mamba", "lfm2"])
def test_a_model_whose_cache_is_unknown_is_run_without_one(family: str) -> None:
    model = build(family)
    engine = NativeEngine(model, None)
    assert engine.decoder_name == "generic-uncached"
    requests = [(p, Sampling(max_tokens=6, seed=i)) for i, p in enumerate(prompts(3, 5, 5))]
    for (prompt, _), completion in zip(requests, generate(engine, requests), strict=True):
        expected = logprobs_of(model, prompt, completion)
        torch.testing.assert_close(torch.tensor(completion.logprobs), expected, atol=1e-4, rtol=0)


def test_a_sliding_window_shorter_than_the_context_takes_the_models_own_forward_pass() -> None:
    model = build("mistral")
    assert NativeEngine(model, None, max_context=8).decoder_name == "llama"
    engine = NativeEngine(model, None)
    assert engine.decoder_name == "generic"
    requests = [(p, Sampling(max_tokens=20, seed=i)) for i, p in enumerate(prompts(4))]
    for (prompt, _), completion in zip(requests, generate(engine, requests), strict=True):
        expected = logprobs_of(model, prompt, completion)
        torch.testing.assert_close(torch.tensor(completion.logprobs), expected, atol=1e-4, rtol=0)
