"""What the vLLM engine does without vLLM: settings, weights on their way, the comparison of logprobs, its event loop."""

from __future__ import annotations

import asyncio
import copy
import math
import os
import threading
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from rlvr.config import EngineConfig
from rlvr.engines.load import LoadedModel
from rlvr.engines.make import closing, make_engine
from rlvr.engines.native import NativeEngine
from rlvr.engines.vllm.engine import VllmEngine
from rlvr.engines.vllm.gap import Gap, Probes, check, measure
from rlvr.engines.vllm.local import LocalSetup, of_a_process
from rlvr.engines.vllm.request import Draw, Request, draw_of
from rlvr.engines.vllm.thread import LoopThread
from rlvr.engines.vllm.weights import WeightsFolder, checkpoint_tensors
from rlvr.errors import ConfigError, EngineError, PluginError
from rlvr.types import FinishReason, Sampling

from ....tiny_qwen import tiny_qwen


def build(*, tied: bool = True) -> Any:
    return tiny_qwen(context=64, tie_word_embeddings=tied)


def loaded(model: Any) -> LoadedModel:
    return LoadedModel(model, None, "tiny", torch.device("cpu"), "fp32")


def drawn(model: Any, requests: list[Request]) -> list[Draw]:
    async def everything() -> Any:
        engine = NativeEngine(model, None)
        return await asyncio.gather(*(engine.generate(one.prompt, one.sampling) for one in requests))

    return [Draw(done.token_ids, done.logprobs, "length", "v") for done in asyncio.run(everything())]


@pytest.mark.skipif(find_spec("vllm") is not None, reason="vLLM is installed")
def test_without_vllm_the_recipe_is_refused_with_what_to_install() -> None:
    with pytest.raises(ConfigError, match=r"engine 'vllm' needs vllm, which is not installed: pip install 'rlvr\[vllm\]'"):
        make_engine(EngineConfig(name="vllm"), loaded(build()))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "vlm"}, "did you mean 'vllm'"),
        ({"args": {"max_contxt": 5}}, "engine.args.max_contxt: engine 'native' has no such setting; did you mean max_context"),
        ({"args": {"precision": "bf16"}}, "engine.args.precision is not set here; set load.precision"),
        ({"url": "http://a"}, "engine.url = 'http://a', but engine 'native' runs in this process; leave it out"),
        ({"name": "vllm", "url": "http://a", "args": {"gpu_memory_utilization": 0.5}}, "give it to `vllm serve` instead"),
        ({"name": "vllm", "url": "http://a", "args": {"restarts": -1}}, "restarts are 0 or more"),
        ({"name": "vllm", "url": "http://a", "args": {"folder": "/no/such/folder"}}, "engine.args.folder = '/no/such/folder'"),
        ({"name": "vllm", "url": "a:8000"}, "'a:8000' is no address"),
    ],
)
def test_settings_that_cannot_be_are_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises((ConfigError, PluginError), match=message):
        make_engine(EngineConfig(**settings), loaded(build()))


def test_an_engine_gets_its_own_settings_and_is_closed_however_its_block_ends() -> None:
    engine = make_engine(EngineConfig(args={"max_context": 17}), loaded(build()))
    assert engine.max_context == 17
    closed: list[bool] = []

    class Noted:
        async def close(self) -> None:
            closed.append(True)

    async def fail() -> None:
        async with closing(Noted()):  # type: ignore[arg-type]
            raise KeyError

    with pytest.raises(KeyError):
        asyncio.run(fail())
    assert closed == [True]


@pytest.mark.parametrize("tied", [True, False])
def test_weights_travel_as_a_checkpoint_has_them(tmp_path: Path, tied: bool) -> None:
    model = build(tied=tied)
    folder = WeightsFolder(str(tmp_path))
    first = folder.write(model, torch.float32)
    model.save_pretrained(tmp_path / "checkpoint")
    ours, theirs = load_file(first.path), load_file(tmp_path / "checkpoint" / "model.safetensors")
    assert set(ours) == set(theirs)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert ("lm_head.weight" in ours) is not tied
    second = folder.write(model, torch.bfloat16)
    assert {tensor.dtype for tensor in load_file(second.path).values()} == {torch.bfloat16}
    assert first.version != second.version
    assert Path(first.path).exists()  # an instance may be reading it
    folder.keep_newest()
    assert not Path(first.path).exists()
    assert Path(second.path).exists()
    folder.remove()
    assert not Path(second.path).exists()


