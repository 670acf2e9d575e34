"""Tools on two 'nodes' of a Ray cluster: what holds for those of one machine holds there, too."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pytest

from rlvr.config import EngineConfig, EnvConfig
from rlvr.engines.make import tool_host
from rlvr.envs.make import EnvMaker
from rlvr.envs.renderer import Renderer
from rlvr.envs.rollout import RolloutRunner
from rlvr.errors import ConfigError, PluginError, ToolError
from rlvr.integrations.ray_tools import RayTools, tools_on_nodes
from rlvr.testing import ScriptedEngine
from rlvr.tools.base import Scope
from rlvr.tools.function import tool
from rlvr.tools.make import ToolReference, tools_here
from rlvr.tools.parse import Asked
from rlvr.tools.toolbox import Called, CallLimits, Toolbox
from rlvr.types import JSON, CallStatus, Message, Problem, Rollout, Sampling, Stop, Verdict

T = TypeVar("T")
PLUGINS = Path(__file__).parent / "plugins" / "tools.py"
END = 0x110000

pytestmark = pytest.mark.processes


def named(*names: str) -> list[ToolReference]:
    return [ToolReference(f"{PLUGINS}:{name}" if name.islower() and name != "python" else name, {}) for name in names]


def opened(names: Sequence[str], work: Callable[[Toolbox, RayTools], Awaitable[T]], call_s: float = 20.0) -> T:
    """What `work` finds with these tools on the cluster."""

    async def main() -> T:
        pool = RayTools(named(*names))
        async with Toolbox([pool], CallLimits(call_s=call_s)) as box:
            return await work(box, pool)

    return asyncio.run(main())


async def asked(box: Toolbox, scope: Scope, *calls: tuple[str, dict[str, JSON]]) -> tuple[Called, ...]:
    return await box.run([Asked(name, arguments) for name, arguments in calls], scope)


async def answers(box: Toolbox, scope: Scope, *calls: tuple[str, dict[str, JSON]]) -> list[Any]:
    return [json.loads(one.answer.text) for one in await asked(box, scope, *calls)]


def test_calls_without_a_state_go_to_the_node_with_the_least_to_do(cluster: Any) -> None:
    async def work(box: Toolbox, pool: RayTools) -> None:
        assert box.specs == tuple(made.spec for made in tools_here(named("where")))  # type: ignore[union-attr]
        pids = await pool.pids()
        assert len(set(pids)) == 2
        found = await answers(box, box.open_scope(), *[("where", {})] * 20)
        assert set(found) == set(pids)
        assert os.getpid() not in found

    opened(["where"], work)


def test_calls_that_share_a_state_stay_on_a_node_and_rollouts_are_spread(cluster: Any) -> None:
    async def work(box: Toolbox, pool: RayTools) -> None:
        scopes = [box.open_scope() for _ in range(6)]

        async def rollout(scope: Scope) -> int:
            [first, counted], [second, seen] = await answers(box, scope, ("count", {}), ("share", {}))
            assert (counted, seen in (0, 1)) == (1, True)  # tools of one message run at the same time, in one scope
            [third, counted], [fourth, again] = await answers(box, scope, ("count", {}), ("count", {}))
            assert (counted, again) == (2, 3)
            assert first == second == third == fourth
            one, two = await asked(box, scope, ("python", {"code": "x = 20"}), ("python", {"code": "x + 1"}))
            assert (one.record.status, two.answer.text) == (CallStatus.OK, "21")
            return int(first)

        places = await asyncio.gather(*map(rollout, scopes))
        assert sorted(map(places.count, await pool.pids())) == [3, 3]
        await asyncio.gather(*(scope.close() for scope in scopes))
        assert not any(pool._sessions.values())

    opened(["count", "share", "python"], work)


def test_a_tools_own_faults_are_those_that_it_has_on_one_machine(cluster: Any, tmp_path: Path) -> None:
    calls: list[tuple[str, dict[str, JSON]]] = [
        ("fail", {"kind": "raise"}),
        ("fail", {"kind": "object"}),
        ("fail", {"kind": "bytes"}),
        ("fail", {}),
        ("fial", {}),
        ("wait", {"note": str(tmp_path / "over")}),
    ]

    async def work(box: Toolbox, pool: Any = None) -> list[tuple[CallStatus, str]]:
        scope = box.open_scope()
        found = [(one.record.status, one.answer.text) for one in await asked(box, scope, *calls)]
        with pytest.raises(ToolError, match="the tool's own key is missing"):
            await asked(box, scope, ("fail", {"kind": "config"}))
        return found

    async def here() -> list[tuple[CallStatus, str]]:
        async with Toolbox(tools_here(named("fail", "wait")), CallLimits(call_s=2.0)) as box:
            return await work(box)

    found = opened(["fail", "wait"], work, call_s=2.0)
    assert found == asyncio.run(here())
    statuses = [status for status, _ in found]
    wrong = [CallStatus.BAD_ARGUMENTS, CallStatus.UNKNOWN_TOOL, CallStatus.TIMED_OUT]
    assert statuses == [CallStatus.FAILED, CallStatus.OK, CallStatus.OK, *wrong]


def test_a_call_that_nobody_waits_for_ends_on_its_node(cluster: Any, tmp_path: Path) -> None:
    async def work(box: Toolbox, pool: RayTools) -> None:
        note = tmp_path / "ended"
        waiting = asyncio.create_task(asked(box, box.open_scope(), ("wait", {"note": str(note)})))
        deadline = time.monotonic() + 240.0
        while not Path(f"{note}.begun").exists():
            assert time.monotonic() < deadline
            await asyncio.sleep(0.02)
        assert any(member.in_flight for member in pool._living().members)
        waiting.cancel()
        while not note.exists():
            assert time.monotonic() < deadline
            await asyncio.sleep(0.02)

    opened(["wait"], work, call_s=120.0)


def test_a_call_whose_actor_dies_is_asked_once_more_and_no_oftener(cluster: Any, tmp_path: Path) -> None:
    async def work(box: Toolbox, pool: RayTools) -> None:
        lives = tmp_path / "lives"
        before = await pool.pids()
        lives.write_text("one")
        [found] = await answers(box, box.open_scope(), ("die", {"lives": str(lives)}))
        assert found in await pool.pids()
        assert pool.losses == 1
        lives.write_text("two\none")
        with pytest.raises(ToolError, match=r"an actor for tools was lost: .* \(2 attempts\)"):
            await asked(box, box.open_scope(), ("die", {"lives": str(lives)}))
        assert pool.losses == 3
        [found] = await answers(box, box.open_scope(), ("die", {"lives": str(lives)}))  # and the run goes on
        assert found not in before

    opened(["die"], work)


def test_a_rollout_whose_session_is_lost_ends_unscored_and_the_others_go_on(cluster: Any) -> None:
    async def work(box: Toolbox, pool: RayTools) -> None:
        first, second = box.open_scope(), box.open_scope()
        [[one, _]] = await answers(box, first, ("count", {}))
        [[two, _]] = await answers(box, second, ("count", {}))
        assert one != two
        os.kill(one, signal.SIGKILL)
        for _ in range(2):
            with pytest.raises(ToolError, match=r"was lost.*and with it what the tools of this rollout had kept"):
                await asked(box, first, ("count", {}))
        assert await answers(box, second, ("count", {})) == [[two, 2]]
        third = box.open_scope()
        [[_, times]] = await answers(box, third, ("count", {}))
        assert times == 1
        for scope in (first, second, third):
            await scope.close()  # nothing is left to close where the actor is gone
        assert pool.losses == 1

    opened(["count"], work)


class Characters:
    """A tokenizer of characters; the end-of-sequence token has no text."""

    chat_template = None
    eos_token_id = END
    all_special_tokens = ("<|end|>",)

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        return [ord(character) for character in text]

    def decode(self, token_ids: Sequence[int], *, skip_special_tokens: bool = False) -> str:
        return "".join(chr(token) for token in token_ids if token != END)

    def apply_chat_template(self, conversation: Any, **settings: Any) -> Any:
        raise AssertionError("there is no template")


class Grader:
    async def grade(self, rollout: Rollout) -> None:
        rollout.reward = None if rollout.error is not None else 1.0
        rollout.verdicts = {"any": Verdict.correct() if rollout.error is None else Verdict.error(rollout.error)}


def test_a_node_that_goes_away_takes_its_rollouts_with_it_and_no_others(nodes: Any, cluster: Any) -> None:
    """A third node, gone in the middle: its rollouts have no score, those of the others have theirs."""
    third = nodes.add_node(num_cpus=1, object_store_memory=80 * 2**20)
    nodes.wait_for_nodes()
    renderer = Renderer(Characters())  # type: ignore[arg-type]
    call = '<tool_call>{"name": "count", "arguments": {}}</tool_call>'

    async def main() -> tuple[list[Rollout], list[Rollout]]:
        turns, waiting = asyncio.Event(), asyncio.Semaphore(0)
        paused: list[str] = []

        class Paused(ScriptedEngine):
            """Waits after every rollout's first call until the node is gone."""

            async def generate(self, prompt_ids: Sequence[int], sampling: Sampling) -> Any:
                text = renderer.tokenizer.decode(prompt_ids)
                if "count" in text.partition("?")[2]:
                    paused.append(text)
                    waiting.release()
                    await turns.wait()
                return await super().generate(prompt_ids, sampling)

        def script(prompt: tuple[int, ...], sampling: Sampling) -> list[int]:
            said = renderer.tokenizer.decode(prompt).count("<tool_response>")
            return [*map(ord, call if said < 2 else "done"), END]

        engine = Paused(script)
        config = EnvConfig(tools=(f"{PLUGINS}:count",), format="hermes", args={"describe": False})
        async with EnvMaker(config, renderer, make_tools=tools_on_nodes) as env:
            runner = RolloutRunner(engine, renderer, env, Grader())
            problem = Problem("p", (Message("user", "Count?"),), "3")
            group = asyncio.create_task(runner.run_group(problem, 6, Sampling(max_tokens=1000), "seed"))
            for _ in range(6):
                await waiting.acquire()
            await asyncio.to_thread(nodes.remove_node, third, allow_graceful=False)
            said = "".join(paused)
            places = [Path("/proc", pid) for pid in set(re.findall(r"\[(\d+), 1\]", said))]
            assert len(places) == 3
            deadline = time.monotonic() + 240.0
            while all(place.exists() for place in places):  # a process outlives its node by a moment
                assert time.monotonic() < deadline
                await asyncio.sleep(0.05)
            turns.set()
            rollouts = (await group).rollouts
            later = (await runner.run_group(problem, 2, Sampling(max_tokens=1000), "again")).rollouts
            return list(rollouts), list(later)

    rollouts, later = asyncio.run(main())
    lost = [rollout for rollout in rollouts if rollout.error is not None]
    assert len(lost) == 2, [rollout.error for rollout in lost]
    assert all(rollout.reward is None and rollout.stop is Stop.ERROR for rollout in lost)
    assert all("was lost" in str(rollout.error) for rollout in lost)
    assert [rollout.reward for rollout in rollouts if rollout.error is None] == [1.0] * 4
    assert [rollout.reward for rollout in later] == [1.0] * 2


