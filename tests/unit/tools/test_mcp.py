"""An MCP server of our own, in another process over stdio and in this one over HTTP."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rlvr.errors import ConfigError, ToolError
from rlvr.tools.mcp import McpServer
from rlvr.tools.parse import Asked
from rlvr.tools.toolbox import Called, CallLimits, Toolbox
from rlvr.types import CallStatus

pytestmark = pytest.mark.processes

SERVER = """
import os, sys, time
from mcp.server.mcpserver import MCPServer
from mcp.server.mcpserver.exceptions import ToolError

server = MCPServer("test")


@server.tool()
def add(a: int, b: int) -> int:
    '''Adds two integers.'''
    return a + b


@server.tool()
def refuse(why: str) -> str:
    raise ToolError(f"refused: {why}")


@server.tool()
def dawdle(seconds: float, note: str = "") -> str:
    if note:
        open(note, "w").close()
    time.sleep(seconds)
    return "at last"


@server.tool()
def shout(characters: int) -> str:
    return "A" * characters


@server.tool()
def environment(name: str) -> str:
    return os.environ.get(name, "unset")


@server.tool()
def die() -> str:
    print("a last word", file=sys.stderr, flush=True)
    os._exit(3)


if __name__ == "__main__":
    server.run()
"""


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "server.py"
    path.write_text(SERVER)
    return path


def stdio(script: Path, **settings: Any) -> McpServer:
    return McpServer(command=[sys.executable, str(script)], **settings)


def run(server: McpServer, asked: list[Asked], limits: CallLimits | None = None) -> list[Called | str]:
    """Each call in turn; a call that fails by our fault is its message."""

    async def main() -> list[Called | str]:
        async with Toolbox([server], limits) as box:
            found: list[Called | str] = []
            for one in asked:
                try:
                    found += await box.run([one], box.open_scope())
                except ToolError as error:
                    found.append(str(error))
            return found

    return asyncio.run(main())


def texts(found: list[Called | str]) -> list[str]:
    return [one if isinstance(one, str) else one.answer.text for one in found]


def test_a_servers_tools_appear_with_their_schemas_and_can_be_called(script: Path) -> None:
    async def main() -> Any:
        async with Toolbox([stdio(script, only=["add"], prefix="test_")]) as box:
            [spec] = box.specs
            return spec, await box.run([Asked("test_add", {"a": 1, "b": i}) for i in range(20)], box.open_scope())

    spec, called = asyncio.run(main())
    assert (spec.name, spec.description, spec.required) == ("test_add", "Adds two integers.", ("a", "b"))
    assert spec.parameters["properties"]["a"]["type"] == "integer"
    assert [one.answer.text for one in called] == [str(1 + i) for i in range(20)]


def test_what_the_model_does_wrong_is_told_and_the_server_lives_on(script: Path) -> None:
    found = run(
        stdio(script),
        [
            Asked("add", {"a": "x", "b": 1}),
            Asked("refuse", {"why": "I do not want to"}),
            Asked("dawdle", {"seconds": 1.5}),
            Asked("add", {"a": 1, "b": 1}),
            Asked("shout", {"characters": 300_000}),
            Asked("add", {"a": 2, "b": 2}),
        ],
        CallLimits(call_s=0.7, output_tokens=50),
    )
    assert [one.record.status.value for one in found] == ["bad_arguments", "failed", "timed_out", "ok", "ok", "ok"]  # type: ignore[union-attr]
    said = texts(found)
    assert "refused: I do not want to" in said[1]
    assert said[2] == "Error: dawdle was stopped after 0.7 s"
    assert (said[3], said[5]) == ("2", "4")
    assert found[4].record.is_truncated  # type: ignore[union-attr]
    assert len(said[4]) <= 150


def test_a_server_that_dies_during_a_call_fails_that_call_by_our_fault_and_is_started_again(script: Path) -> None:
    found = run(
        stdio(script),
        [
            Asked("add", {"a": 1, "b": 1}),
            Asked("die"),
            Asked("add", {"a": 2, "b": 2}),
            Asked("die"),
            Asked("add", {"a": 3, "b": 3}),
        ],
    )
    said = texts(found)
    assert (said[0], said[2], said[4]) == ("2", "4", "6")
    for index in (1, 3):
        assert isinstance(found[index], str)
        assert "died during a call of die; it wrote: a last word" in said[index]


def test_a_server_that_dies_takes_the_calls_in_flight_with_it_but_does_not_hang(script: Path, tmp_path: Path) -> None:
    has_begun = tmp_path / "begun"

    async def main() -> list[Any]:
        async with Toolbox([stdio(script)], CallLimits(call_s=120.0)) as box:
            scope = box.open_scope()
            waiting = asyncio.create_task(box.run([Asked("dawdle", {"seconds": 100, "note": str(has_begun)})], scope))
            while not (has_begun.exists() or waiting.done()):
                await asyncio.sleep(0.01)
            return await asyncio.gather(waiting, box.run([Asked("die")], scope), return_exceptions=True)

    started = time.perf_counter()
    found = asyncio.run(main())
    assert time.perf_counter() - started < 90
    assert all(isinstance(one, ToolError) for one in found)


def test_a_server_gets_few_variables_and_those_that_it_is_given(script: Path) -> None:
    os.environ["RLVR_TEST_SECRET"] = "s"
    try:
        asked = [Asked("environment", {"name": name}) for name in ("RLVR_TEST_SECRET", "RLVR_TEST_GIVEN")]
        assert texts(run(stdio(script, env={"RLVR_TEST_GIVEN": "g"}), asked)) == ["unset", "g"]
    finally:
        del os.environ["RLVR_TEST_SECRET"]


@pytest.mark.parametrize(
    ("server", "error", "reason"),
    [
        (lambda: McpServer(), ConfigError, "either command = .* or url"),
        (lambda: McpServer(command=["x"], url="http://x"), ConfigError, "either command = .* or url"),
        (lambda: McpServer(command="x y"), ConfigError, "a list is needed"),
        (lambda: McpServer(command=["/does/not/exist"]), ToolError, "cannot be used: FileNotFoundError"),
        (lambda: McpServer(command=[sys.executable, "-c", "import sys; sys.exit('no key')"]), ToolError, "it wrote: no key"),
        (lambda: McpServer(command=["sleep", "30"], start_s=0.3), ToolError, "did not answer within 0.3 s"),
        (lambda: McpServer(url="http://127.0.0.1:9/mcp", start_s=5), ToolError, "cannot be used: .*"),
    ],
)
def test_a_server_that_cannot_be_used_is_found_out_at_the_door(server: Any, error: type[Exception], reason: str) -> None:
    with pytest.raises(error, match=reason):
        run(server(), [])


def test_a_tool_that_the_server_does_not_have_is_refused(script: Path) -> None:
    with pytest.raises(ConfigError, match="has no tool multiply; it has add, refuse"):
        run(stdio(script, only=["multiply"]), [])


@pytest.fixture
def http_server() -> Iterator[str]:
    import uvicorn

    namespace: dict[str, Any] = {"__name__": "served"}
    exec(SERVER, namespace)
    app = namespace["server"].streamable_http_app()
    served = uvicorn.Server(uvicorn.Config(app, log_level="critical"))
    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=served.run, args=([listening],), daemon=True)
        thread.start()
        while not served.started:
            time.sleep(0.01)
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/mcp"
        served.should_exit = True
        thread.join(60)


def test_a_server_over_http_is_called_like_one_over_stdio(http_server: str) -> None:
    for headers in ({}, {"Authorization": "Bearer t"}):
        found = run(McpServer(url=http_server, headers=headers), [Asked("add", {"a": 1, "b": 2}), Asked("refuse", {"why": "no"})])
        assert [one.record.status for one in found] == [CallStatus.OK, CallStatus.FAILED]  # type: ignore[union-attr]
        assert texts(found)[0] == "3"


def test_a_server_that_dies_in_a_rollout_leaves_that_rollout_unscored_and_the_others_go_on(script: Path) -> None:
    from rlvr.config import EnvConfig
    from rlvr.envs.make import EnvMaker
    from rlvr.envs.renderer import Renderer
    from rlvr.envs.rollout import RolloutRunner
    from rlvr.testing import ScriptedEngine
    from rlvr.trainers.model.tiny import tiny_tokenizer
    from rlvr.types import Message, Problem, Rollout, Sampling, Verdict

    class Grader:
        async def grade(self, rollout: Rollout) -> None:
            rollout.verdicts = {"any": Verdict.correct() if rollout.error is None else Verdict.error(rollout.error)}

    tokenizer = tiny_tokenizer("".join(chr(code) for code in range(32, 127)) + "\n")
    tokenizer.eos_token = "<eos>"
    died = False

    def says(prompt: tuple[int, ...], sampling: Any) -> list[int]:
        nonlocal died
        text = tokenizer.decode(list(prompt))
        call = '{"name": "add", "arguments": {"a": 1, "b": 2}}'
        if "die" in text:
            call, died = '{"name": "die", "arguments": {}}', True
        said = "done" if text.endswith("\n3\n") else f"<tool_call>{call}</tool_call>"
        return tokenizer.encode(said + "<eos>", add_special_tokens=False)

    async def main() -> list[Rollout]:
        renderer = Renderer(tokenizer)
        tool = {"name": "mcp", "command": [sys.executable, str(script)]}
        config = EnvConfig(tools=(tool,), format="hermes", args={"describe": False})
        async with EnvMaker(config, renderer) as env:
            runner = RolloutRunner(ScriptedEngine(says), renderer, env, Grader(), limits=env.limits)
            return [
                await runner.run(Problem(name, (Message("user", name),), ""), 0, Sampling(max_tokens=500))
                for name in ("a", "die", "b")
            ]

    before, broken, after = asyncio.run(main())
    assert died
    assert [one.is_scored for one in (before, broken, after)] == [True, False, True]
    assert "died during a call of die" in str(broken.error)
    assert [call.status for call in after.calls] == [CallStatus.OK]