def test_what_killed_runs_left_in_memory_is_removed_and_what_others_use_is_not(tmp_path: Path) -> None:
    live = WeightsFolder(str(tmp_path))
    dead = tmp_path / "rlvr-vllm-dead"
    dead.mkdir()
    (dead / "weights.safetensors").write_bytes(b"0" * 100)
    (dead / "lock").touch()
    other = tmp_path / "rlvr-vllm-just-made"
    other.mkdir()
    again = WeightsFolder(str(tmp_path))
    assert {path.name for path in tmp_path.iterdir()} == {live.path.name, again.path.name, other.name}
    for folder in (live, again):
        folder.remove()
        assert not folder.path.exists()


def test_an_engine_that_cannot_be_made_leaves_neither_folder_nor_thread(tmp_path: Path) -> None:
    threads = threading.active_count()
    with pytest.raises(EngineError, match="cannot be reached"):
        VllmEngine(build(), None, url="http://127.0.0.1:9", folder=str(tmp_path))
    with pytest.raises(ConfigError, match="is no address"):
        VllmEngine(build(), None, url="127.0.0.1:9", folder=str(tmp_path))
    assert not list(tmp_path.iterdir())
    assert threading.active_count() == threads


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # peft calls it
def test_an_adapter_is_merged_into_the_weights_and_stays_what_it_was() -> None:
    from peft import LoraConfig, get_peft_model

    adapted = get_peft_model(
        build(), LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False)
    )
    tensors = checkpoint_tensors(adapted, torch.float32)
    assert set(tensors) == set(checkpoint_tensors(build(), torch.float32))
    ids = torch.arange(20)[None]
    with torch.no_grad():
        before = adapted(input_ids=ids).logits
        plain = build()
        plain.load_state_dict(tensors, strict=False)
        torch.testing.assert_close(plain(ids).logits, before, atol=1e-4, rtol=0)
        assert torch.equal(adapted(input_ids=ids).logits, before)


def test_the_gap_is_rounding_for_the_same_weights_and_an_error_for_others() -> None:
    model = build()
    probes = Probes(vocabulary=40, max_context=64, end_ids=())
    probes.remember((1, 2, 3), (4, 5))
    requests = probes.requests()
    assert requests[0].prompt == (1, 2, 3, 4, 5)
    assert max(requests[1].prompt) == 39
    assert {request.sampling.temperature for request in requests} == {0.7, 1.0}
    gap = measure(requests, drawn(model, requests), model, precision="fp32")
    assert gap.mean < 1e-5
    assert gap.tokens == 16
    check(gap, 1e-3, "vLLM")
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.model.layers[0].mlp.down_proj.weight.mul_(1.05)
    worse = measure(requests, drawn(other, requests), model, precision="fp32")
    with pytest.raises(
        EngineError, match=r"over 16 tokens their logprobs differ by 0\.\d+ on average .*raise engine\.args\.gap_limit"
    ):
        check(worse, 1e-3, "vLLM")


def test_a_gap_that_is_no_number_is_an_error() -> None:
    model = build()
    request = Request((1, 2), Sampling(1), 1, ())
    gap = measure([request], [Draw((3,), (math.nan,), "length", "v")], model, precision="fp32")
    assert gap == Gap(math.inf, math.inf, 1)
    with pytest.raises(EngineError, match="differ by inf"):
        check(gap, 1e-3, "vLLM")
    with pytest.raises(EngineError, match="vLLM drew no tokens"):
        measure([request], [Draw((), (), "length", "v")], model, precision="fp32")


def test_an_answer_is_checked_before_it_is_a_completion() -> None:
    assert Draw((5,), (-1.0,), "stop", "v").completion({"v": 3}, 9).policy_version == 3
    assert Draw((5,), (-1.0,), "error", "v").completion({"v": 3}, 9).finish_reason is FinishReason.ABORT
    assert Draw((), (), "stop", None).completion({}, 9).policy_version == 9
    with pytest.raises(EngineError, match="vLLM sent 2 tokens, but 1 logprobs"):
        Draw((5, 6), (-1.0,), "stop", "v").completion({"v": 0}, 0)
    with pytest.raises(EngineError, match="the model's logits are NaN"):
        Draw((5,), (math.nan,), "stop", "v").completion({"v": 0}, 0)


