"""The colocated vLLM: what it samples, the weights it samples with, and what happens when it dies."""

from __future__ import annotations

import asyncio
import math
import os
import signal
import time
from dataclasses import replace
from typing import Any

import pytest
import torch

from rlvr.engines.vllm import transfer
from rlvr.errors import ContextFullError, EngineError
from rlvr.types import FinishReason, Sampling

from .conftest import Pair, assert_weights_may_come_at_any_time, generate, perturb, prompts, together

GREEDY = Sampling(max_tokens=24, temperature=0.0)


def difference(ours: Any, theirs: Any) -> float:
    return max(
        abs(a - b) for one, other in zip(ours, theirs, strict=True) for a, b in zip(one.logprobs, other.logprobs, strict=True)
    )


def agree(pair: Pair, requests: Any) -> None:
    ours, theirs = generate(pair.vllm, requests), generate(pair.native, requests)
    assert [answer.token_ids for answer in ours] == [answer.token_ids for answer in theirs]
    assert [answer.finish_reason for answer in ours] == [answer.finish_reason for answer in theirs]
    assert difference(ours, theirs) < 1e-4


def test_greedy_answers_are_those_of_the_native_engine_token_for_token(pair: Pair) -> None:
    assert pair.vllm.start_gap.mean < 1e-5
    agree(pair, [(prompt, GREEDY) for prompt in prompts(pair.model, 40, 3, 400)])


def test_an_update_brings_the_policys_present_weights_and_counts_one_version(pair: Pair) -> None:
    requests = [(prompt, GREEDY) for prompt in prompts(pair.model, 12)]
    before, version = generate(pair.vllm, requests), pair.vllm.policy_version
    perturb(pair.model, 1)
    update = pair.update()
    assert 0 < update.gap_mean <= update.gap_max < 1e-4
    after = generate(pair.vllm, requests)
    assert [answer.token_ids for answer in before] != [answer.token_ids for answer in after]
    agree(pair, requests)
    assert {answer.policy_version for answer in before} == {version}
    assert {answer.policy_version for answer in after} == {version + 1}


def test_prompts_that_were_answered_before_an_update_are_read_again_after_it(pair: Pair) -> None:
    requests = [(prompt, GREEDY) for prompt in prompts(pair.model, 4, 300, 400)]  # longer than a block of the prefix cache
    agree(pair, requests)
    perturb(pair.model, 2)
    pair.update()
    agree(pair, requests)


