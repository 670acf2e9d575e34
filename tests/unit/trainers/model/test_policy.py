"""Scores of packed rows against what transformers says about each sequence alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers as hf
from torch import Tensor

from rlvr.trainers.model.policy import Layout, Policy

VOCABULARY = 40
LENGTHS = (13, 5, 9, 2, 7, 11)
SIZE: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 32,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def gpt2() -> Any:
    config = hf.GPT2Config(vocab_size=VOCABULARY, n_embd=32, n_layer=2, n_head=2, n_positions=32, bos_token_id=1, eos_token_id=2)
    return hf.GPT2LMHeadModel(config)


def bloom() -> Any:
    return hf.BloomForCausalLM(hf.BloomConfig(vocab_size=VOCABULARY, hidden_size=32, n_layer=2, n_head=2))


MODELS: dict[str, Callable[[], Any]] = {
    "qwen3": lambda: hf.Qwen3ForCausalLM(hf.Qwen3Config(**SIZE, head_dim=16)),
    "llama": lambda: hf.LlamaForCausalLM(hf.LlamaConfig(**SIZE)),
    "gpt2": gpt2,
    "head with logits_scaling": lambda: hf.GraniteForCausalLM(hf.GraniteConfig(**SIZE, logits_scaling=8.0)),
    "head with soft cap": lambda: hf.Gemma2ForCausalLM(hf.Gemma2Config(**SIZE, head_dim=16, final_logit_softcapping=30.0)),
    "window on every layer": lambda: hf.MistralForCausalLM(hf.MistralConfig(**SIZE, sliding_window=4)),
    "window on some layers": lambda: hf.Gemma3ForCausalLM(hf.Gemma3TextConfig(**SIZE, head_dim=16, sliding_window=4)),
    "state across tokens": lambda: hf.Lfm2ForCausalLM(
        hf.Lfm2Config(**SIZE, layer_types=["conv", "full_attention"], block_multiple_of=8)
    ),
    "positions from the mask": bloom,
}
any_model = pytest.mark.parametrize("name", MODELS)


def model_of(name: str, attention: str | None = None) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = MODELS[name]().eval()
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.data *= 4  # a fresh model's logits are nearly flat, which would hide mistakes
    if attention is not None:
        model.set_attn_implementation(attention)
    return model


def batch() -> tuple[Tensor, Tensor, Tensor]:
    draw = torch.Generator().manual_seed(1)
    tokens, mask = (
        torch.zeros(len(LENGTHS), max(LENGTHS), dtype=torch.long),
        torch.zeros(len(LENGTHS), max(LENGTHS), dtype=torch.bool),
    )
    for row, length in enumerate(LENGTHS):
        tokens[row, :length] = torch.randint(3, VOCABULARY, (length,), generator=draw)
        mask[row, max(1, length // 3) : length] = True
    return tokens, torch.tensor(LENGTHS), mask


def groups() -> tuple[Tensor, Tensor, Tensor]:
    """As `batch`, with two prompts of three rollouts each; one rollout goes on after a token that was not sampled."""
    tokens, lengths, mask = batch()
    for first, prompt in ((0, 4), (3, 1)):
        tokens[first : first + 3, :prompt] = tokens[first, :prompt]
        mask[first : first + 3, :prompt] = False
        mask[first : first + 3, prompt] = True
    mask[2, 6] = False
    return tokens, lengths, mask


def one_by_one(model: Any, temperature: float, inputs: tuple[Tensor, Tensor, Tensor] | None = None) -> tuple[Tensor, Tensor]:
    """[B, T] logprobs and entropies from one plain forward pass for each sequence."""
    tokens, lengths, mask = inputs or batch()
    logprobs, entropy = [], []
    for row, length in enumerate(lengths.tolist()):
        logits = model(input_ids=tokens[row : row + 1, :length], use_cache=False).logits[0, :-1].float() / temperature
        distribution = torch.distributions.Categorical(logits=logits)
        padding = (1, tokens.shape[1] - length)
        logprobs.append(torch.nn.functional.pad(distribution.log_prob(tokens[row, 1:length]), padding))
        entropy.append(torch.nn.functional.pad(distribution.entropy(), padding))
    return torch.stack(logprobs) * mask, torch.stack(entropy) * mask


def gradients(model: Any, loss: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@any_model
@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_packed_scores_are_those_of_each_sequence_alone(name: str, temperature: float) -> None:
    model = model_of(name)
    scores = Policy(model).score(*batch(), temperature=temperature, entropy=True)
    logprobs, entropy = one_by_one(model, temperature)
    torch.testing.assert_close(scores.logprobs, logprobs, rtol=1e-4, atol=2e-5)
    torch.testing.assert_close(scores.entropy, entropy, rtol=1e-4, atol=2e-5)


@any_model
def test_packed_gradients_are_those_of_each_sequence_alone(name: str) -> None:
    model = model_of(name)
    weights = torch.linspace(-1, 1, max(LENGTHS))
    scores = Policy(model).score(*batch(), temperature=0.8, entropy=True, entropy_gradient=True)
    assert scores.entropy is not None
    packed = gradients(model, (weights * (scores.logprobs + 0.3 * scores.entropy)).sum())
    logprobs, entropy = one_by_one(model, 0.8)
    alone = gradients(model, (weights * (logprobs + 0.3 * entropy)).sum())
    assert packed.keys() == alone.keys()
    for key, expected in alone.items():
        scale = float(expected.abs().max()) + 1e-3
        torch.testing.assert_close(packed[key] / scale, expected / scale, rtol=0, atol=5e-5, msg=f"gradient of {key}")


@any_model
def test_rollouts_that_share_a_prompt_are_scored_like_each_alone_gradients_included(name: str) -> None:
    model = model_of(name)
    weights = torch.linspace(-1, 1, max(LENGTHS))
    scores = Policy(model).score(*groups(), temperature=0.8)
    logprobs, _ = one_by_one(model, 0.8, groups())
    torch.testing.assert_close(scores.logprobs, logprobs, rtol=1e-4, atol=2e-5)
    shared = gradients(model, (weights * scores.logprobs).sum())
    alone = gradients(model, (weights * one_by_one(model, 0.8, groups())[0]).sum())
    for key, expected in alone.items():
        scale = float(expected.abs().max()) + 1e-3
        torch.testing.assert_close(shared[key] / scale, expected / scale, rtol=0, atol=5e-5, msg=f"gradient of {key}")


@pytest.mark.parametrize(
    ("name", "attention", "layout"),
    [
        ("qwen3", None, Layout.JOINED),
        ("llama", None, Layout.JOINED),
        ("gpt2", None, Layout.JOINED),
        ("qwen3", "eager", Layout.PACKED),
        ("state across tokens", None, Layout.APART),
        ("positions from the mask", None, Layout.APART),
    ],
)
def test_sequences_are_together_as_far_as_the_model_allows(name: str, attention: str | None, layout: Layout) -> None:
    model = model_of(name, attention)
    before = model.config._attn_implementation
    assert Policy(model).layout(max(LENGTHS)) is layout
    assert model.config._attn_implementation == before


def test_sequences_longer_than_a_window_stay_apart() -> None:
    policy = Policy(model_of("window on every layer"))
    assert (policy.layout(4), policy.layout(5)) == (Layout.JOINED, Layout.APART)


@pytest.mark.parametrize("attention", [None, "eager"])
def test_layers_that_are_computed_twice_give_the_same_gradients(attention: str | None) -> None:
    found = []
    for checkpoint_layers in (False, True):
        model = model_of("qwen3", attention)
        policy = Policy(model, checkpoint_layers=checkpoint_layers)
        found.append(gradients(model, policy.score(*groups()).logprobs.square().sum()))
    for key, expected in found[0].items():
        torch.testing.assert_close(found[1][key], expected, rtol=1e-5, atol=1e-6)


def test_attention_is_the_models_own_again_even_after_an_error() -> None:
    model = model_of("qwen3")
    policy = Policy(model)
    tokens, lengths, mask = batch()
    with pytest.raises(IndexError):
        policy.score(tokens + VOCABULARY, lengths, mask)
    assert model.config._attn_implementation == "sdpa"
    torch.testing.assert_close(policy.score(tokens, lengths, mask).logprobs, one_by_one(model, 1.0)[0], rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("entropy_gradient", [False, True])
@pytest.mark.parametrize("name", ["qwen3", "head with soft cap"])
def test_logits_in_chunks_give_the_same_scores_and_gradients(name: str, *, entropy_gradient: bool) -> None:
    model = model_of(name)
    found = []
    for keep_logits in (1 << 30, 3 * 2 * VOCABULARY):  # at once; three tokens at a time
        policy = Policy(model, keep_logits=keep_logits)
        scores = policy.score(*batch(), temperature=0.7, entropy=True, entropy_gradient=entropy_gradient)
        assert scores.entropy is not None
        assert scores.entropy.requires_grad == entropy_gradient
        found.append((scores, gradients(model, (scores.logprobs.square() + scores.entropy).sum())))
    (whole, whole_gradient), (parts, parts_gradient) = found
    torch.testing.assert_close(parts.logprobs, whole.logprobs)
    torch.testing.assert_close(parts.entropy, whole.entropy)
    for key, expected in whole_gradient.items():
        torch.testing.assert_close(parts_gradient[key], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["qwen3", "gpt2"])
def test_eager_attention_gives_the_same_scores(name: str) -> None:
    plain = Policy(model_of(name)).score(*batch())
    eager = Policy(model_of(name, attention="eager")).score(*batch())
    torch.testing.assert_close(eager.logprobs, plain.logprobs, rtol=1e-4, atol=1e-5)


def test_bf16_scores_are_near_and_have_gradients() -> None:
    model = model_of("llama")
    exact = Policy(model).score(*batch()).logprobs.detach()
    rough = Policy(model, autocast=torch.bfloat16).score(*batch()).logprobs
    assert rough.dtype == torch.float32
    assert float((rough.detach() - exact).abs().mean()) < 0.05
    rough.sum().backward()  # type: ignore[no-untyped-call]
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in model.parameters())
    in_chunks = Policy(model, autocast=torch.bfloat16, keep_logits=3 * 2 * VOCABULARY).score(*batch()).logprobs
    torch.testing.assert_close(in_chunks, rough, rtol=0, atol=1e-5)


def test_tokens_outside_the_mask_get_no_score_and_no_gradient() -> None:
    model = model_of("qwen3")
    tokens, lengths, mask = batch()
    scores = Policy(model).score(tokens, lengths, torch.zeros_like(mask), entropy=True)
    assert scores.entropy is not None
    assert not scores.logprobs.any()
    assert not scores.entropy.any()
    scores = Policy(model).score(tokens, lengths, mask)
    assert not scores.logprobs[~mask].any()


def test_what_follows_a_sequence_in_its_row_changes_nothing() -> None:
    model = model_of("qwen3")
    tokens, lengths, mask = batch()
    before = Policy(model).score(tokens, lengths, mask).logprobs
    tokens[1:] = (tokens[1:] + 1) % VOCABULARY
    after = Policy(model).score(tokens, lengths, mask).logprobs
    torch.testing.assert_close(after[0], before[0])
    assert not torch.allclose(after[1:], before[1:])


def test_entropy_carries_a_gradient_only_when_asked() -> None:
    policy = Policy(model_of("qwen3"))
    assert not policy.score(*batch(), entropy=True).entropy.requires_grad  # type: ignore[union-attr]
    assert policy.score(*batch(), entropy=True, entropy_gradient=True).entropy.requires_grad  # type: ignore[union-attr]
    assert policy.score(*batch()).entropy is None


def test_wrapping_a_model_leaves_its_mode_and_hooks_alone() -> None:
    model = model_of("qwen3").train()
    Policy(model)
    assert model.training
    assert not model.get_output_embeddings()._forward_hooks
