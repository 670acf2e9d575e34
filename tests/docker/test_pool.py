"""What jobs give, and what a pool does when its boxes are lost."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from rlvr.errors import SandboxError
from rlvr.sandbox.docker import DockerBackend
from rlvr.sandbox.engine import connect_engine
from rlvr.sandbox.jobs import Binary, Call, Calls, Checks, Compile, Limits, Program, Status
from rlvr.sandbox.owner import LABEL_POOL
from rlvr.sandbox.plain import Opaque
from rlvr.sandbox.pool import SandboxPool

HELLO = Program("print('hello')")


@pytest.fixture
def fragile(docker_host: str) -> Iterator[SandboxPool]:
    """A pool of its own for tests that break things: one box with two slots."""
    with SandboxPool([DockerBackend(docker_host)], slots=2, sessions=2, patience_s=20) as pool:
        pool.warm_up()
        yield pool


def _slot_servers(container: str) -> list[int]:
    """Process ids on this machine; the supervisor, parent of all others, is not among them."""
    client = connect_engine()
    try:
        top = client.containers.get(container).top()
    finally:
        client.close()
    pid, parent = top["Titles"].index("PID"), top["Titles"].index("PPID")
    ours = {row[pid] for row in top["Processes"]}
    servers = [int(row[pid]) for row in top["Processes"] if row[parent] in ours and "/opt/rlvr/runner" in row[-1]]
    assert servers
    return servers


# -- jobs


def test_a_program_reads_stdin_and_its_streams_are_told_apart(sandbox: SandboxPool) -> None:
    done = sandbox.execute(Program("import sys\nprint(input()[::-1])\nprint('aside', file=sys.stderr)", b"abc\n"))
    assert done.is_success
    assert (done.stdout, done.stderr) == (b"cba\n", b"aside\n")
    assert done.image.startswith("sha256:")


def test_an_exception_ends_a_program_with_its_kind_and_exit_code_one(sandbox: SandboxPool) -> None:
    done = sandbox.execute(Program("print('so far')\nraise KeyError('gone')"))
    assert (done.status, done.exit_code, done.stdout) == (Status.EXITED, 1, b"so far\n")
    assert done.failure is not None
    assert (done.failure.kind, done.failure.message) == ("KeyError", "'gone'")
    assert b'File "<submission>", line 2' in done.stderr


@pytest.mark.parametrize(
    ("code", "limits", "status"),
    [
        ("while True: pass", Limits(cpu_s=1), Status.TIMED_OUT),
        ("import time; time.sleep(60)", Limits(wall_s=0.3), Status.TIMED_OUT),
        ("x = [0] * 10**9", Limits(), Status.OUT_OF_MEMORY),
        ("import os; os.kill(os.getpid(), 11)", Limits(), Status.KILLED),
        ("import os; os._exit(3)", Limits(), Status.EXITED),
    ],
)
def test_the_ways_in_which_a_program_ends_are_told_apart(sandbox: SandboxPool, code: str, limits: Limits, status: Status) -> None:
    done = sandbox.execute(Program(code), limits)
    assert done.status is status
    assert not done.is_success


def test_threads_and_exit_functions_get_their_end(sandbox: SandboxPool) -> None:
    code = """
    import atexit, threading, time
    atexit.register(print, "exit")
    def work():
        time.sleep(0.05)
        print("thread")
    threading.Thread(target=work).start()
    """
    assert sandbox.execute(Program(textwrap.dedent(code))).stdout == b"thread\nexit\n"


def test_output_is_cut_at_its_limit_and_said_so(sandbox: SandboxPool) -> None:
    done = sandbox.execute(Program("print('x' * 100_000)"), Limits(output_bytes=1000))
    assert len(done.stdout) == 1000
    assert done.stdout_bytes == 100_001
    assert done.is_truncated


def test_calls_keep_types_apart_and_one_failure_does_not_end_the_others(sandbox: SandboxPool) -> None:
    code = """
    def f(x):
        if x == 1: return (1, [2.5, {"a": {3}}])
        if x == 2: raise ValueError("two")
        if x == 3: raise SystemExit
        return object()
    """
    done = sandbox.execute(Calls(textwrap.dedent(code), "f", tuple(Call((x,)) for x in range(1, 5))))
    value, error, exit_, other = done.returned
    assert value.value == (1, [2.5, {"a": {3}}])
    assert error.failure is not None
    assert error.failure.kind == "ValueError"
    assert exit_.failure is not None
    assert exit_.failure.kind == "SystemExit"
    assert isinstance(other.value, Opaque)


def test_a_call_that_takes_too_long_does_not_cost_the_others(sandbox: SandboxPool) -> None:
    code = "def f(x):\n    while x: pass\n    return 'done'"
    done = sandbox.execute(Calls(code, "f", (Call((0,)), Call((1,)), Call((0,)))), Limits(call_s=0.5))
    assert [item.failure.kind if item.failure else item.value for item in done.returned] == ["done", "TimeoutError", "done"]


def test_a_method_of_solution_is_found(sandbox: SandboxPool) -> None:
    code = "class Solution:\n    def twice(self, x):\n        return 2 * x"
    for name in ("twice", "Solution.twice"):
        assert sandbox.execute(Calls(code, name, (Call((4,)),))).returned[0].value == 8


def test_checks_run_beside_the_submission_and_see_its_changes(sandbox: SandboxPool) -> None:
    code = """
    def extend(items): items.append(len(items)); return items
    class Node:
        def __init__(self, value): self.value = value
        def grow(self): self.value += 1; return self
    def boom(): raise LookupError("no")
    """
    tests = (
        "a = [5]\nassert extend(a) == [5, 1]\nassert a == [5, 1]",
        "n = Node(3)\nassert n.grow().value == 4\nn.value = 9\nassert n.grow().value == 10",
        "try:\n    boom()\nexcept LookupError as e:\n    assert str(e) == 'no'\nelse:\n    assert False",
        "assert extend([]) == [7]",
    )
    done = sandbox.execute(Checks(textwrap.dedent(code), ("extend", "Node", "boom"), tests, finish="assert extend([]) == [0]"))
    assert done.passed == (True, True, True, False, True)
    assert done.is_checked


def test_broken_tests_are_told_from_a_bad_submission(sandbox: SandboxPool) -> None:
    good = "def f(x): return x"
    broken = sandbox.execute(Checks(good, ("f",), ("assert f(1) == 1",), setup="import no_such_module"))
    assert not broken.is_checked
    assert sandbox.execute(Checks(good, ("f",), ("assert f(1 ==",))).is_checked is False
    assert "function" in sandbox.execute(Checks(good, ("f",), ("f(lambda: 1)",))).unsupported
    bad = sandbox.execute(Checks("def f(x): return", ("f",), ("assert f(1) == 1",), setup="import math"))
    assert bad.is_checked
    assert bad.passed == (False,)


def test_cpp_is_compiled_once_and_run_often(sandbox: SandboxPool) -> None:
    compiled = sandbox.execute(
        Compile("#include <iostream>\nint main() { int a; std::cin >> a; std::cout << 2 * a; }"), Limits(wall_s=60, cpu_s=60)
    )
    assert compiled.failure is None
    for number in (4, 21):
        assert sandbox.execute(Binary(compiled.binary, b"%d" % number)).stdout == b"%d" % (2 * number)
    wrong = sandbox.execute(Compile("int main() { return x; }"), Limits(wall_s=60, cpu_s=60))
    assert wrong.failure is not None
    assert "x" in wrong.failure.message


def test_numpy_is_warm(sandbox: SandboxPool) -> None:
    done = sandbox.execute(Program("import numpy, sympy; print(numpy.arange(3).sum(), sympy.factorint(12))"))
    assert done.stdout == b"3 {2: 2, 3: 1}\n"
    assert done.cpu_s < 0.3


@pytest.mark.parametrize(
    "code",
    [
        "",
        "\x00",
        "def f(:",
        "(" * 5000,
        "x" * 1_000_000,
        "\ud800",
        "# -*- coding: utf-7 -*-\n+AGE-",
        "f = " + "[" * 300 + "]" * 300,
    ],
    ids=["empty", "nul", "syntax", "parentheses", "long", "surrogate", "utf-7", "nested"],
)
def test_odd_submissions_are_executions_like_others(sandbox: SandboxPool, code: str) -> None:
    assert sandbox.execute(Program(code)).status is Status.EXITED
    assert sandbox.execute(Calls(code, "f", (Call(),))).returned == ()


# -- several at a time


def test_coroutines_share_the_slots_and_keep_their_answers(sandbox: SandboxPool) -> None:
    async def many() -> list[bytes]:
        done = await asyncio.gather(*(sandbox.run(Program(f"print({number} ** 2)")) for number in range(60)))
        return [execution.stdout for execution in done]

    assert asyncio.run(many()) == [b"%d\n" % number**2 for number in range(60)]


def test_cancelling_ends_the_submission_and_frees_the_slot(fragile: SandboxPool) -> None:
    async def cancelled() -> float:
        started = time.monotonic()
        sleeper = [asyncio.create_task(fragile.run(Program("import time; time.sleep(60)"), Limits(wall_s=60))) for _ in range(2)]
        await asyncio.sleep(0.2)
        for task in sleeper:
            task.cancel()
        await asyncio.gather(*sleeper, return_exceptions=True)
        assert all(task.cancelled() for task in sleeper)
        assert (await fragile.run(HELLO)).stdout == b"hello\n"
        return time.monotonic() - started

    assert asyncio.run(cancelled()) < 45


# -- faults


def test_a_killed_container_is_replaced_and_the_job_repeated(fragile: SandboxPool) -> None:
    box, lane = fragile.boxes()[0], fragile._lanes["standard"]
    results: list[bytes] = []
    for pid in _slot_servers(box.name):
        os.kill(pid, signal.SIGSTOP)  # it answers nothing before it is killed
    thread = threading.Thread(target=lambda: results.append(fragile.execute(HELLO).stdout))
    thread.start()
    while len(lane._idle) == 2:
        time.sleep(0.001)
    client = connect_engine()
    client.containers.get(box.name).kill()
    client.close()
    thread.join(60)
    assert results == [b"hello\n"]
    assert fragile.boxes()[0].name != box.name


def test_a_runner_that_stops_answering_is_replaced(docker_host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rlvr.sandbox.pool.ANSWER_GRACE_S", 0.5)
    monkeypatch.setattr("rlvr.sandbox.lane.PING_S", 0.5)
    with SandboxPool([DockerBackend(docker_host)], slots=1, patience_s=20) as pool:
        pool.warm_up()
        stuck = pool.boxes()[0]
        for pid in _slot_servers(stuck.name):
            os.kill(pid, signal.SIGSTOP)
        assert pool.execute(HELLO, Limits(wall_s=0.5)).stdout == b"hello\n"
        assert pool.boxes()[0].name != stuck.name


def test_a_slot_server_that_dies_comes_back(fragile: SandboxPool) -> None:
    box = fragile.boxes()[0]
    for pid in _slot_servers(box.name):
        os.kill(pid, signal.SIGKILL)
    assert [fragile.execute(HELLO).stdout for _ in range(4)] == [b"hello\n"] * 4
    assert fragile.boxes()[0].name == box.name


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # docker-py drops the socket that did not connect
def test_no_engine_is_a_sandbox_error_that_says_what_to_do() -> None:
    with pytest.raises(SandboxError, match="set DOCKER_HOST"):
        DockerBackend("unix:///nowhere/docker.sock")
    gc.collect()


def test_worn_out_boxes_are_replaced_without_a_failure(docker_host: str) -> None:
    with SandboxPool([DockerBackend(docker_host)], slots=2, recycle=5) as pool:
        names = set()
        for _ in range(17):
            assert pool.execute(HELLO).stdout == b"hello\n"
            names |= {box.name for box in pool.boxes()}
    assert len(names) >= 3


def test_boxes_of_a_killed_process_end_themselves(docker_host: str, tmp_path: Path) -> None:
    script = tmp_path / "owner.py"
    script.write_text(
        "import time\nfrom rlvr.sandbox.docker import DockerBackend\nfrom rlvr.sandbox.pool import SandboxPool\n"
        "pool = SandboxPool([DockerBackend(pool='test-killed')], slots=1)\npool.warm_up()\n"
        "print('up', flush=True)\ntime.sleep(600)\n"
    )
    owner = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    assert owner.stdout.readline() == "up\n"
    owner.kill()
    owner.wait()
    owner.stdout.close()
    client = connect_engine()
    mine = {"label": f"{LABEL_POOL}=test-killed"}
    deadline = time.monotonic() + 60
    while client.containers.list(filters=mine) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert client.containers.list(filters=mine) == []
    for container in client.containers.list(all=True, filters=mine):
        container.remove(force=True)
    client.close()


# -- other transports


@pytest.mark.parametrize("settings", [{"transport": "exec"}, {"has_namespaces": True}], ids=["exec", "namespaces"])
def test_other_ways_to_run_give_the_same(docker_host: str, settings: dict[str, object]) -> None:
    with SandboxPool([DockerBackend(docker_host, **settings)], slots=2) as pool:  # type: ignore[arg-type]
        assert pool.execute(HELLO).stdout == b"hello\n"
        assert pool.execute(Calls("def f(x): return {x}", "f", (Call((1,)),))).returned[0].value == {1}
        assert pool.execute(Checks("def f(x): return -x", ("f",), ("assert f(1) == -1", "assert f(1) == 1"))).passed == (
            True,
            False,
        )
        assert pool.execute(Program("while True: pass"), Limits(cpu_s=1)).status is Status.TIMED_OUT
        assert pool.execute(HELLO).stdout == b"hello\n"
