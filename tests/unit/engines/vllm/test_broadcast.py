"""Weights over gloo: the group of a trainer and a server's workers, and engines whose servers see no file of theirs."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from rlvr.engines.native import NativeEngine
from rlvr.engines.vllm import broadcast, broadcast_server
from rlvr.engines.vllm.broadcast import Guest, Host, Meeting, layout_of, way_to
from rlvr.errors import EngineError

from .fake_vllm import FakeVllm, build
from .test_servers import PROMPTS, connect, generate, start, tokens

__all__ = ["connect", "start"]
CPU = torch.device("cpu")
TENSORS = {
    "matrix": torch.arange(12.0).view(3, 4),
    "half": torch.randn(5, 2, generator=torch.Generator().manual_seed(1)).bfloat16(),
    "number": torch.tensor(7),
    "nothing": torch.empty(0, 4),
    "large": torch.randn(300, 700, generator=torch.Generator().manual_seed(2)),
}


@pytest.fixture
def path(tmp_path: Path) -> str:
    save_file(TENSORS, tmp_path / "weights.safetensors")
    return str(tmp_path / "weights.safetensors")


def joined(host: Host) -> None:
    while not host.is_complete():
        time.sleep(0.005)
    host.join()


def test_every_worker_gets_every_tensor_bit_for_bit_round_after_round(path: str) -> None:
    layout = layout_of(path)
    host = Host("gloo", ("127.0.0.1", 8000), 2, CPU)

    def work(rank: int) -> list[dict[str, torch.Tensor]]:
        guest = Guest(host.meeting, rank, CPU)
        return [dict(guest.receive(layout)) for _ in range(2)]

    with ThreadPoolExecutor(2) as threads:
        workers = [threads.submit(work, rank) for rank in (1, 2)]
        joined(host)
        host.send(path, layout)
        host.send(path, layout)
        for worker in workers:
            for found in worker.result(timeout=30):
                assert list(found) == list(layout.names)
                for name, tensor in TENSORS.items():
                    assert (found[name].dtype, found[name].shape) == (tensor.dtype, tensor.shape)
                    assert torch.equal(found[name], tensor)
    host.close()
    host.close()
    with pytest.raises(RuntimeError, match="was closed"):
        host.send(path, layout)


def test_only_the_address_on_the_way_to_the_server_listens() -> None:
    host = Host("gloo", ("localhost", 8000), 1, CPU)
    assert host.meeting.address == way_to("127.0.0.1", 1) == "127.0.0.1"
    others = [address for address in own_addresses() if not address.startswith("127.")]
    for address in (*others, "127.0.0.2"):
        with pytest.raises(OSError, match="refused"):
            socket.create_connection((address, host.meeting.port), timeout=5).close()
    host.close()


def own_addresses() -> list[str]:
    return [str(entry[4][0]) for entry in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)]


def test_a_worker_without_the_transport_and_one_without_a_trainer_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    for transport in ("nccl", "carrier pigeon"):
        with pytest.raises(ValueError, match=rf"cannot come over '{transport}' to a worker on cpu; set .* = 'gloo'"):
            Guest(Meeting(transport, "127.0.0.1", 1, 2), 1, CPU)
    monkeypatch.setattr(broadcast, "JOIN_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    with pytest.raises(RuntimeError):
        Guest(Meeting("gloo", "127.0.0.1", port, 2), 1, CPU)


WORKER = """
import json, sys, torch
from rlvr.engines.vllm.broadcast import Guest, Layout, Meeting
guest = Guest(Meeting(*json.loads(sys.argv[1])), 1, torch.device("cpu"))
for _ in range(1000):
    for _ in guest.receive(Layout(*json.loads(sys.argv[2]))):
        pass