def test_a_prefix_cache_that_outlives_an_update_is_found_out(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    generate(pair.vllm, [(prompt, GREEDY) for prompt in prompts(pair.model, 4, 300, 400)])
    perturb(pair.model, 3, size=0.1)

    async def nothing(*_: Any, **__: Any) -> bool:
        return True

    with monkeypatch.context() as patch:
        patch.setattr(asynchronous_llm(pair), "reset_prefix_cache", nothing)
        with pytest.raises(EngineError, match=r"does not compute what the trainer's model computes.*prefix cache"):
            pair.vllm.update_weights()


def test_one_tensor_that_stays_behind_is_found_out(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    llm = asynchronous_llm(pair)
    stale = pair.model.model.layers[1].self_attn.o_proj.weight.detach().clone()
    perturb(pair.model, 4)
    fresh = pair.model.model.layers[1].self_attn.o_proj.weight.detach().clone()
    finish = llm.finish_weight_update

    async def finished_on_fresh(*arguments: Any) -> None:
        await finish(*arguments)
        with torch.no_grad():  # only now does the trainer's model get what the file should have had
            pair.model.model.layers[1].self_attn.o_proj.weight.copy_(fresh)

    with torch.no_grad():
        pair.model.model.layers[1].self_attn.o_proj.weight.copy_(stale)
    with monkeypatch.context() as patch:
        patch.setattr(llm, "finish_weight_update", finished_on_fresh)
        with pytest.raises(EngineError, match=r"differ by .* on average .*engine\.args\.gap_limit = 0\.001"):
            pair.vllm.update_weights()


def test_equal_seeds_give_equal_tokens_whatever_else_is_sampled(pair: Pair) -> None:
    prompt = prompts(pair.model, 1)[0]
    sampling = Sampling(max_tokens=20, seed=2**62 + 5)
    [alone] = generate(pair.vllm, [(prompt, sampling)])
    others = [(other, replace(sampling, seed=index)) for index, other in enumerate(prompts(pair.model, 20))]
    first, other_seed, again, *_ = generate(
        pair.vllm, [(prompt, sampling), (prompt, replace(sampling, seed=6)), (prompt, sampling), *others]
    )
    assert alone.token_ids == first.token_ids == again.token_ids
    assert other_seed.token_ids != first.token_ids


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(40, temperature=1.0, seed=1),
        Sampling(40, temperature=0.6, seed=2),
        Sampling(40, temperature=1.7, top_k=4, seed=3),
        Sampling(40, temperature=1.3, top_p=0.7, seed=4),
        Sampling(40, temperature=2.0, min_p=0.2, seed=5),
    ],
)
def test_logprobs_are_those_of_the_distribution_that_was_sampled_from(pair: Pair, sampling: Sampling) -> None:
    prompt = prompts(pair.model, 1)[0]
    [answer] = generate(pair.vllm, [(prompt, sampling)])
    ids = torch.tensor([[*prompt, *answer.token_ids]])
    with torch.no_grad():
        logits = pair.model(ids).logits[0, len(prompt) - 1 : -1] / sampling.temperature
    expected = [truncated(row, sampling)[token] for row, token in zip(logits, answer.token_ids, strict=True)]
    assert torch.tensor(answer.logprobs).allclose(torch.stack(expected), atol=1e-4)
    if sampling.temperature != 1.0:
        plain = (logits * sampling.temperature).log_softmax(-1)
        assert not torch.tensor(answer.logprobs).allclose(plain.gather(-1, ids[0, len(prompt) :, None])[:, 0], atol=0.05)


def truncated(logits: torch.Tensor, sampling: Sampling) -> torch.Tensor:
    """Logprobs after top_k, top_p and min_p, by their definitions, over one row of logits with the temperature in them."""
    if sampling.top_k:
        logits = logits.masked_fill(logits < logits.topk(sampling.top_k).values[-1], -math.inf)
    probabilities, order = logits.softmax(-1).sort(descending=True)
    kept = probabilities.cumsum(0) - probabilities < sampling.top_p
    kept &= probabilities >= sampling.min_p * probabilities[0]
    return logits.masked_fill(~torch.zeros_like(kept).scatter(0, order, kept), -math.inf).log_softmax(-1)


def test_an_answer_ends_with_its_stop_string_or_its_end_token_which_it_keeps(pair: Pair) -> None:
    requests = [(prompt, replace(GREEDY, max_tokens=200)) for prompt in prompts(pair.model, 20)]
    texts = [pair.tokenizer.decode(answer.token_ids) for answer in generate(pair.vllm, requests)]
    stops = (texts[0][5:7], texts[1][8:11], "</think>")
    stopped = [(prompt, replace(sampling, stop=stops)) for prompt, sampling in requests]
    agree(pair, stopped)
    answers = generate(pair.vllm, stopped)
    assert answers[0].finish_reason is FinishReason.STOP
    assert any(pair.tokenizer.decode(answers[0].token_ids).endswith(stop) for stop in stops)
    sampled = generate(pair.vllm, [(prompt, Sampling(300, temperature=2.0, seed=i)) for i, (prompt, _) in enumerate(requests)])
    ended = [answer for answer in sampled if answer.finish_reason is FinishReason.STOP]
    assert ended
    assert all(answer.token_ids[-1] == 1 and 1 not in answer.token_ids[:-1] for answer in ended)


def test_more_prompts_at_once_than_one_forward_pass_takes_are_read_with_their_seeds(pair: Pair) -> None:
    many = prompts(pair.model, 48, 200, 400)
    requests = [(prompt, Sampling(8, seed=index)) for index, prompt in enumerate(many)]
    assert sum(map(len, many)) > 2 * 4096
    together, alone = generate(pair.vllm, requests), generate(pair.vllm, requests[-1:])
    assert together[-1].token_ids == alone[0].token_ids
    assert pair.vllm.restarts == 0


