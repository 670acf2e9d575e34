"""vLLM behind HTTP: the engine against a server of our own that has vLLM's endpoints and a real tiny model behind them."""

from __future__ import annotations

import asyncio
import copy
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from rlvr.engines.native import NativeEngine
from rlvr.engines.vllm import servers
from rlvr.engines.vllm.engine import VllmEngine
from rlvr.engines.vllm.servers import addresses
from rlvr.errors import ConfigError, ContextFullError, EngineError
from rlvr.types import Completion, FinishReason, Sampling

from .fake_vllm import CONTEXT, FakeVllm, build

GREEDY = Sampling(max_tokens=12, temperature=0.0)
PROMPTS = [[3 + index, 5, 8, 13, 21] for index in range(12)]


@pytest.fixture
def start() -> Iterator[Callable[..., FakeVllm]]:
    running: list[FakeVllm] = []

    def make(**settings: Any) -> FakeVllm:
        running.append(FakeVllm(**settings))
        return running[-1]

    yield make
    for one in running:
        one.stop()


def generate(engine: Any, prompts: list[list[int]], sampling: Sampling = GREEDY) -> list[Completion]:
    async def everything() -> list[Completion]:
        return await asyncio.gather(*(engine.generate(prompt, sampling) for prompt in prompts))

    return asyncio.run(everything())


@pytest.fixture
def connect() -> Iterator[Callable[..., VllmEngine]]:
    """An engine for servers; closed at the end."""
    engines: list[VllmEngine] = []

    def make(model: Any, *servers: FakeVllm, **settings: Any) -> VllmEngine:
        engines.append(VllmEngine(model, None, url=",".join(one.url for one in servers), **settings))
        return engines[-1]

    yield make
    for engine in engines:
        asyncio.run(engine.close())


def tokens(answers: list[Completion]) -> list[tuple[int, ...]]:
    return [answer.token_ids for answer in answers]


def test_servers_answer_with_the_policys_weights_and_follow_every_update(start: Any, connect: Any) -> None:
    both, model = [start(), start()], build()
    engine = connect(model, *both)
    native = NativeEngine(model, None)
    assert engine.start_gap.mean < 1e-5
    assert tokens(generate(engine, PROMPTS)) == tokens(generate(native, PROMPTS))
    assert min(one.answers for one in both) > 4
    with torch.no_grad():
        model.model.embed_tokens.weight.add_(0.2 * torch.randn_like(model.model.embed_tokens.weight))
    update = engine.update_weights()
    native.update_weights()
    assert 0 <= update.gap_mean < 1e-5
    after = generate(engine, PROMPTS)
    assert tokens(after) == tokens(generate(native, PROMPTS))
    assert {answer.policy_version for answer in after} == {1}
    assert {answer.finish_reason for answer in after} == {FinishReason.LENGTH}
    steps = [path for path in both[0].queries if "generate" not in path]
    update_steps = ["/pause?mode=keep&clear_cache=false", "/start_weight_update", "/update_weights", "/finish_weight_update"]
    update_steps += ["/collective_rpc", "/update_weight_version", "/reset_prefix_cache?reset_running_requests=true", "/resume"]
    assert steps == [*update_steps, *update_steps]


def test_a_request_is_tokens_and_says_all_that_decides_its_answer(start: Any, connect: Any) -> None:
    server = start()
    engine = connect(build(), server)
    generate(engine, [[1, 2, 3]], Sampling(5, temperature=0.5, top_p=0.9, top_k=7, min_p=0.1, seed=2**62))
    body = server.bodies[-1]
    assert body["token_ids"] == [1, 2, 3]
    assert body["sampling_params"] == {
        "max_tokens": 5, "temperature": 0.5, "top_p": 0.9, "top_k": 7, "min_p": 0.1, "seed": 2**62, "logprobs": 0, "stop": [],
        "stop_token_ids": [], "ignore_eos": True, "detokenize": False, "skip_special_tokens": False,
        "spaces_between_special_tokens": False,
    }  # fmt: skip


def test_a_server_that_keeps_its_old_weights_is_found_out(start: Any, connect: Any) -> None:
    server, model = start(), build()
    engine = connect(model, server)
    server.takes_updates = False
    with torch.no_grad():
        model.model.norm.weight.mul_(1.05)
    with pytest.raises(
        EngineError, match=r"vLLM at http://.* does not compute what the trainer's model computes: over \d+ tokens"
    ):
        engine.update_weights()


def test_logprobs_that_leave_the_temperature_out_are_found_out_at_the_start(start: Any, connect: Any) -> None:
    server = start()
    server.raw_logprobs = True
    with pytest.raises(EngineError, match="their logprobs differ by"):
        connect(build(), server)


def test_a_cache_that_is_not_emptied_is_an_error(start: Any, connect: Any) -> None:
    server = start()
    server.empties_its_cache = False
    with pytest.raises(EngineError, match="could not empty its prefix cache"):
        connect(build(), server)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": "0.19.1"}, r"has version 0\.19\.1, but rlvr needs 0\.32 or newer"),
        ({"context": 64}, r"'tiny' with a context of 64, but the model that is trained has 128; is it another model\?"),
        ({"vocabulary": 30}, "whose vocabulary is not the 40 tokens of the model that is trained"),
        ({"vocabulary": 50}, "whose vocabulary is not the 40 tokens of the model that is trained"),
        ({"has_training_endpoints": False}, "does not take weights; start it as: VLLM_SERVER_DEV_MODE=1 vllm serve"),
        ({"has_token_endpoint": False}, "404.*it does not offer this: start it as: .*--enable-scale-out"),
    ],
)
def test_a_server_of_another_kind_is_refused_with_what_to_do(
    start: Any, connect: Any, change: dict[str, Any], message: str
) -> None:
    server = start()
    for name, value in change.items():
        setattr(server, name, value)
    with pytest.raises(EngineError, match=message):
        connect(build(), server)


