"""The sandbox against its limits and its peers, in one run: plain subprocess, os.fork, docker run, docker exec.

Everybody runs the same trivial submission with one test. A ratio is executions per second of ours over the other's, the
median over rounds that alternate between both sides, so that a noisy machine meets both alike. CPU is what all parties
spend together (client, containers, engine), read from /proc.

    python benchmarks/sandbox.py [--rounds 5] [--seconds 1.0] [--concurrency 2 4 8]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from rlvr.sandbox.docker import DockerBackend
from rlvr.sandbox.engine import connect_engine
from rlvr.sandbox.image_build import ensure_image
from rlvr.sandbox.jobs import Call, Calls, Checks, Job, Program
from rlvr.sandbox.pool import SandboxPool

CODE = "def add(a, b):\n    return a + b\n"
SCRIPT = CODE + "print(add(2, 3))\n"
ANSWER = b"5\n"
SLOW_EXECUTIONS = 8  # of docker run and docker exec, in each round
TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Side:
    """One way to run the submission; `once` raises where the answer is wrong."""

    name: str
    once: Callable[[], None]
    count: int | None = None  # executions in a round; None: as many as fit in the time


def main() -> None:
    options = _arguments()
    with ExitStack() as stack:
        pools = _pools(stack, max(options.concurrency))
        sides = _sides(stack, pools)
        rates = _measure(sides, options.rounds, options.seconds, options.concurrency)
        cpu = _cpu_per_execution(sides)
        extra = _sessions(pools["unix socket"]) | _life_cycle()
    _report(rates, cpu, extra, options.concurrency)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--concurrency", type=int, nargs="+", default=[2, 4, 8])
    return parser.parse_args()


def _pools(stack: ExitStack, slots: int) -> dict[str, SandboxPool]:
    backends = {
        "unix socket": DockerBackend(),
        "exec stream": DockerBackend(transport="exec"),
        "namespaces": DockerBackend(has_namespaces=True),
    }
    pools = {name: stack.enter_context(SandboxPool([backend], slots=slots)) for name, backend in backends.items()}
    for pool in pools.values():
        pool.warm_up()
    return pools


def _sides(stack: ExitStack, pools: dict[str, SandboxPool]) -> list[Side]:
    plain = pools["unix socket"]
    calls = Calls(CODE, "add", (Call((2, 3)),))
    checks = Checks(CODE, ("add",), ("assert add(2, 3) == 5",))
    science = Program("import numpy, sympy\n" + SCRIPT)
    container = _idle_container(stack)
    return [
        Side("subprocess python3 -I", _subprocess),
        Side("os.fork floor", _Forker(stack)),
        Side("ours: program", _job(plain, Program(SCRIPT))),
        Side("ours: call", _job(plain, calls)),
        Side("ours: exec stream", _job(pools["exec stream"], Program(SCRIPT))),
        Side("ours: namespaces", _job(pools["namespaces"], Program(SCRIPT))),
        Side("ours: numpy, sympy loaded", _job(plain, science)),
        Side("ours: split judge", _job(plain, checks)),
        Side("docker exec", lambda: _docker_exec(container), SLOW_EXECUTIONS),
        Side("docker run", _docker_run, SLOW_EXECUTIONS),
    ]


def _job(pool: SandboxPool, job: Job) -> Callable[[], None]:
    def once() -> None:
        done = pool.execute(job)
        right = done.stdout == ANSWER or done.passed == (True,) or (done.returned and done.returned[0].value == 5)
        if not right:
            raise SystemExit(f"the sandbox gave a wrong answer: {done}")

    return once


def _subprocess() -> None:
    done = subprocess.run([sys.executable, "-I", "-c", SCRIPT], capture_output=True, check=True)
    assert done.stdout == ANSWER


class _Forker:
    """The floor: fork a process that has everything loaded, run the submission, send back what it printed. No isolation.

    It runs in a server process of its own for every client thread, as a fork server does: forking a process with threads and
    torch-sized memory would measure that instead.
    """

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self._local = threading.local()
        self._servers: list[subprocess.Popen[bytes]] = []
        stack.callback(self._stop)

    def __call__(self) -> None:
        server = getattr(self._local, "server", None)
        if server is None:
            server = self._local.server = subprocess.Popen(
                [sys.executable, "-I", "-c", _FORK_SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE
            )
            self._servers.append(server)
        assert server.stdin is not None
        assert server.stdout is not None
        server.stdin.write(b"x")
        server.stdin.flush()
        assert server.stdout.read(len(ANSWER)) == ANSWER

    def _stop(self) -> None:
        for server in self._servers:
            server.communicate()


_FORK_SERVER = f"""
import array, ast, bisect, collections, contextlib, copy, dataclasses, datetime, decimal, enum, fractions, functools, heapq
import io, itertools, json, math, numbers, operator, os, random, re, statistics, string, struct, sys, textwrap
import threading, time, traceback, types, typing
SCRIPT = {SCRIPT!r}
while os.read(0, 1):
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.dup2(writer, 1)
        exec(compile(SCRIPT, "<s>", "exec"), {{"__name__": "__main__"}})
        sys.stdout.flush()
        os._exit(0)
    os.close(writer)
    out = os.read(reader, 100)
    os.waitpid(pid, 0)
    os.close(reader)
    os.write(1, out)