def test_prompts_and_settings_that_cannot_be_served_are_refused_like_the_native_engine_does(pair: Pair) -> None:
    for engine in (pair.vllm, pair.native):
        with pytest.raises(ContextFullError, match="the prompt has 512 tokens, but the context holds 512"):
            generate(engine, [([3] * 512, GREEDY)])
        with pytest.raises(EngineError, match="token id 9999 in the prompt"):
            generate(engine, [([9999], GREEDY)])
        with pytest.raises(EngineError, match="top_p = 0"):
            generate(engine, [([3], replace(GREEDY, top_p=0.0))])
    [last] = generate(pair.vllm, [([3] * 511, replace(GREEDY, max_tokens=9))])
    assert len(last.token_ids) == 1
    with pytest.raises(EngineError, match=r"temperature = 0\.001, but vLLM samples at 0\.01"):
        generate(pair.vllm, [([3], replace(GREEDY, temperature=0.001))])


def test_a_cancelled_request_leaves_vllm_at_once(pair: Pair) -> None:
    async def cancel() -> None:
        long = [(prompt, Sampling(480, temperature=0.0)) for prompt in prompts(pair.model, 8, 3, 9)]
        task = asyncio.create_task(together(pair.vllm, long))
        while not asynchronous_llm(pair).get_num_unfinished_requests():
            await asyncio.sleep(0.001)
        with pytest.raises(EngineError, match="weights cannot change while 8 requests are in flight"):
            pair.vllm.update_weights()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        deadline = time.monotonic() + 120
        while asynchronous_llm(pair).get_num_unfinished_requests():
            assert time.monotonic() < deadline
            await asyncio.sleep(0.01)

    asyncio.run(cancel())
    agree(pair, [(prompts(pair.model, 1)[0], GREEDY)])


def test_an_engine_that_dies_is_started_again_with_the_present_weights_and_asked_again(pair: Pair) -> None:
    perturb(pair.model, 5)
    pair.update()
    requests = [(prompt, replace(GREEDY, max_tokens=100)) for prompt in prompts(pair.model, 24)]
    expected = generate(pair.native, requests)

    async def kill() -> list[Any]:
        task = asyncio.create_task(together(pair.vllm, requests))
        while not asynchronous_llm(pair).get_num_unfinished_requests():
            await asyncio.sleep(0.001)
        os.kill(replica(pair).processes[0], signal.SIGKILL)
        return await task

    answers = asyncio.run(kill())
    assert pair.vllm.restarts == 1
    assert [answer.token_ids for answer in answers] == [answer.token_ids for answer in expected]
    assert pair.update().restarts == 1


def replica(pair: Pair) -> Any:
    return pair.vllm._pool._members[0].replica


def asynchronous_llm(pair: Pair) -> Any:
    """vLLM's own engine, to look at and to sabotage."""
    return replica(pair)._engine


def test_weights_that_come_while_it_samples_are_used_from_the_next_token_on_and_every_token_names_its_own(pair: Pair) -> None:
    assert_weights_may_come_at_any_time(pair.vllm, pair.model)
    pair.native.update_weights()
    agree(pair, [(prompt, GREEDY) for prompt in prompts(pair.model, 8)])  # no cache of before is read


def test_weights_can_go_through_the_trainers_side_of_one_of_vllms_backends(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that need no file need a GPU; a stand-in that needs none is driven the same way, against the same engine."""
    from . import stand_in

    monkeypatch.setitem(transfer.TRAINER_SIDES, "stand_in", f"{stand_in.__name__}:InitInfo")

    async def send() -> None:
        sender = replica(pair).sender("stand_in")
        await asyncio.to_thread(sender.send)
        await asynchronous_llm(pair).reset_prefix_cache()

    perturb(pair.model, 6)
    before = generate(pair.vllm, [(prompts(pair.model, 1)[0], GREEDY)])
    pair.vllm._thread.run(send())
    pair.native.update_weights()
    assert stand_in.rounds == ["init", "start", "update", "finish"]
    agree(pair, [(prompt, GREEDY) for prompt in prompts(pair.model, 12)])
    assert generate(pair.vllm, [(prompts(pair.model, 1)[0], GREEDY)])[0].logprobs != before[0].logprobs
