from __future__ import annotations

import pytest
import torch
from transformers import MinPLogitsWarper, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from rlvr.engines.sampler import SamplingColumns, mixed, sample, uniforms


def columns(rows: int, temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0, min_p: float = 0.0) -> SamplingColumns:
    is_truncated = temperature > 0 and (top_k > 0 or top_p < 1 or min_p > 0)
    return SamplingColumns(
        temperature=torch.full((rows,), temperature),
        top_k=torch.full((rows,), float(top_k), dtype=torch.float64),
        top_p=torch.full((rows,), top_p, dtype=torch.float64),
        min_p=torch.full((rows,), min_p),
        truncated=torch.arange(rows) if is_truncated else None,
        has_greedy=temperature == 0,
        has_temperature=temperature not in (0.0, 1.0),
    )


def random_logits(rows: int, vocabulary: int, scale: float = 3.0) -> torch.Tensor:
    return torch.randn(rows, vocabulary, generator=torch.Generator().manual_seed(vocabulary)) * scale


def test_the_hash_is_splitmix64() -> None:
    # The first outputs of the reference generator from state 1234567, https://prng.di.unimi.it/splitmix64.c
    expected = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431, 16408922859458223821]
    golden = 0x9E3779B97F4A7C15 - 2**64
    states = 1234567 + torch.arange(1, 6) * golden
    assert [value % 2**64 for value in mixed(states).tolist()] == expected


def test_uniforms_depend_on_seed_and_position_alone_and_fill_the_unit_interval() -> None:
    seeds, positions = torch.meshgrid(torch.arange(200), torch.arange(500), indexing="ij")
    drawn = uniforms(mixed(seeds.reshape(-1)), positions.reshape(-1))
    assert drawn.min() >= 0
    assert drawn.max() < 1
    assert drawn.unique().numel() == drawn.numel()
    counts = torch.histc(drawn, bins=100, min=0, max=1)
    assert (counts - 1000).abs().max() < 160  # five standard deviations
    grid = drawn.view(200, 500)
    for shifted in (grid[1:] * grid[:-1], grid[:, 1:] * grid[:, :-1]):  # neighbours in seed and in position
        assert abs(float(shifted.mean()) - 0.25) < 0.005
    assert torch.equal(uniforms(mixed(torch.tensor([7])), torch.tensor([3])), grid[7, 3:4])


@pytest.mark.parametrize("vocabulary", [5, 511, 2048, 2049, 5000, 30720])
def test_the_token_is_where_the_cumulative_probability_passes_the_uniform(vocabulary: int) -> None:
    rows = 300
    logits = random_logits(rows, vocabulary)
    uniform = uniforms(torch.arange(rows), torch.zeros(rows, dtype=torch.long))
    tokens, logprobs = sample(logits, columns(rows), uniform)
    cumulative = logits.double().softmax(-1).cumsum(-1)
    after = cumulative.gather(1, tokens[:, None])[:, 0]
    before = after - logits.double().softmax(-1).gather(1, tokens[:, None])[:, 0]
    assert bool(((before - 1e-6 <= uniform) & (uniform <= after + 1e-6)).all())
    expected = logits.log_softmax(-1).gather(1, tokens[:, None])[:, 0]
    torch.testing.assert_close(logprobs, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("vocabulary", [6, 3000])
def test_tokens_come_as_often_as_the_distribution_says(vocabulary: int) -> None:
    draws = 20_000
    logits = torch.full((1, vocabulary), -torch.inf)
    chosen = torch.tensor([0, vocabulary // 3, vocabulary // 2, vocabulary - 1])
    probs = torch.tensor([0.1, 0.2, 0.3, 0.4])
    logits[0, chosen] = probs.log()
    uniform = uniforms(mixed(torch.arange(draws)), torch.full((draws,), 5))
    tokens, _ = sample(logits.expand(draws, -1), columns(draws), uniform)
    frequencies = torch.stack([(tokens == token).float().mean() for token in chosen])
    assert float(frequencies.sum()) == 1.0
    torch.testing.assert_close(frequencies, probs, atol=0.018, rtol=0)  # five standard deviations


@pytest.mark.parametrize("vocabulary", [40, 3000])
def test_a_token_without_probability_is_never_drawn_at_either_end(vocabulary: int) -> None:
    logits = torch.full((2, vocabulary), -torch.inf)
    logits[:, 7:30] = 0.0
    tokens, _ = sample(logits, columns(2), torch.tensor([0.0, 1.0 - 2.0**-53], dtype=torch.float64))
    assert tokens.tolist() == [7, 29]


@pytest.mark.parametrize("vocabulary", [20, 3000])
@pytest.mark.parametrize(
    ("temperature", "top_k", "top_p", "min_p"),
    [
        (0.7, 0, 1.0, 0.0),
        (1.0, 5, 1.0, 0.0),
        (1.0, 0, 0.8, 0.0),
        (1.0, 0, 1.0, 0.1),
        (1.5, 12, 0.9, 0.05),
        (0.6, 10_000, 0.1, 0.9),
    ],
)
def test_truncation_is_that_of_transformers(vocabulary: int, temperature: float, top_k: int, top_p: float, min_p: float) -> None:
    rows = 60
    logits = random_logits(rows, vocabulary)
    expected = TemperatureLogitsWarper(temperature)(None, logits)
    if top_k:
        expected = TopKLogitsWarper(top_k)(None, expected)
    if top_p < 1:
        expected = TopPLogitsWarper(top_p)(None, expected)
    if min_p:
        expected = MinPLogitsWarper(min_p)(None, expected)
    uniform = uniforms(mixed(torch.arange(rows)), torch.arange(rows))
    tokens, logprobs = sample(logits, columns(rows, temperature, top_k, top_p, min_p), uniform)
    torch.testing.assert_close(logprobs, expected.log_softmax(-1).gather(1, tokens[:, None])[:, 0], atol=1e-5, rtol=1e-5)
    plain, _ = sample(expected, columns(rows), uniform)
    assert torch.equal(tokens, plain)


def test_truncating_some_rows_leaves_the_tokens_of_the_others() -> None:
    logits = random_logits(6, 50)
    uniform = uniforms(mixed(torch.arange(6)), torch.zeros(6, dtype=torch.long))
    some = columns(6, top_k=3)
    some = SamplingColumns(some.temperature, some.top_k, some.top_p, some.min_p, torch.tensor([1, 4]), False, False)
    tokens, logprobs = sample(logits, some, uniform)
    plain_tokens, plain_logprobs = sample(logits, columns(6), uniform)
    others = torch.tensor([0, 2, 3, 5])
    assert torch.equal(tokens[others], plain_tokens[others])
    assert torch.equal(logprobs[others], plain_logprobs[others])


def test_greedy_takes_the_largest_logit_and_records_the_plain_log_softmax() -> None:
    logits = random_logits(8, 30)
    tokens, logprobs = sample(logits, columns(8, temperature=0.0, top_k=1), torch.full((8,), 0.9, dtype=torch.float64))
    assert torch.equal(tokens, logits.argmax(-1))
    torch.testing.assert_close(logprobs, logits.log_softmax(-1).amax(-1), atol=1e-6, rtol=1e-6)


def test_nan_logits_give_a_nan_logprob_in_their_row_only() -> None:
    logits = random_logits(3, 30)
    logits[1, 4] = torch.nan
    _, logprobs = sample(logits, columns(3), torch.full((3,), 0.5, dtype=torch.float64))
    assert logprobs.isnan().tolist() == [False, True, False]