"""


def _idle_container(stack: ExitStack) -> str:
    client = connect_engine()
    container = client.containers.run(
        ensure_image(client).tag, ["python3", "-c", "import time; time.sleep(3600)"], detach=True, network_mode="none"
    )
    stack.callback(client.close)
    stack.callback(lambda: container.remove(force=True))
    return str(container.id)


_clients = threading.local()


def _client() -> object:
    if not hasattr(_clients, "client"):
        _clients.client = connect_engine()
        _clients.tag = ensure_image(_clients.client).tag
    return _clients.client


def _docker_exec(container: str) -> None:
    api = _client().api  # type: ignore[attr-defined]
    started = api.exec_create(container, ["python3", "-I", "-c", SCRIPT])
    assert api.exec_start(started["Id"]) == ANSWER


def _docker_run() -> None:
    client = _client()
    output = client.containers.run(  # type: ignore[attr-defined]
        _clients.tag, ["python3", "-I", "-c", SCRIPT], remove=True, network_mode="none"
    )
    assert output == ANSWER


def _measure(sides: list[Side], rounds: int, seconds: float, concurrency: list[int]) -> dict[tuple[str, int], list[float]]:
    rates: dict[tuple[str, int], list[float]] = {}
    for side in sides:
        side.once()
    for index in range(rounds):
        for threads in concurrency:
            for side in sides if index % 2 == 0 else reversed(sides):
                rates.setdefault((side.name, threads), []).append(_rate(side, threads, seconds))
        print(f"round {index + 1} of {rounds}", file=sys.stderr)
    return rates


def _rate(side: Side, threads: int, seconds: float) -> float:
    """Executions per second with this many at a time."""
    deadline = time.perf_counter() + seconds

    def work(_: int) -> int:
        count = 0
        while count < side.count // threads if side.count else time.perf_counter() < deadline:
            side.once()
            count += 1
        return count

    started = time.perf_counter()
    with ThreadPoolExecutor(threads) as workers:
        total = sum(workers.map(work, range(threads)))
    return total / (time.perf_counter() - started)


def _cpu_per_execution(sides: list[Side], seconds: float = 1.5) -> dict[str, float]:
    """Milliseconds of the whole machine's CPU for one execution, two at a time, above what the idle machine uses."""
    found = {}
    for side in sides:
        with _machine_cpu() as idle:
            time.sleep(0.5)
        with _machine_cpu() as busy:
            started = time.perf_counter()
            rate = _rate(side, 2, seconds)
            elapsed = time.perf_counter() - started
        found[side.name] = max(busy[0] - idle[0] / 0.5 * elapsed, 0.0) / (rate * elapsed) * 1e3
    return found


@contextmanager
def _machine_cpu() -> Iterator[list[float]]:
    used: list[float] = []
    before = _busy_s()
    yield used
    used.append(_busy_s() - before)


