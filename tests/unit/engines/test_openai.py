"""The engine for servers, against a small server of our own."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

import rlvr
from rlvr.cli.main import main
from rlvr.config import EngineConfig, EnvConfig
from rlvr.engines.openai import OpenAiEngine
from rlvr.errors import ConfigError, ContextFullError, EngineError
from rlvr.types import FinishReason, FunctionCall, Message, Sampling

ASK = (Message("user", "What is 6 * 7?"),)
Answer = tuple[int, Any]


class Server:
    """Answers each request by `says(body)`: a status, and a JSON body or text."""

    def __init__(self, says: Callable[[Mapping[str, Any]], Answer]) -> None:
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer.requests.append({"path": self.path, **body})
                outer.headers.append({key.lower(): value for key, value in self.headers.items()})
                status, said = says(body)
                content = said.encode() if isinstance(said, str) else json.dumps(said).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(content)))
                self.send_header("Retry-After", "0")
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *args: Any) -> None:
                return None

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}/v1"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()

    def close(self) -> None:
        self.http.shutdown()
        self.http.server_close()


@pytest.fixture
def serve() -> Iterator[Callable[[Callable[[Mapping[str, Any]], Answer]], Server]]:
    started: list[Server] = []

    def start(says: Callable[[Mapping[str, Any]], Answer]) -> Server:
        started.append(Server(says))
        return started[-1]

    yield start
    for server in started:
        server.close()


def completion(content: str | None = None, *, finish: str = "stop", tokens: int = 5, **message: Any) -> Answer:
    choice = {"message": {"role": "assistant", "content": content, **message}, "finish_reason": finish}
    return 200, {"choices": [choice], "usage": {"prompt_tokens": 10, "completion_tokens": tokens}}


def called(name: str, arguments: str, call_id: str = "call_1") -> dict[str, Any]:
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


def chat(url: str, *, tools: Any = (), sampling: Sampling | None = None, messages: Any = ASK) -> Any:
    async def main() -> Any:
        engine = OpenAiEngine("m", url=url, timeout_s=5.0)
        try:
            return await engine.chat(messages, tools, sampling or Sampling(max_tokens=9, seed=3))
        finally:
            await engine.close()

    return asyncio.run(main())


def test_messages_go_out_and_a_message_comes_in(serve: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "k")
    server = serve(lambda body: completion("It is 42.", tokens=6))
    answer = chat(
        server.url, sampling=Sampling(max_tokens=9, temperature=0.5, top_p=0.9, top_k=20, stop=("</answer>",), seed=2**40)
    )
    assert answer.message == Message("assistant", "It is 42.")
    assert (answer.completion.finish_reason, answer.completion.sampled_tokens, answer.completion.token_ids) == (
        FinishReason.STOP,
        6,
        (),
    )
    [asked] = server.requests
    assert asked["path"] == "/v1/chat/completions"
    assert asked["messages"] == [{"role": "user", "content": "What is 6 * 7?"}]
    assert (asked["model"], asked["max_tokens"], asked["temperature"], asked["top_p"], asked["top_k"]) == ("m", 9, 0.5, 0.9, 20)
    assert asked["stop"] == ["</answer>"]
    assert 0 <= asked["seed"] < 2**31
    assert "min_p" not in asked
    assert "tools" not in asked
    assert server.headers[0]["authorization"] == "Bearer k"


def test_calls_are_read_from_the_messages_own_fields(serve: Any) -> None:
    calls = [called("add", '{"a": 1}'), called("add", '{"a": ', "call_2"), called("add", "[1]", "call_3")]
    server = serve(lambda body: completion(None, finish="tool_calls", tool_calls=calls))
    first, second, third = chat(server.url).message.calls
    assert first == FunctionCall("add", {"a": 1}, "call_1")
    assert "not valid JSON" in second.problem
    assert "not a JSON object" in third.problem


def test_reasoning_stands_before_the_answer_and_is_not_sent_back(serve: Any) -> None:
    server = serve(lambda body: completion("42", reasoning_content="6 times 7"))
    message = chat(server.url).message
    assert message.content == "<think>6 times 7</think>42"
    chat(server.url, messages=[*ASK, message, Message("user", "Sure?")])
    assert [one["content"] for one in server.requests[1]["messages"]] == ["What is 6 * 7?", "42", "Sure?"]


def test_a_cut_off_answer_says_so(serve: Any) -> None:
    server = serve(lambda body: completion("It is", finish="length"))
    assert chat(server.url).completion.finish_reason is FinishReason.LENGTH


def test_a_busy_server_is_asked_again(serve: Any) -> None:
    answers = iter([(429, "slow down"), (503, "starting"), completion("42")])
    server = serve(lambda body: next(answers))
    assert chat(server.url).message.content == "42"
    assert len(server.requests) == 3


@pytest.mark.parametrize(
    ("answer", "error", "words"),
    [
        ((400, "This model's maximum context length is 4096 tokens"), ContextFullError, "answered 400"),
        ((401, "no key"), EngineError, "answered 401: no key"),
        ((200, "<html>"), EngineError, "something else than JSON"),
        ((200, {"error": "?"}), EngineError, "something else than a chat completion"),
        ((200, {"choices": []}), EngineError, "something else than a chat completion"),
    ],
)
def test_what_a_server_refuses_is_an_error_with_its_words(serve: Any, answer: Answer, error: type[Exception], words: str) -> None:
    server = serve(lambda body: answer)
    with pytest.raises(error, match=words):
        chat(server.url)
    assert len(server.requests) == 1


def test_an_address_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    for url in (None, "localhost:8000"):
        with pytest.raises(ConfigError, match=r"give the server's address, e.g. engine.url=http://localhost:8000/v1"):
            OpenAiEngine("m", url=url)
    monkeypatch.setenv("OPENAI_BASE_URL", "http://x/v1")
    asyncio.run(OpenAiEngine("m").close())


def model(body: Mapping[str, Any]) -> Answer:
    """Calls the calculator with the problem, twice wrongly first, then answers what it heard."""
    heard = [message for message in body["messages"] if message["role"] == "tool"]
    question = body["messages"][-1 if not heard else 0]["content"].removesuffix("?")
    script = [
        completion(None, tool_calls=[called("abacus", "{}")], tokens=3),
        completion("Hm.", tool_calls=[called("calculator", '{"expression": ')], tokens=4),
        completion(None, tool_calls=[called("calculator", json.dumps({"expression": question}), "c3")], tokens=5),
    ]
    return script[len(heard)] if len(heard) < 3 else completion(f"<answer>{heard[-1]['content']}</answer>", tokens=6)


def test_a_model_behind_a_server_is_measured_with_tools_through_the_one_loop(serve: Any, tmp_path: Path) -> None:
    server = serve(model)
    report = rlvr.evaluate(
        "m",
        "products",
        n=2,
        k=(1, 2),
        problems=5,
        engine=EngineConfig(name="openai", url=server.url),
        env=EnvConfig(tools=("calculator",)),
        out=tmp_path / "out",
    )
    measured = report.to_json()
    assert report.pass_at[1].mean == 1.0
    assert measured["counts"]["calls"] == {"ok": 10, "malformed": 10, "unknown_tool": 10}
    assert measured["useful_call_share"] == 1.0
    assert measured["tokens"]["mean"] == 18.0
    assert (measured["engine"], measured["checkpoint"]) == ("openai", "m")
    last = max(server.requests, key=lambda one: len(one["messages"]))
    assert [message["role"] for message in last["messages"]] == ["user", *["assistant", "tool"] * 3]
    assert last["messages"][1]["tool_calls"][0]["function"]["name"] == "abacus"
    assert "There is no tool named 'abacus'" in last["messages"][2]["content"]
    assert "could not be read" in last["messages"][4]["content"]
    assert last["messages"][6]["tool_call_id"] == "c3"
    assert last["tools"][0]["function"]["name"] == "calculator"


def test_the_verb_measures_and_prints_it_too(serve: Any, capsys: pytest.CaptureFixture[str]) -> None:
    server = serve(model)
    common = ["--task", "products", "--engine", "openai", "--url", server.url, "--env", "tools=calculator", "format=auto"]
    assert main(["eval", "m", *common, "-n", "1", "-k", "1", "--problems", "2", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["pass@1"]["mean"] == 1.0
    assert main(["rollout", "--model", "m", *common]) == 0
    printed = capsys.readouterr().out
    assert "abacus()  unknown_tool" in printed
    assert 'calculator(expression="' in printed
    assert "correct  stop stop · 4 turns · 18 tokens sampled" in printed


def test_formats_that_answer_inside_a_message_do_not_go_with_a_server(serve: Any) -> None:
    server = serve(lambda body: completion("42"))
    with pytest.raises(ConfigError, match=r"takes whole messages: set env.format"):
        rlvr.evaluate("m", "products", n=1, k=(1,), problems=1, engine=EngineConfig(name="openai", url=server.url))


def test_such_a_model_cannot_be_trained(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"engine.name = 'openai' can only be measured with"):
        rlvr.train(
            model="new:tiny", task="chains", steps=1, engine={"name": "openai", "url": "http://x/v1"}, out=str(tmp_path / "run")
        )
    assert not (tmp_path / "run").exists()
