"""A hundred thousand executions: do processes, descriptors, disk or memory grow, and how late is the slowest of a hundred?

A mix of programs, calls and checks, good and bad (exceptions, exits, files left behind, forks), from several threads. Prints
one row before, at every tenth, and after; "server" rows sum over the runner's own processes in all boxes.

    python benchmarks/sandbox_soak.py [--executions 100000] [--threads 4]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

from rlvr.sandbox.docker import DockerBackend
from rlvr.sandbox.engine import connect_engine
from rlvr.sandbox.jobs import Call, Calls, Checks, Job, Program
from rlvr.sandbox.pool import SandboxPool

P99_GOAL_MS = 50.0
JOBS: tuple[tuple[Job, bool], ...] = (  # and whether it comes to a good end
    (Program("print(sum(range(100)))"), True),
    (Calls("def f(x):\n    return x * 2", "f", (Call((2,)), Call(([1],)))), True),
    (Program("import os\nopen('left', 'w').write('x' * 1000)\nos.makedirs('a/b/c')\nprint(1)"), True),
    (Checks("def f(x):\n    return x + 1", ("f",), ("assert f(1) == 2",)), True),
    (Program("raise ValueError('as intended')"), False),
    (Program("import os\nif os.fork() == 0:\n    os.setsid()\n    import time\n    time.sleep(60)\nprint(1)"), True),
    (Program("import os; os._exit(3)"), False),
    (Program("x = bytearray(10_000_000); print(len(x))"), True),
)


@dataclass(frozen=True, slots=True)
class Sample:
    """What is in use: of this process, and of the runner's processes in all boxes (as this machine's /proc shows them)."""

    executions: int
    seconds: float
    client_fds: int
    client_threads: int
    client_rss_mb: float
    boxes: int
    server_processes: int
    server_fds: int
    server_rss_mb: float
    files_left: int


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--executions", type=int, default=100_000)
    parser.add_argument("--threads", type=int, default=4)
    options = parser.parse_args()
    with SandboxPool([DockerBackend()], slots=options.threads, recycle=10**9) as pool:
        for job, _ in JOBS * options.threads:
            pool.execute(job)
        samples, times = _soak(pool, options.executions, options.threads)
    _report(samples, times, options.executions)


def _soak(pool: SandboxPool, executions: int, threads: int) -> tuple[list[Sample], list[float]]:
    samples = [_sample(pool, 0, 0.0)]
    _show(samples[0], is_first=True)
    times: list[float] = []
    started = time.perf_counter()
    part = executions // 10
    with ThreadPoolExecutor(threads) as workers:
        for tenth in range(1, 11):
            shares = workers.map(lambda index: _run(pool, range(index, part, threads)), range(threads))
            times += [elapsed for share in shares for elapsed in share]
            samples.append(_sample(pool, tenth * part, time.perf_counter() - started))
            _show(samples[-1])
    return samples, times


def _run(pool: SandboxPool, numbers: range) -> list[float]:
    times = []
    for number in numbers:
        job, is_good = JOBS[number % len(JOBS)]
        started = time.perf_counter()
        done = pool.execute(job)
        times.append(time.perf_counter() - started)
        if done.is_success is not is_good:
            raise SystemExit(f"execution {number} ended as it should not: {done}")
    return times


def _sample(pool: SandboxPool, executions: int, seconds: float) -> Sample:
    client = connect_engine()
    boxes = pool.boxes()
    pids = [int(row[1]) for box in boxes for row in client.containers.get(box.name).top()["Processes"]]
    client.close()
    left = sum(
        int(pool.execute(Program("import os; print(len(os.listdir('.')) + len(os.listdir('/dev/shm')))")).stdout)
        for _ in range(8)
    )
    return Sample(
        executions=executions,
        seconds=round(seconds, 1),
        client_fds=len(os.listdir("/proc/self/fd")),
        client_threads=threading.active_count(),
        client_rss_mb=_rss_mb(os.getpid()),
        boxes=len(boxes),
        server_processes=len(pids),
        server_fds=sum(len(os.listdir(f"/proc/{pid}/fd")) for pid in pids),
        server_rss_mb=round(sum(map(_rss_mb, pids)), 1),
        files_left=left,
    )


def _rss_mb(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return round(pages * os.sysconf("SC_PAGE_SIZE") / 2**20, 1)


def _show(sample: Sample, *, is_first: bool = False) -> None:
    row = asdict(sample)
    if is_first:
        print(" ".join(f"{name:>16s}" for name in row))
    print(" ".join(f"{value:>16}" for value in row.values()), flush=True)


def _report(samples: list[Sample], times: list[float], executions: int) -> None:
    first, last = samples[0], samples[-1]
    cuts = statistics.quantiles(times, n=100)
    p99_ms = cuts[98] * 1e3
    growth = {name: getattr(last, name) - getattr(first, name) for name in asdict(last) if name not in ("executions", "seconds")}
    print(f"{executions / last.seconds:.0f} executions/s, p50 {cuts[49] * 1e3:.2f} ms, p99 {p99_ms:.2f} ms, goal {P99_GOAL_MS:g}")
    print(json.dumps({"benchmark": "sandbox_soak", "executions": executions, "p99_ms": round(p99_ms, 2), "growth": growth}))


if __name__ == "__main__":
    main()
