"""The HTTP service with real sockets: both protocols, tokens, bounds, slow clients, a graceful end."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("starlette", reason="the extra 'serve' is not installed")
pytest.importorskip("uvicorn", reason="the extra 'serve' is not installed")

from rlvr.errors import ConfigError
from rlvr.integrations.conversation import response_of
from rlvr.integrations.gate import ServerLimits
from rlvr.integrations.listen import VerifierServer
from rlvr.verifiers.runner import WeightedVerifier

TOKEN = "correct horse"
SLOW = '''
import time
from rlvr.types import Problem, Rollout, Verdict
from rlvr.verifiers.base import verifier


@verifier("held")
def held(problem: Problem, rollout: Rollout) -> Verdict:
    """Waits until the file that the answer names is there."""
    import os
    while not os.path.exists(problem.answer):
        time.sleep(0.005)
    return Verdict.correct()
'''


@contextmanager
def running(verifier: str = "number", **options: Any) -> Iterator[VerifierServer]:
    is_up = threading.Event()
    server = VerifierServer(WeightedVerifier(verifier), port=0, on_start=is_up.set, **options)
    thread = threading.Thread(target=server.run_to_end)
    thread.start()
    try:
        assert is_up.wait(60)
        yield server
    finally:
        server.should_exit = True
        thread.join(60)
        assert not thread.is_alive()


@pytest.fixture(scope="module")
def server() -> Iterator[VerifierServer]:
    with running(limits=ServerLimits(body_mb=0.1, rows=50)) as server:
        yield server


@pytest.fixture
def impatient() -> Iterator[VerifierServer]:
    with running(limits=ServerLimits(read_s=0.2, header_s=0.2)) as server:
        yield server


def ask(server: VerifierServer, path: str, body: bytes | None = None, **headers: str) -> tuple[int, bytes]:
    request = urllib.request.Request(server.url + path, data=body, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


def line(response: str, answer: Any = "72", identity: Any = "a") -> bytes:
    return json.dumps({"id": identity, "answer": answer, "response": response}).encode() + b"\n"


def error_of(answer: tuple[int, bytes]) -> str:
    return str(json.loads(answer[1])["error"])


def test_verify_takes_and_gives_the_lines_of_the_command(server: VerifierServer) -> None:
    body = line("<answer>72</answer>", identity=[1, None]) + b"\n" + line("<answer>71 \ud83d</answer>".replace("\ud83d", "x"))
    status, answer = ask(server, "/verify", body)
    rows = [json.loads(text) for text in answer.splitlines()]
    assert status == 200
    assert [(row["id"], row["outcome"], row["score"]) for row in rows] == [([1, None], "correct", 1.0), ("a", "incorrect", 0.0)]


def test_a_failure_of_ours_is_a_line_without_a_score(server: VerifierServer) -> None:
    status, answer = ask(server, "/verify", line("72", answer="seventy"))
    assert (status, json.loads(answer)["score"]) == (200, None)


@pytest.mark.parametrize(
    ("body", "status", "text"),
    [
        (b"{", 400, "body:1 is not JSON"),
        (line("72") + b"[1]", 400, "body:2 is a list, not an object"),
        (b'{"id": 1, "answer": 2}', 400, "body:1 has no 'response'; it has id, answer"),
        (b"\n \n", 400, "no responses"),
        (b"[" * 50_000, 400, "not JSON"),
        (line("72") * 51, 413, "51 responses; at most 50"),
        (line("7" * 200_000), 413, "larger than 0.1 MiB"),
    ],
)
def test_what_a_client_sends_wrong_is_said_clearly(server: VerifierServer, body: bytes, status: int, text: str) -> None:
    answer = ask(server, "/verify", body)
    assert answer[0] == status
    assert text in error_of(answer)


def test_bytes_that_are_no_text_are_graded_not_refused(server: VerifierServer) -> None:
    status, answer = ask(server, "/verify", line("<answer>72</answer> ?").replace(b"?", b"\xff\xfe"))
    assert (status, json.loads(answer)["outcome"]) == (200, "correct")


def test_an_unknown_path_or_method_is_json_too(server: VerifierServer) -> None:
    assert ask(server, "/nothing")[0] == 404
    assert error_of(ask(server, "/verify")) == "Method Not Allowed"


def test_health_says_what_is_served(server: VerifierServer) -> None:
    status, answer = ask(server, "/health")
    assert status == 200
    assert json.loads(answer)["verifiers"] == {"number": "1"}


def openrlhf(queries: list[Any], prompts: list[Any], labels: list[Any]) -> bytes:
    return json.dumps({"query": queries, "prompts": prompts, "labels": labels}).encode()


def test_openrlhf_gets_a_reward_for_each_query(server: VerifierServer) -> None:
    prompt = "<|im_start|>user\n36+36?<|im_end|>\n<|im_start|>assistant\n"
    queries = [f"<s>{prompt}<answer>72</answer><|im_end|>\n", f"{prompt}<answer>71</answer>"]
    status, answer = ask(server, "/get_reward", openrlhf(queries, [prompt] * 2, ["72", "72"]))
    assert status == 200
    assert json.loads(answer) == {"rewards": [1.0, 0.0], "scores": [1.0, 0.0], "extra_logs": {"correct": [1.0, 0.0]}}


def test_openrlhf_never_gets_a_number_for_a_failure_of_ours(server: VerifierServer) -> None:
    answer = ask(server, "/get_reward", openrlhf(["Q: 72"], ["Q:"], ["seventy"]))
    assert answer[0] == 503
    assert "1 of 1 responses could not be graded: gold answer" in error_of(answer)


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (openrlhf(["a"], ["a"], []), "1 query, 1 prompts and 0 labels"),
        (openrlhf([1], ["a"], ["b"]), "number 0 is int, str"),
        (openrlhf(["elsewhere"], ["a prompt"], ["b"]), "does not begin with its prompt"),
        (b'{"query": "a"}', "'query' is str, not a list"),
        (b'{"prompts": []}', "'query' is missing, not a list; the message has prompts"),
        (b"[]", "the body is list, not an object"),
    ],
)
def test_a_message_that_openrlhf_would_not_send_is_refused(server: VerifierServer, body: bytes, text: str) -> None:
    answer = ask(server, "/get_reward", body)
    assert answer[0] == 400
    assert text in error_of(answer)


def test_the_response_is_what_follows_the_prompt_without_end_tokens() -> None:
    assert response_of("<s> Q: 1? 2</s>", "Q: 1?") == " 2"
    assert response_of("Q Q 2", "Q") == " Q 2"
    assert response_of("end of a long prompt: 2<|eot_id|><|pad|>", "The end of a long prompt:") == " 2"
    assert response_of("Q: x < 3 |> y<｜end▁of▁sentence｜>", "Q:") == " x < 3 |> y"


def test_openrlhf_s_own_client_is_understood() -> None:
    agent = pytest.importorskip("openrlhf.utils.agent", reason="the package 'openrlhf' is not installed")
    with running() as server:
        executor = agent.SingleTurnAgentExecutor(f"{server.url}/get_reward")
        found = asyncio.run(executor._fetch_rewards_via_http(["Q: <answer>72</answer>"], ["Q:"], ["72"]))
    assert found[0]["rewards"] == [1.0]


def test_with_a_token_only_those_who_have_it_are_served() -> None:
    basic = base64.b64encode(f"rlvr:{TOKEN}".encode()).decode()
    with running(token=TOKEN) as server:
        assert ask(server, "/verify", line("72"), Authorization=f"Bearer {TOKEN}")[0] == 200
        assert ask(server, "/verify", line("72"), Authorization=f"Basic {basic}")[0] == 200
        for wrong in ("", "Bearer x", "Basic !", "Basic eA==", f"Digest {TOKEN}"):
            assert ask(server, "/verify", line("72"), Authorization=wrong)[0] == 401
        assert ask(server, "/health")[0] == 200


def test_other_machines_need_a_token() -> None:
    with pytest.raises(ConfigError, match=r"host 0\.0\.0\.0 can be reached from other machines; give a token"):
        VerifierServer(WeightedVerifier("number"), host="0.0.0.0", port=0)
    with pytest.raises(ConfigError, match="the token has 3 characters"):
        VerifierServer(WeightedVerifier("number"), port=0, token="abc")


def test_a_port_in_use_is_said_before_anything_starts(server: VerifierServer) -> None:
    with pytest.raises(ConfigError, match=r"cannot listen on 127\.0\.0\.1 port"):
        VerifierServer(WeightedVerifier("number"), port=int(server.url.rpartition(":")[2]))


@pytest.mark.parametrize(("host", "port"), [("127.0.0.1", 99_999), ("127.0.0.1", -1), ("no such host", 0)])
def test_an_address_that_cannot_be_is_a_clear_error(host: str, port: int) -> None:
    with pytest.raises(ConfigError, match=r"ports are|cannot listen on"):
        VerifierServer(WeightedVerifier("number"), host=host, port=port, token=TOKEN)


def connect(server: VerifierServer) -> socket.socket:
    host, _, port = server.url.removeprefix("http://").partition(":")
    return socket.create_connection((host, int(port)), timeout=60)


def test_a_client_that_sends_nothing_is_cut_off(impatient: VerifierServer) -> None:
    with connect(impatient) as silent:
        silent.sendall(b"POST /verify HTTP/1.1\r\nHost:")
        assert silent.recv(1) == b""


def test_a_body_that_does_not_arrive_is_refused(impatient: VerifierServer) -> None:
    with connect(impatient) as slow:
        slow.sendall(b"POST /verify HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nabc")
        assert slow.recv(4096).startswith(b"HTTP/1.1 408 ")


def test_a_body_without_a_declared_length_is_bounded_as_it_comes(server: VerifierServer) -> None:
    with connect(server) as client:
        client.sendall(b"POST /verify HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        client.sendall(b"1d4c0\r\n" + b" " * 120_000 + b"\r\n")
        assert client.recv(4096).startswith(b"HTTP/1.1 413 ")


@pytest.fixture
def held(tmp_path: Path) -> str:
    (tmp_path / "held.py").write_text(SLOW)
    return f"{tmp_path / 'held.py'}:held"


def test_requests_wait_for_their_turn_and_are_refused_after_a_while(held: str, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    limits = ServerLimits(requests_at_once=1, wait_s=0.1)
    with running(held, limits=limits, workers=1) as server:
        answers: list[tuple[int, bytes]] = []
        first = threading.Thread(target=lambda: answers.append(ask(server, "/verify", line("", str(gate)))))
        first.start()
        while json.loads(ask(server, "/health")[1])["requests_under_way"] == 0:
            pass
        refused = ask(server, "/verify", line("", str(gate)))
        gate.touch()
        first.join()
    assert refused[0] == 503
    assert "1 requests were under way" in error_of(refused)
    assert json.loads(answers[0][1])["outcome"] == "correct"


@pytest.mark.processes
@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM])
def test_the_command_ends_gracefully_with_the_requests_under_way(held: str, tmp_path: Path, ending: signal.Signals) -> None:
    gate = tmp_path / "gate"
    command = [sys.executable, "-m", "rlvr", "verify", held, "--serve", "--port", "0", "--json", "--workers", "1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ.copy()) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        url = json.loads(process.stdout.readline())["url"]
        assert url in process.stderr.readline()
        with connect_url(url) as client:
            body = line("", str(gate))
            client.sendall(b"POST /verify HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
            while json.loads(urllib.request.urlopen(f"{url}/health").read())["requests_under_way"] == 0:
                pass
            process.send_signal(ending)
            gate.touch()
            assert b'"outcome": "correct"' in read_all(client)
        assert process.wait(60) in (0, -signal.SIGTERM)
        assert process.stderr.read() == ""


def connect_url(url: str) -> socket.socket:
    host, _, port = url.removeprefix("http://").partition(":")
    return socket.create_connection((host, int(port)), timeout=60)


def read_all(client: socket.socket) -> bytes:
    data = b""
    while chunk := client.recv(4096):
        data += chunk
    return data
