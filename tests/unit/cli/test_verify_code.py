"""`rlvr verify code`: many programs at a time, verdicts in order, and one clear error where there is no sandbox."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest

from rlvr.cli.main import main
from rlvr.errors import SandboxError
from rlvr.sandbox.jobs import Execution, Job, Limits, Returned, Status
from rlvr.sandbox.shared import use_sandbox
from rlvr.testing import FakeSandbox

TOGETHER = 8


class NoSandbox(FakeSandbox):
    def warm_up(self) -> None:
        raise SandboxError("no sandbox on this machine: start Docker")


def lines(path: Path, count: int) -> Path:
    tests = {"tests": {"type": "asserts", "setup": "", "asserts": ["assert f(1) == 2"]}}
    rows = [{"id": n, "answer": tests, "response": f"```python\ndef f(x): return {n}\n```"} for n in range(count)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_programs_run_many_at_a_time_and_verdicts_keep_their_order(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    together = threading.Barrier(TOGETHER)

    def answer(job: Job, limits: Limits) -> Execution:
        together.wait(30.0)  # returns once so many are under way
        number = int(getattr(job, "code", "").rpartition(" ")[2])
        return Execution(Status.EXITED, returned=(Returned(number),))

    with use_sandbox(FakeSandbox(answer)):
        assert main(["verify", "code", str(lines(tmp_path / "in.jsonl", 2 * TOGETHER)), "--workers", "1"]) == 0
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [one["id"] for one in found] == list(range(2 * TOGETHER))
    assert [one["id"] for one in found if one["outcome"] == "correct"] == [2]


@pytest.mark.parametrize("arguments", [["in.jsonl"], ["in.jsonl", "--out", "out.jsonl"], ["--audit"]])
def test_without_a_sandbox_nothing_is_begun(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    lines(tmp_path / "in.jsonl", 1)
    with use_sandbox(NoSandbox()):
        assert main(["verify", "code", *arguments]) == 3
    said = capsys.readouterr()
    assert said.err.strip() == "error: no sandbox on this machine: start Docker"
    assert not said.out
    assert not (tmp_path / "out.jsonl").exists()