"""


def send_for(seconds: float, host: Host, path: str) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        host.send(path, layout_of(path))


def test_a_worker_that_dies_between_two_tensors_is_an_error_at_once(path: str) -> None:
    import json

    host = Host("gloo", ("127.0.0.1", 8000), 1, CPU)
    layout = layout_of(path)
    arguments = [json.dumps(astuple(host.meeting)), json.dumps(astuple(layout))]
    with subprocess.Popen([sys.executable, "-c", WORKER, *arguments]) as worker:
        joined(host)
        host.send(path, layout)
        threading.Timer(0.1, os.kill, (worker.pid, signal.SIGKILL)).start()
        began = time.monotonic()
        with pytest.raises(RuntimeError):
            send_for(20, host, path)
        assert time.monotonic() < began + 30
    host.close()


def test_servers_of_one_and_two_workers_follow_every_update_without_a_file(start: Any, connect: Any) -> None:
    servers, model = [start(), start()], build()
    servers[1].workers = 2
    engine = connect(model, *servers, weights="gloo")
    native = NativeEngine(model, None)
    for _ in range(3):
        assert tokens(generate(engine, PROMPTS)) == tokens(generate(native, PROMPTS))
        with torch.no_grad():
            model.model.embed_tokens.weight.add_(0.2 * torch.randn_like(model.model.embed_tokens.weight))
        native.update_weights()
        assert engine.update_weights().gap_mean < 1e-5
    for server in servers:
        assert server.log.count("/init_weight_transfer_engine") == 1
        assert server.log.count("/update_weights") == 4


def test_a_server_that_dies_in_the_middle_of_a_broadcast_comes_back_and_joins_again(start: Any, connect: Any) -> None:
    first, second, model = start(), start(), build()
    engine = connect(model, first, second, weights="gloo")
    with torch.no_grad():
        model.model.norm.weight.mul_(1.2)
    first.dies_in_updates = True
    engine.update_weights()
    assert engine.restarts == 1
    first.stop()
    again = start(port=first.port)
    deadline = time.monotonic() + 120
    while not again.answers:
        assert time.monotonic() < deadline
        assert tokens(generate(engine, PROMPTS)) == tokens(generate(NativeEngine(model, None), PROMPTS))
    assert again.log.count("/init_weight_transfer_engine") == 1


def test_weights_that_a_server_refuses_half_way_end_with_its_words_and_leave_it_able_to_answer(start: Any, connect: Any) -> None:
    server, model = start(), build()
    engine = connect(model, server, weights="gloo")
    server.refuses_updates = True
    with pytest.raises(EngineError, match="shapes do not fit"):
        engine.update_weights()
    assert (server.is_updating, server.lacks_layers, server.is_paused) == (False, False, False)
    assert server.weight_version.startswith("abandoned-")  # so that no answer of it is taken for the policy's
    server.refuses_updates = False
    assert tokens(generate(engine, PROMPTS)) == tokens(generate(NativeEngine(model, None), PROMPTS))
    assert engine.restarts == 1
    assert engine.update_weights().gap_mean < 1e-5
    assert server.log.count("/init_weight_transfer_engine") == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"refuses_to_join": True}, "no such backend here"),
        (
            {"comes_to_join": False},
            r"did not come to 127\.0\.0\.1, port \d+, within 0\.5 s.*Else set engine\.args\.weights = 'file'",
        ),
    ],
)
def test_a_server_that_does_not_join_is_an_error_with_what_to_do(
    start: Any, connect: Any, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any], message: str
) -> None:
    if not change.get("comes_to_join", True):
        monkeypatch.setattr(broadcast_server, "JOIN_S", 0.5)
        monkeypatch.setattr(broadcast_server, "_LATER_S", 0.1)
    server: FakeVllm = start()
    for name, value in change.items():
        setattr(server, name, value)
    began = time.monotonic()
    with pytest.raises(EngineError, match=message):
        connect(build(), server, weights="gloo")
    assert time.monotonic() < began + 30
    assert not server.is_paused or not server.comes_to_join


def test_a_server_that_stops_answering_in_the_middle_is_lost_and_not_waited_for(
    start: Any, connect: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(broadcast, "_STEP_S", 2.0)
    monkeypatch.setattr(broadcast_server, "_LATER_S", 0.2)
    silent, other, model = start(), start(), build()
    engine = connect(model, silent, other, weights="gloo")
    goes_on = threading.Event()
    silent._taken = lambda info: goes_on.wait(30) and {}
    with torch.no_grad():
        model.model.norm.weight.mul_(1.2)
    began = time.monotonic()
    engine.update_weights()
    assert time.monotonic() < began + 30
    assert engine.restarts == 1
    assert tokens(generate(engine, PROMPTS)) == tokens(generate(NativeEngine(model, None), PROMPTS))
    goes_on.set()
