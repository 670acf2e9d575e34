"""How fast `rlvr view RUN --web` answers over many stored rollouts, asked over HTTP as its page asks.

    python benchmarks/view_speed.py [--rollouts 1000000] [--folder FOLDER]

Writes a run folder with the project's own writer (it is kept with --folder, and not written again), starts `rlvr view` on it as a
user does, and times: the first page while nothing is indexed, the index, the first page of a second start, and filters. Peer:
reading with `rlvr.evaluation.ledger`, which is what a page without an index would do for every filter. Exit code 1 above the
limits.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

from rlvr.evaluation.ledger import read_rollouts, rollout_to_json, write_rollouts
from rlvr.seeding import rng
from rlvr.types import CallStatus, Completion, FinishReason, Message, Problem, Rollout, Stop, ToolCall, Turn, Verdict

PER_STEP, GROUP, PROBLEMS = 1_000, 8, 20_000
FIRST_PAGE_MS, FILTER_MS = 300.0, 1_000.0
REPETITIONS = 7
WORDS = (
    "so",
    "the",
    "sum",
    "of",
    "both",
    "is",
    "therefore",
    "we",
    "carry",
    "one",
    "and",
    "multiply",
    "by",
    "two",
    "which",
    "leaves",
)
NEEDLE = "a very rare phrase"
FILTERS = {
    "newest": {},
    "reward > 0.5, tokens 60..90": {"reward": ">0.5", "tokens": "60..90"},
    "incorrect, sorted by tokens": {"outcome": "incorrect", "sort": "tokens"},
    "all, sorted by advantage": {"sort": "advantage", "direction": "up"},
    "all, sorted by problem": {"sort": "problem", "direction": "up"},
    "with a failed tool call": {"failed_calls": ">0"},
    "part of a problem's id": {"problem": "train/1234"},
    "steps 100..200, page 50": {"step": "100..200", "offset": "5000"},
    "text in all rollouts": {"text": "the answer is"},
    "text in one rollout": {"text": NEEDLE},
    "text, reward and sorting": {"text": "carry one", "reward": "<0.5", "sort": "tokens"},
}


@dataclass(frozen=True, slots=True)
class Asked:
    """A running `rlvr view`."""

    process: subprocess.Popen[str]
    host: str
    port: int

    def get(self, target: str) -> Any:
        """What GET `target` answers: JSON, or the bytes of a file."""
        connection = http.client.HTTPConnection(self.host, self.port, timeout=120)
        connection.request("GET", target)
        reply = connection.getresponse()
        body = reply.read()
        connection.close()
        if reply.status != 200:
            raise SystemExit(f"GET {target}: {reply.status} {body[:300]!r}")
        return json.loads(body) if reply.headers["Content-Type"] == "application/json" else body

    def rollouts(self, filters: dict[str, str]) -> tuple[dict[str, Any], float, int]:
        """(the whole answer, milliseconds until the first, answers until the search was through)."""
        began, answers = time.perf_counter(), 0
        first = 0.0
        while True:
            found = self.get("/api/rollouts?" + urlencode(filters))
            answers += 1
            first = first or 1e3 * (time.perf_counter() - began)
            if found["searched"] == 1:
                return found, first, answers

    def first_page_ms(self) -> float:
        """All that a browser asks for until the table is there."""
        began = time.perf_counter()
        page = self.get("/").decode()
        assert "main.js" in page
        for name in (
            "main.js",
            "view.css",
            "address.js",
            "api.js",
            "curves.js",
            "dom.js",
            "format.js",
            "group.js",
            "list.js",
            "parts.js",
            "rollout.js",
        ):
            self.get(f"/{name}")
        self.get("/api/state")
        rows = self.get("/api/rollouts?limit=100")["rows"]
        assert len(rows) == 100
        return 1e3 * (time.perf_counter() - began)

    def wait_until_indexed(self) -> float:
        began = time.perf_counter()
        while (run := self.get("/api/state")["runs"][0])["files_indexed"] < run["files"]:
            time.sleep(0.25)
        return time.perf_counter() - began


def write_run(folder: Path, rollouts: int) -> None:
    """A run of `rollouts` rollouts: one to three turns, about 60 sampled tokens and 500 characters each."""
    steps = rollouts // PER_STEP
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.toml").write_text(f'model = "synthetic"\ntask = "synthetic"\nsteps = {steps}\n')
    with (folder / "metrics.jsonl").open("w") as file:
        for step in range(1, steps + 1):
            row = {
                "step": step,
                "reward_mean": step / steps,
                "entropy": 1 / step,
                "groups": 125,
                "groups_without_signal": step % 125,
            }
            file.write(json.dumps(row) + "\n")
    pool = make_pool()
    for step in range(1, steps + 1):
        path = folder / "rollouts" / f"step-{step:06d}.jsonl.gz"
        if path.exists():
            continue
        write_rollouts(path, rows_of(step, pool))
        if step % 50 == 0:
            print(f"  written: step {step} of {steps}", file=sys.stderr, flush=True)


@dataclass(frozen=True, slots=True)
class Pool:
    """Parts that rollouts are made of, drawn once: drawing every token of a million rollouts would take longer than the rest."""

    texts: tuple[str, ...]
    ids: tuple[tuple[int, ...], ...]
    logprobs: tuple[float, ...]


def make_pool() -> Pool:
    draw = rng("view_speed", "pool")
    texts = tuple(" ".join(draw.choices(WORDS, k=60)) for _ in range(5_000))
    ids = tuple(tuple(draw.randrange(50_000) for _ in range(30 + draw.randrange(40))) for _ in range(5_000))
    return Pool(texts, ids, tuple(-draw.random() for _ in range(20_000)))


def rows_of(step: int, pool: Pool) -> Iterator[dict[str, Any]]:
    draw = rng("view_speed", step)
    for group in range(PER_STEP // GROUP):
        number = draw.randrange(PROBLEMS)
        prompt = (Message("user", f"Problem {number}: {draw.choice(pool.texts)}"),)
        problem = Problem(f"synthetic/train/{number}", prompt, number)
        prompt_ids = draw.choice(pool.ids)
        for sample in range(GROUP):
            turns, calls = [], draw.randrange(3)
            for turn in range(calls + 1):
                ids, first = draw.choice(pool.ids), draw.randrange(19_000)
                logprobs = pool.logprobs[first : first + len(ids)]
                text = draw.choice(pool.texts) + (f" {NEEDLE}" if (step, group, sample, turn) == (3, 7, 1, 0) else "")
                is_last = turn == calls
                status = CallStatus.OK if draw.random() < 0.9 else CallStatus.FAILED
                call = () if is_last else (ToolCall("calculator", {"expression": "1+1"}, status, 0.01),)
                replies = () if is_last else (Message("tool", str(draw.randrange(1000))),)
                message = Message("assistant", text + (f" the answer is {draw.randrange(100)}" if is_last else ""))
                turns.append(Turn(prompt_ids, Completion(ids, logprobs, FinishReason.STOP, step), message, replies, None, call))
            is_right = draw.random() < 0.6
            verdict = Verdict.correct(str(number)) if is_right else Verdict.incorrect("17", "another number than the gold answer")
            rollout = Rollout(problem, sample, turns, Stop.STOP, {"number": verdict}, verdict.score)
            yield rollout_to_json(rollout, step=step, group=group, advantage=draw.gauss(0, 1))


def start(folder: Path) -> Asked:
    command = [sys.executable, "-m", "rlvr", "view", str(folder), "--web", "--no-browser", "--json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert process.stdout is not None
    address = urlsplit(json.loads(process.stdout.readline())["url"])
    assert address.hostname is not None
    assert address.port is not None
    return Asked(process, address.hostname, address.port)


def end(asked: Asked) -> None:
    asked.process.terminate()
    asked.process.wait(timeout=60)


def cpu_s(asked: Asked) -> float:
    """Seconds of processor time of the server so far."""
    fields = Path(f"/proc/{asked.process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def peak_mb(asked: Asked) -> float:
    status = Path(f"/proc/{asked.process.pid}/status").read_text()
    return float(status.partition("VmHWM:")[2].split()[0]) / 1024


def main() -> int:
    parser = argparse.ArgumentParser(description="rlvr view --web at many rollouts")
    parser.add_argument("--rollouts", type=int, default=1_000_000)
    parser.add_argument("--folder", type=Path, help="where the synthetic run is, or is to be kept")
    parser.add_argument(
        "--keep-index", action="store_true", help="use the index of an earlier measurement, which is not made again"
    )
    args = parser.parse_args()
    if args.rollouts < 2 * PER_STEP:
        parser.error(f"--rollouts {args.rollouts}: at least {2 * PER_STEP} are needed")
    with tempfile.TemporaryDirectory(prefix="rlvr-view-speed-") as temporary:
        return measure(args.folder or Path(temporary) / "run", args.rollouts, keep_index=args.keep_index)


def measure_index(folder: Path, rollouts: int) -> float:
    """Milliseconds of the first page while nothing is indexed; prints how long the index takes."""
    for index in (folder / ".view").glob("*"):
        index.unlink()
    asked = start(folder)
    cold_ms = asked.first_page_ms()
    index_s, index_cpu_s = asked.wait_until_indexed(), cpu_s(asked)
    end(asked)
    print(f"{'first page, nothing indexed':<34} {cold_ms:8.0f} ms   limit {FIRST_PAGE_MS:.0f}")
    print(f"{'index made, in the background':<34} {index_s:8.1f} s    {rollouts / index_cpu_s:,.0f} rollouts per CPU-second")
    return cold_ms


def measure(folder: Path, rollouts: int, *, keep_index: bool) -> int:
    write_run(folder, rollouts)
    cold_ms = 0.0 if keep_index else measure_index(folder, rollouts)

    began = time.perf_counter()
    asked = start(folder)
    ready_s = time.perf_counter() - began
    warm_ms = asked.first_page_ms()
    loaded_s = asked.wait_until_indexed()
    pages_ms = [asked.first_page_ms() for _ in range(REPETITIONS)]
    total = asked.rollouts({})[0]["total"]
    print(f"{total:,} rollouts in {rollouts // PER_STEP:,} files")
    print(f"{'first page, second start':<34} {warm_ms:8.0f} ms   limit {FIRST_PAGE_MS:.0f}")
    print(f"{'first page, median of ' + str(REPETITIONS):<34} {statistics.median(pages_ms):8.0f} ms   limit {FIRST_PAGE_MS:.0f}")
    print(f"{'index read, second start':<34} {loaded_s:8.1f} s    the process answers after {ready_s:.2f} s")
    is_slow = max(cold_ms, warm_ms, statistics.median(pages_ms)) > FIRST_PAGE_MS or total != rollouts
    for name, filters in FILTERS.items():
        limit = {**filters, "limit": "100"}
        before_s = cpu_s(asked)
        found, first_ms, answers = asked.rollouts(limit)
        spent_ms = 1e3 * (cpu_s(asked) - before_s)
        began = time.perf_counter()
        asked.rollouts(limit)
        again_ms = 1e3 * (time.perf_counter() - began)
        is_slow |= first_ms > FILTER_MS
        parts = f", {answers} answers" if answers > 1 else ""
        print(
            f"{name:<34} {first_ms:8.0f} ms   CPU {spent_ms:.0f} ms   again {again_ms:.0f} ms   {found['total']:,} found{parts}"
        )
    memory_mb = peak_mb(asked)
    end(asked)
    began = time.perf_counter()
    newest = list(read_rollouts(max((folder / "rollouts").glob("step-*"))))
    read_s = time.perf_counter() - began
    whole_s = read_s * total / len(newest)
    print(f"{'reading all without an index':<34} {whole_s:8.0f} s    from the time for one file, {1e3 * read_s:.0f} ms")
    index_mb, stored_mb = size_mb(folder / ".view"), size_mb(folder / "rollouts")
    print(f"peak memory of the server {memory_mb:.0f} MB; index {index_mb:,.0f} MB, rollouts {stored_mb:,.0f} MB")
    return int(is_slow)


def size_mb(folder: Path) -> float:
    return sum(path.stat().st_size for path in folder.iterdir()) / 1e6


if __name__ == "__main__":
    sys.exit(main())