def test_a_loop_of_its_own_serves_other_loops_and_ordinary_code_and_passes_cancelling_on() -> None:
    thread = LoopThread("test")
    begun, ended = threading.Event(), threading.Event()

    async def where() -> str:
        return threading.current_thread().name

    async def long() -> None:
        begun.set()
        try:
            await asyncio.sleep(60)
        finally:
            ended.set()

    async def cancel() -> None:
        task = asyncio.create_task(thread.hand_over(long()))
        await asyncio.to_thread(begun.wait, 60)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    assert thread.run(where()) == "test"
    assert asyncio.run(thread.hand_over(where())) == "test"
    asyncio.run(cancel())
    assert ended.wait(60)
    thread.stop()
    thread.stop()
    assert thread.is_stopped


def test_tokens_name_the_version_that_sampled_them() -> None:
    numbers = {"run-1": 4, "run-2": 5, "run-3": 6}
    one = draw_of((7, 8), (-1.0, -1.0), "stop", [("run-2", 0)])
    assert (one.completion(numbers, 6).policy_version, one.completion(numbers, 6).token_versions) == (5, None)
    several = draw_of((7, 8, 9, 7), (-1.0,) * 4, "length", [("run-1", 0), ("run-2", 1), ("run-3", 3)])
    assert several.sampled_by == ("run-1", "run-2", "run-3")
    assert several.completion(numbers, 6).versions == (4, 5, 5, 6)
    cut_off = draw_of((7,), (-1.0,), "stop", [("run-1", 0), ("run-2", 1)])  # a stop string ended it before that
    assert (cut_off.sampled_by, cut_off.completion(numbers, 5).versions) == (("run-1",), (4,))
    assert draw_of((), (), "stop", []).sampled_by == (None,)


@pytest.mark.parametrize(("visible", "of_vllm"), [("4,7", "7"), ("", "1")])
def test_vllm_beside_a_rank_sees_neither_the_launcher_nor_the_other_ranks_gpus(
    monkeypatch: pytest.MonkeyPatch, visible: str, of_vllm: str
) -> None:
    launcher = {"RANK": "1", "WORLD_SIZE": "2", "MASTER_PORT": "5", "TORCHELASTIC_USE_AGENT_STORE": "True", "LOCAL_RANK": "1"}
    for name, value in {**launcher, "CUDA_VISIBLE_DEVICES": visible, "VLLM_LOGGING_LEVEL": "INFO"}.items():
        monkeypatch.setenv(name, value)
    setup = LocalSetup(
        folder="", device=torch.device("cuda", 1), precision="bf16", max_rows=1, max_context=8, kv_bytes=1, has_tokenizer=False,
        arguments={}, tensors=dict, request_s=1.0,
    )  # fmt: skip
    before = dict(os.environ)
    with of_a_process(setup):
        assert not launcher.keys() & os.environ.keys()
        assert os.environ["CUDA_VISIBLE_DEVICES"] == of_vllm
        assert os.environ["VLLM_LOGGING_LEVEL"] == "INFO"  # what the user has set
    assert dict(os.environ) == before


@pytest.mark.parametrize(
    ("url", "route", "message"),
    [
        (None, "rdma", r"engine\.args\.weights = 'rdma'; choose one of file, ipc, gloo, nccl"),
        (None, "gloo", r"is for servers \(engine\.url\); the vLLM of this machine takes file or ipc"),
        ("http://a", "nccl", "'nccl' is for a model on GPUs, not for one on cpu; use gloo or file"),
        (None, "ipc", "is for vLLM on the trainer's own GPU, not for a model on cpu; use file"),
        ("http://a", "ipc", "not for a server; use gloo, nccl or file"),
    ],
)
def test_a_route_for_weights_that_cannot_be_is_refused(url: str | None, route: str, message: str, monkeypatch: Any) -> None:
    monkeypatch.setattr("rlvr.engines.vllm.engine.find_spec", lambda name: object())
    with pytest.raises(ConfigError, match=message):
        VllmEngine(build(), None, url=url, weights=route)