def _busy_s() -> float:
    fields = [int(field) for field in Path("/proc/stat").read_text().splitlines()[0].split()[1:]]
    user, nice, system, _, _, irq, softirq = fields[:7]
    return (user + nice + system + irq + softirq) / TICKS


def _sessions(pool: SandboxPool, count: int = 64, cells: int = 30) -> dict[str, float]:
    async def one() -> float:
        session = await pool.open_session()
        times = []
        for _ in range(300):
            started = time.perf_counter()
            cell = await session.run("1 + 1")
            times.append(time.perf_counter() - started)
            assert cell.value == "2"
        await session.close()
        return statistics.median(times) * 1e3

    async def many() -> float:
        sessions = await asyncio.gather(*(pool.open_session() for _ in range(count)))

        async def use(index: int) -> None:
            for _ in range(cells):
                assert (await sessions[index].run("1 + 1")).value == "2"

        started = time.perf_counter()
        await asyncio.gather(*(use(index) for index in range(count)))
        rate = count * cells / (time.perf_counter() - started)
        await asyncio.gather(*(session.close() for session in sessions))
        return rate

    return {"session cell, p50 ms": asyncio.run(one()), f"{count} sessions, cells/s": asyncio.run(many())}


def _life_cycle(repeats: int = 5) -> dict[str, float]:
    backend = DockerBackend()
    starts, replaced = [], []
    client = connect_engine()
    for _ in range(repeats):
        started = time.perf_counter()
        with SandboxPool([backend], slots=4) as pool:
            pool.execute(Program(SCRIPT))
            starts.append(time.perf_counter() - started)
            client.containers.get(pool.boxes()[0].name).kill()
            started = time.perf_counter()
            pool.execute(Program(SCRIPT))
            replaced.append(time.perf_counter() - started)
    client.close()
    return {"container ready, s": statistics.median(starts), "replaced after a kill, s": statistics.median(replaced)}


GOALS = {  # ours: (other, at least)
    ("ours: program", "subprocess python3 -I"): 4.0,
    ("ours: exec stream", "subprocess python3 -I"): 2.5,
    ("ours: namespaces", "subprocess python3 -I"): 2.5,
    ("ours: numpy, sympy loaded", "subprocess python3 -I"): 2.0,
    ("ours: split judge", "subprocess python3 -I"): 1.8,
    ("ours: program", "os.fork floor"): 0.7,
    ("ours: program", "docker run"): 60.0,
    ("ours: program", "docker exec"): 20.0,
}


def _report(
    rates: dict[tuple[str, int], list[float]], cpu: dict[str, float], extra: dict[str, float], concurrency: list[int]
) -> None:
    names = list(dict.fromkeys(name for name, _ in rates))
    print(f"{'executions/s (median)':32s}" + "".join(f"{f'at {threads}':>9s}" for threads in concurrency) + f"{'CPU ms':>9s}")
    for name in names:
        cells = "".join(f"{statistics.median(rates[name, threads]):9.1f}" for threads in concurrency)
        print(f"{name:32s}{cells}{cpu[name]:9.2f}")
    ratios = {}
    for (ours, other), goal in GOALS.items():
        for threads in concurrency:
            pairs = zip(rates[ours, threads], rates[other, threads], strict=True)
            ratios[f"{ours} / {other} at {threads}"] = (statistics.median(a / b for a, b in pairs), goal)
    ratios["CPU: os.fork floor / ours: program"] = (cpu["os.fork floor"] / cpu["ours: program"], 0.8)
    print()
    for name, (ratio, goal) in ratios.items():
        print(f"{name:64s}{ratio:8.2f}x   goal {goal:g}x {'' if ratio >= goal else 'MISSED'}")
    for name, value in extra.items():
        print(f"{name:64s}{value:8.2f}")
    print(json.dumps({"benchmark": "sandbox", "ratios": {name: round(ratio, 3) for name, (ratio, _) in ratios.items()}, **extra}))


if __name__ == "__main__":
    main()