def test_tools_that_nodes_cannot_find_or_set_up_are_refused_before_anything_starts() -> None:
    @tool("nearby")
    def nearby() -> str:
        """Only this process has it."""
        return "here"

    with pytest.raises(PluginError, match="runs on the nodes of a Ray cluster, which cannot find it"):
        RayTools([ToolReference("nearby", {})])
    with pytest.raises(ConfigError, match="tool 'python' has no setting 'session'; it has sessions, memory_mb"):
        RayTools([ToolReference("python", {"session": 3})])
    with pytest.raises(PluginError, match="did you mean 'python'"):
        RayTools([ToolReference("pyton", {})])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Differs", "the nodes of the Ray cluster have different tools under the same names"),
        ("Absent", r"the tools Absent cannot be had on a node of the Ray cluster: .*corpus\.jsonl is not on this machine"),
    ],
)
def test_nodes_that_lack_a_tool_or_have_another_one_end_the_run_at_its_start(cluster: Any, name: str, message: str) -> None:
    async def start() -> None:
        async with Toolbox([RayTools([ToolReference(f"{PLUGINS}:{name}", {})])]):
            raise AssertionError("it was opened")

    with pytest.raises(ToolError, match=message):
        asyncio.run(start())


def test_a_run_with_ray_has_its_tools_on_its_nodes_and_any_other_run_here() -> None:
    assert tool_host(EngineConfig(name="ray")) is tools_on_nodes
    assert tool_host(EngineConfig()) is tools_here
    assert tools_on_nodes([]) == []
