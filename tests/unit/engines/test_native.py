"""The engine's scheduling: batching, stops, limits, errors, event loops. All on a tiny Qwen3."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch

from rlvr import seeding
from rlvr.engines.native import NativeEngine
from rlvr.errors import ContextFullError, EngineError
from rlvr.types import Completion, FinishReason, Sampling

from ...tiny_qwen import tiny_qwen

VOCABULARY = 40


def build() -> Any:
    return tiny_qwen(vocabulary=VOCABULARY)


def prompts(count: int, shortest: int = 3, longest: int = 9) -> list[list[int]]:
    rng = seeding.rng("prompts", count)
    return [[rng.randrange(VOCABULARY) for _ in range(rng.randint(shortest, longest))] for _ in range(count)]


async def together(engine: NativeEngine, requests: Sequence[tuple[Sequence[int], Sampling]]) -> list[Completion]:
    return await asyncio.gather(*[engine.generate(prompt, sampling) for prompt, sampling in requests])


def generate(engine: NativeEngine, requests: Sequence[tuple[Sequence[int], Sampling]]) -> list[Completion]:
    return asyncio.run(together(engine, requests))


class SpelledTokenizer:
    """Token i is the i-th piece; enough of a tokenizer for stop strings."""

    PIECES = (*"abcdefghijklmnopqrstuvwxyz", "</", "answer", ">", "an", "swer>", " ", "er></", *"0123456")

    def __init__(self, eos: int | None = None) -> None:
        self.eos_token_id = eos

    def decode(self, tokens: Sequence[int], **_: Any) -> str:
        return "".join(self.PIECES[token] for token in tokens)


def test_tokens_and_logprobs_survive_other_requests_leaving_and_entering() -> None:
    engine = NativeEngine(build(), None, max_rows=8)
    watched = (prompts(1)[0], Sampling(max_tokens=60, seed=99))
    [alone] = generate(engine, [watched])
    noise = [(p, Sampling(max_tokens=1 + 5 * (i % 7), seed=i)) for i, p in enumerate(prompts(40, 1, 30))]
    crowded = generate(engine, [*noise[:5], watched, *noise[5:]])[5]
    assert crowded.token_ids == alone.token_ids
    torch.testing.assert_close(torch.tensor(crowded.logprobs), torch.tensor(alone.logprobs), atol=1e-5, rtol=0)


def test_equal_requests_give_equal_tokens_and_other_seeds_other_tokens() -> None:
    engine = NativeEngine(build(), None)
    prompt = prompts(1)[0]
    first, again, other = generate(engine, [(prompt, Sampling(max_tokens=30, seed=seed)) for seed in (1, 1, 2)])
    assert first == again
    assert first.token_ids != other.token_ids


def test_requests_with_one_prompt_share_its_prefill() -> None:
    engine = NativeEngine(build(), None)
    seen: list[list[list[int]]] = []
    prefill = engine._decoder.prefill

    def counted(first: int, questions: Any, *rest: Any) -> torch.Tensor:
        seen.append([list(question) for question in questions])
        return prefill(first, questions, *rest)

    engine._decoder.prefill = counted  # type: ignore[method-assign]
    one, other = prompts(2)
    generate(engine, [(prompt, Sampling(max_tokens=3, seed=i)) for prompt in (one, other) for i in range(8)])
    assert seen == [[one, other]]


def test_no_more_rows_than_max_rows_are_decoded_together() -> None:
    engine = NativeEngine(build(), None, max_rows=5)
    sizes: list[int] = []
    decode = engine._decoder.decode

    def counted(tokens: torch.Tensor, longest: int) -> torch.Tensor:
        sizes.append(tokens.shape[0])
        return decode(tokens, longest)

    engine._decoder.decode = counted  # type: ignore[method-assign]
    lengths = [3, 9, 4, 7, 2, 12, 5, 6, 8, 10, 3, 4]
    done = generate(engine, [(p, Sampling(max_tokens=n)) for p, n in zip(prompts(12), lengths, strict=True)])
    assert [len(completion.token_ids) for completion in done] == lengths
    assert max(sizes) == 5
    assert len(sizes) < sum(lengths) / 5 * 1.6  # a batch that waited for its longest row would need more steps


def test_the_sequence_ends_with_any_end_of_sequence_token() -> None:
    model = build()
    model.generation_config.eos_token_id = [5, 11]
    engine = NativeEngine(model, SpelledTokenizer(eos=17))
    assert engine.eos_ids == {5, 11, 17}
    done = generate(engine, [(p, Sampling(max_tokens=100, seed=i)) for i, p in enumerate(prompts(32))])
    for completion in done:
        if completion.finish_reason is FinishReason.STOP:
            assert completion.token_ids[-1] in engine.eos_ids
            assert not engine.eos_ids & set(completion.token_ids[:-1])
        else:
            assert len(completion.token_ids) == 100
    assert sum(completion.finish_reason is FinishReason.STOP for completion in done) >= 24


@pytest.mark.parametrize("stop", [("e",), ("</",), ("a", "b"), ("er", "qu", "zz")])
def test_a_stop_string_ends_the_completion_with_the_token_that_completes_it(stop: tuple[str, ...]) -> None:
    tokenizer = SpelledTokenizer()
    engine = NativeEngine(build(), tokenizer)
    requests = [(p, Sampling(max_tokens=60, seed=i)) for i, p in enumerate(prompts(24))]
    free = generate(engine, requests)
    stopped = generate(engine, [(p, replace(sampling, stop=stop)) for p, sampling in requests])
    for completion, unstopped in zip(stopped, free, strict=True):
        ends = [n for n in range(1, 61) if any(s in tokenizer.decode(unstopped.token_ids[:n]) for s in stop)]
        assert completion.token_ids == unstopped.token_ids[: min(ends, default=60)]
        assert completion.finish_reason is (FinishReason.STOP if ends else FinishReason.LENGTH)
    assert any(completion.finish_reason is FinishReason.STOP for completion in stopped)


def test_settings_of_all_kinds_share_a_batch() -> None:
    model = build()
    kinds = [
        Sampling(max_tokens=20, seed=3),
        Sampling(max_tokens=20, seed=3, temperature=0.0),
        Sampling(max_tokens=20, seed=3, temperature=0.5),
        Sampling(max_tokens=20, seed=3, top_k=3),
        Sampling(max_tokens=20, seed=3, top_p=0.6, temperature=1.3),
        Sampling(max_tokens=20, seed=3, min_p=0.2),
        Sampling(max_tokens=20, seed=3, top_k=9, top_p=0.9, min_p=0.05),
    ]
    prompt = prompts(1)[0]
    alone = [generate(NativeEngine(model, None), [(prompt, kind)])[0] for kind in kinds]
    mixed = generate(NativeEngine(model, None), [(prompt, kind) for kind in kinds])
    for one, other in zip(alone, mixed, strict=True):
        assert one.token_ids == other.token_ids
        torch.testing.assert_close(torch.tensor(one.logprobs), torch.tensor(other.logprobs), atol=1e-5, rtol=0)


def test_a_greedy_completion_records_the_plain_log_softmax() -> None:
    model, prompt = build(), prompts(1)[0]
    [completion] = generate(NativeEngine(model, None), [(prompt, Sampling(max_tokens=10, temperature=0.0, top_k=2))])
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([[*prompt, *completion.token_ids]])).logits[0, len(prompt) - 1 : -1]
    expected = logits.log_softmax(-1).amax(-1)
    torch.testing.assert_close(torch.tensor(completion.logprobs), expected, atol=1e-4, rtol=0)


def test_a_completion_that_fills_the_context_ends_there() -> None:
    engine = NativeEngine(build(), None, max_context=20)
    [completion] = generate(engine, [([1] * 15, Sampling(max_tokens=100))])
    assert (len(completion.token_ids), completion.finish_reason) == (5, FinishReason.LENGTH)


def test_a_prompt_that_fills_the_context_is_told_from_other_failures() -> None:
    with pytest.raises(ContextFullError, match="has 20 tokens"):
        generate(NativeEngine(build(), None, max_context=20), [([1] * 20, Sampling(max_tokens=1))])


@pytest.mark.parametrize(
    ("prompt", "sampling", "message"),
    [
        ([1] * 20, Sampling(max_tokens=1), "has 20 tokens, but the context holds 20.*shorten"),
        ([], Sampling(max_tokens=1), "prompt is empty"),
        ([1, VOCABULARY], Sampling(max_tokens=1), r"token id 40 .* 0\.\.39"),
        ([1], Sampling(max_tokens=0), "sampling.max_tokens = 0"),
        ([1], Sampling(max_tokens=1, temperature=-1.0), "sampling.temperature = -1"),
        ([1], Sampling(max_tokens=1, top_p=0.0), "sampling.top_p = 0"),
        ([1], Sampling(max_tokens=1, min_p=2.0), "sampling.min_p = 2"),
        ([1], Sampling(max_tokens=1, top_k=-1), "sampling.top_k = -1"),
        ([1], Sampling(max_tokens=1, stop=("",)), "sampling.stop"),
        ([1], Sampling(max_tokens=1, stop=("a",)), "stop strings need a tokenizer"),
    ],
)
def test_a_request_that_cannot_be_served_says_why(prompt: list[int], sampling: Sampling, message: str) -> None:
    engine = NativeEngine(build(), None, max_context=20)
    with pytest.raises(EngineError, match=message):
        generate(engine, [(prompt, sampling)])


def test_a_context_beyond_the_models_is_refused() -> None:
    with pytest.raises(EngineError, match="max_context = 129, but the model has 128"):
        NativeEngine(build(), None, max_context=129)


def test_a_cancelled_request_leaves_and_the_others_are_as_before() -> None:
    engine = NativeEngine(build(), None, max_rows=4)
    requests = [(p, Sampling(max_tokens=40, seed=i)) for i, p in enumerate(prompts(6))]
    expected = generate(engine, requests)

    async def cancelling() -> list[Completion | BaseException]:
        tasks = [asyncio.create_task(engine.generate(*request)) for request in requests]
        for _ in range(5):
            await asyncio.sleep(0)
        tasks[1].cancel()  # a row
        tasks[5].cancel()  # still waiting
        return await asyncio.gather(*tasks, return_exceptions=True)

    done = asyncio.run(cancelling())
    assert [type(done[i]) for i in (1, 5)] == [asyncio.CancelledError] * 2
    for i in (0, 2, 3, 4):
        completion = done[i]
        assert isinstance(completion, Completion)
        assert completion.token_ids == expected[i].token_ids
    assert generate(engine, requests[:1])[0].token_ids == expected[0].token_ids


def test_a_failing_forward_pass_fails_every_request_and_the_engine_goes_on() -> None:
    engine = NativeEngine(build(), None, max_rows=4)
    requests = [(p, Sampling(max_tokens=30, seed=i)) for i, p in enumerate(prompts(6))]
    expected = generate(engine, requests)
    decode, calls = engine._decoder.decode, 0

    def failing(tokens: torch.Tensor, longest: int) -> torch.Tensor:
        nonlocal calls
        calls += 1
        if calls == 7:
            raise RuntimeError("out of memory")
        return decode(tokens, longest)

    engine._decoder.decode = failing  # type: ignore[method-assign]

    async def all_of_them() -> list[Completion | BaseException]:
        return await asyncio.gather(*[engine.generate(*request) for request in requests], return_exceptions=True)

    failures = asyncio.run(all_of_them())
    assert all(isinstance(failure, EngineError) and "out of memory" in str(failure) for failure in failures)
    assert [c.token_ids for c in generate(engine, requests)] == [c.token_ids for c in expected]


def test_a_diverged_model_is_an_error_and_leaves_nothing_behind() -> None:
    model = build()
    engine = NativeEngine(model, None)
    request = (prompts(1)[0], Sampling(max_tokens=10))
    expected = generate(engine, [request])
    weight = model.model.norm.weight
    healthy = weight.detach().clone()
    with torch.no_grad():
        weight[0] = torch.nan
    engine.update_weights()
    with pytest.raises(EngineError, match=r"NaN.*diverged"):
        generate(engine, [request])
    with torch.no_grad():
        weight.copy_(healthy)
    engine.update_weights()
    assert generate(engine, [request])[0].token_ids == expected[0].token_ids


def test_an_interrupted_run_leaves_the_engine_usable() -> None:
    engine = NativeEngine(build(), None)
    request = (prompts(1)[0], Sampling(max_tokens=50))
    expected = generate(engine, [request])

    async def interrupted() -> None:
        task = asyncio.create_task(engine.generate(*request))
        for _ in range(4):
            await asyncio.sleep(0)
        assert not task.done()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        asyncio.run(interrupted())
    assert generate(engine, [request]) == expected


def test_a_loop_closed_without_ending_its_tasks_leaves_the_engine_usable() -> None:
    engine = NativeEngine(build(), None)
    request = (prompts(1)[0], Sampling(max_tokens=50))
    expected = generate(engine, [request])
    loop = asyncio.new_event_loop()
    task = loop.create_task(engine.generate(*request))
    for _ in range(4):
        loop.run_until_complete(asyncio.sleep(0))
    server = engine._server
    loop.close()
    assert generate(engine, [request]) == expected
    for abandoned in (task, server):  # what is never awaited would be reported when it is collected
        assert abandoned is not None
        abandoned._log_destroy_pending = False  # type: ignore[attr-defined]


def test_requests_may_come_while_others_are_served() -> None:
    engine = NativeEngine(build(), None)
    early, late = prompts(2)
    settings = Sampling(max_tokens=25, seed=4)
    expected = [generate(engine, [(prompt, settings)])[0].token_ids for prompt in (early, late)]

    async def staggered() -> list[Completion]:
        first = asyncio.create_task(engine.generate(early, settings))
        for _ in range(10):
            await asyncio.sleep(0)
        second = asyncio.create_task(engine.generate(late, settings))
        return [await first, await second]

    assert [completion.token_ids for completion in asyncio.run(staggered())] == expected


def test_a_finished_request_is_answered_while_others_go_on() -> None:
    engine = NativeEngine(build(), None)
    order: list[int] = []

    async def one(prompt: list[int], length: int) -> None:
        await engine.generate(prompt, Sampling(max_tokens=length))
        order.append(length)

    async def run() -> None:
        await asyncio.gather(*[one(prompt, length) for prompt, length in zip(prompts(3), (30, 2, 12), strict=True)])

    asyncio.run(run())
    assert order == [2, 12, 30]


def test_closing_cancels_what_is_in_flight() -> None:
    engine = NativeEngine(build(), None)

    async def closed() -> None:
        task = asyncio.create_task(engine.generate([1, 2], Sampling(max_tokens=100)))
        for _ in range(4):
            await asyncio.sleep(0)
        await engine.close()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(closed())
    assert engine._decoder.held_bytes() == 0


def test_weights_cannot_change_while_requests_are_in_flight() -> None:
    engine = NativeEngine(build(), None)

    async def updating() -> None:
        task = asyncio.create_task(engine.generate([1, 2], Sampling(max_tokens=20)))
        await asyncio.sleep(0)
        with pytest.raises(EngineError, match="1 requests are in flight"):
            engine.update_weights()
        await task

    asyncio.run(updating())
    engine.update_weights()
    assert engine.policy_version == 1


def test_weights_may_come_between_decoding_steps_and_every_token_says_which_sampled_it() -> None:
    old, new = build(), build()
    for parameter in new.parameters():
        parameter.data += 0.02 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3))
    changing = build()
    engine = NativeEngine(changing, None)
    engine.policy_version = 7
    prompt, sampling = prompts(1)[0], Sampling(max_tokens=24, seed=5)

    async def main() -> tuple[Completion, Completion, Completion]:
        early = asyncio.create_task(engine.generate(prompt, sampling))
        while engine._clock < 9:
            await asyncio.sleep(0)
        changing.load_state_dict(new.state_dict())
        engine.take_weights(8)
        late = asyncio.create_task(engine.generate(prompt, sampling))
        return await early, await late, await engine.generate(prompt, sampling)

    early, late, after = asyncio.run(main())
    assert early.policy_version == 7
    assert early.token_versions == (7,) * 10 + (8,) * 14
    assert early.versions == early.token_versions
    assert (late.policy_version, late.token_versions) == (8, None)
    assert late == after
    [as_before] = generate(NativeEngine(old, None), [(prompt, sampling)])
    assert early.token_ids[:10] == as_before.token_ids[:10]
    assert early.logprobs[:10] == as_before.logprobs[:10]
    assert early.token_ids != as_before.token_ids
    # What was sampled from: the new weights over what the old ones left in the cache.
    with torch.no_grad():
        ids = torch.tensor([[*prompt, *early.token_ids]])
        cache = old(input_ids=ids[:, : len(prompt) + 9], use_cache=True).past_key_values
        logits = new(input_ids=ids[:, len(prompt) + 9 : -1], past_key_values=cache).logits[0]
    expected = logits.log_softmax(-1).gather(-1, ids[0, len(prompt) + 10 :, None])[:, 0]
    torch.testing.assert_close(torch.tensor(early.logprobs[10:]), expected, atol=1e-4, rtol=0)


def test_several_changes_of_weights_in_one_sequence_are_all_told_apart() -> None:
    engine = NativeEngine(build(), None)

    async def main() -> list[Completion]:
        first = asyncio.create_task(engine.generate([1, 2], Sampling(max_tokens=20)))
        for clock, version in ((4, 1), (9, 2)):
            while engine._clock < clock:
                await asyncio.sleep(0)
            engine.take_weights(version)
            if version == 1:
                second = asyncio.create_task(engine.generate([3], Sampling(max_tokens=4)))
        return [await first, await second]

    first, second = asyncio.run(main())
    assert first.token_versions == (0,) * 5 + (1,) * 5 + (2,) * 10
    assert second.versions == (1,) * 4
    assert engine._changes == [(4, 1), (9, 2)]
    engine.take_weights(3)
    assert engine._changes == []