@pytest.mark.parametrize("has_begun", [False, True])
def test_a_server_that_another_trainer_left_in_the_middle_of_an_update_is_mended_first(
    start: Any, connect: Any, has_begun: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(servers, "_OTHERS_S", 0.3)
    server, model = start(), build()
    server.is_paused = server.lacks_layers = True
    server.is_updating = has_begun
    engine = connect(model, server)
    assert tokens(generate(engine, PROMPTS)) == tokens(generate(NativeEngine(model, None), PROMPTS))


def test_a_server_that_another_run_is_giving_weights_is_left_to_it(start: Any, connect: Any) -> None:
    server = start()
    server.is_paused = server.lacks_layers = server.is_updating = True
    threading.Timer(0.5, setattr, (server, "is_paused", False)).start()
    with pytest.raises(EngineError, match="is given weights by another run; give each run servers of its own"):
        connect(build(), server)
    assert server.is_updating
    assert not server.log


def test_a_server_that_is_busy_at_first_is_waited_for(start: Any, connect: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(servers, "_ASK_S", 0.5)
    server = start()
    answers = server.get
    server.get = lambda path: time.sleep(1.5) or answers(path) if not server.log else answers(path)
    threading.Timer(2.0, setattr, (server, "get", answers)).start()
    assert connect(build(), server).start_gap.mean < 1e-5


@pytest.mark.parametrize("path", ["/pause", "/start_weight_update", "/finish_weight_update", "/reset_prefix_cache", "/resume"])
def test_a_server_that_stops_answering_at_any_step_of_an_update_is_lost_and_the_other_goes_on(
    start: Any, connect: Any, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    monkeypatch.setattr(servers, "_STEP_S", 1.0)
    silent, other, model = start(), start(), build()
    engine = connect(model, silent, other, start_s=0.5)
    goes_on = threading.Event()
    post = silent.post
    silent.post = lambda asked, body: goes_on.wait(30) and None if asked == path else post(asked, body)
    with torch.no_grad():
        model.model.norm.weight.mul_(1.2)
    began = time.monotonic()
    engine.update_weights()
    assert time.monotonic() - began < 20
    assert engine.restarts == 1
    assert other.weight_version == engine._present.version
    goes_on.set()


def test_a_server_that_is_not_there_is_reported_within_seconds(start: Any) -> None:
    server = start()
    address = server.url
    server.stop()
    began = time.monotonic()
    with pytest.raises(EngineError, match=rf"vLLM at {address} cannot be reached: ConnectError: .*is it running\? start it as"):
        VllmEngine(build(), None, url=address)
    assert time.monotonic() - began < 30  # a server that is to start is waited for much longer


def test_requests_of_a_server_that_dies_are_asked_again_at_another(start: Any, connect: Any) -> None:
    first, second, model = start(), start(), build()
    engine = connect(model, first, second, start_s=0.2)
    first.dies_after = first.answers + 2
    before = second.answers
    answers = generate(engine, PROMPTS)
    assert tokens(answers) == tokens(generate(NativeEngine(model, None), PROMPTS))
    assert second.answers == before + len(PROMPTS) - 2
    assert engine.restarts == 1


def test_a_server_that_was_started_again_gets_the_present_weights_before_it_answers(start: Any, connect: Any) -> None:
    server, model = start(), build()
    engine = connect(model, server)
    with torch.no_grad():
        model.model.norm.weight.mul_(1.2)
    engine.update_weights()
    server.stop()
    again = start(port=server.port)
    assert again.weight_version == "default"
    assert tokens(generate(engine, PROMPTS)) == tokens(generate(NativeEngine(model, None), PROMPTS))
    assert again.weight_version == server.weight_version
    assert engine.restarts == 1


def test_when_the_last_server_is_gone_requests_fail_and_say_so(start: Any, connect: Any) -> None:
    server = start()
    engine = connect(build(), server, start_s=0.1)
    server.stop()
    with pytest.raises(EngineError, match=r"no instance of vLLM is left: .*cannot be reached"):
        generate(engine, PROMPTS[:1])


def test_a_prompt_that_fills_the_context_is_refused_before_it_is_sent(start: Any, connect: Any) -> None:
    engine = connect(build(), start())
    with pytest.raises(ContextFullError, match="the prompt has 128 tokens"):
        generate(engine, [[1] * CONTEXT])


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # peft calls it
def test_an_adapter_is_merged_on_the_way(start: Any, connect: Any) -> None:
    from peft import LoraConfig, get_peft_model

    base = build()
    merged = copy.deepcopy(base)
    adapted = get_peft_model(base, LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False))
    engine = connect(adapted, start())
    assert engine.start_gap.mean < 1e-5
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_" in name:
                parameter.add_(0.3)
    assert engine.update_weights().gap_mean < 1e-5
    assert tokens(generate(engine, PROMPTS)) != tokens(generate(NativeEngine(merged, None), PROMPTS))


def test_addresses_are_one_or_several() -> None:
    assert addresses("http://a:8000/v1, http://b:8000/") == ("http://a:8000", "http://b:8000")
    assert addresses(["https://c"]) == ("https://c",)
    for wrong, message in (
        ("a:8000", "'a:8000' is no address"),
        (",", "give one address"),
        ("http://a,http://a/", "different ones"),
    ):
        with pytest.raises(ConfigError, match=message):
            addresses(wrong)
