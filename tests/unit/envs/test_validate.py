from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from rlvr.envs.tasks import load_task
from rlvr.envs.validate import Fault, gold_response, validate
from rlvr.errors import TaskError
from rlvr.sandbox.jobs import Execution, Job, Limits, Returned, Status
from rlvr.sandbox.shared import use_sandbox
from rlvr.testing import FakeSandbox

SPEC = """
description = "Numbers."
max_tokens = 8
[[verifiers]]
name = "{verifier}"
[[splits.train]]
hub = "nobody/nothing"
split = "train"
[[splits.test]]
hub = "nobody/nothing"
split = "test"
"""
ADAPTER = """
from rlvr.envs.tasks import Draft, RowReader
from rlvr.types import Verdict

class Adapter(RowReader):
    def read(self, row):
        return Draft(row["prompt"], row["answer"], id=row.get("id"), metadata=row.get("metadata", {}))
"""
GENEROUS = """
from rlvr.types import Verdict
from rlvr.verifiers.base import verifier

@verifier("generous", isolated=False)
def generous(problem, rollout):
    return Verdict.correct()
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RLVR_DATA", str(tmp_path / "data"))
    (tmp_path / "data" / "mine").mkdir(parents=True)
    (tmp_path / "mine").mkdir()
    return tmp_path / "mine"


def faults(folder: Path, verifier: str = "number", **splits: list[dict[str, Any]]) -> dict[str, list[tuple[str, Fault]]]:
    (folder / "task.toml").write_text(SPEC.format(verifier=verifier))
    (folder / "adapter.py").write_text(ADAPTER)
    for split, rows in splits.items():
        path = folder.parent / "data" / "mine" / f"{split}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    reports = asyncio.run(validate(load_task(str(folder)), list(splits)))
    return {report.split: [(finding.problem_id, finding.fault) for finding in report.findings] for report in reports}


def row(i: int, **changes: Any) -> dict[str, Any]:
    return {"id": f"r{i}", "prompt": f"{i}?", "answer": str(i), **changes}


def test_sound_task_has_no_findings(folder: Path) -> None:
    assert faults(folder, train=[row(i) for i in range(5)], test=[row(i) for i in range(5, 8)]) == {"train": [], "test": []}


def test_gold_that_its_verifier_cannot_read_is_listed(folder: Path) -> None:
    assert faults(folder, train=[row(1), row(2, answer="two"), row(3)]) == {"train": [("r2", Fault.VERIFIER_ERROR)]}


def test_gold_that_its_own_verifier_refuses_is_listed(folder: Path) -> None:
    found = faults(folder, "exact", train=[row(1), row(2, answer="2} or \\boxed{3"), row(3)])
    assert found == {"train": [("r2", Fault.GOLD_FAILS)]}


def test_verifier_that_passes_everything_is_found_out(folder: Path) -> None:
    (folder.parent / "generous.py").write_text(GENEROUS)
    found = faults(folder, f"{folder.parent}/generous.py:generous", train=[row(1), row(2)])
    expected = [("r1", Fault.EMPTY_PASSES), ("r1", Fault.WRONG_PASSES), ("r2", Fault.EMPTY_PASSES), ("r2", Fault.WRONG_PASSES)]
    assert found == {"train": expected}


def test_equal_answers_written_differently_are_no_fault(folder: Path) -> None:
    assert faults(folder, train=[row(1, answer="0.5"), row(2, answer="1/2"), row(3), row(4)]) == {"train": []}


def test_duplicate_ids_blank_prompts_and_shared_prompts_are_listed(folder: Path) -> None:
    train = [row(1), row(2, id="r1"), row(3, prompt=" ")]
    found = faults(folder, train=train, test=[row(4), row(5, prompt="1?")])
    assert found == {
        "train": [("r1", Fault.DUPLICATE_ID), ("r3", Fault.EMPTY_PROMPT)],
        "test": [("r5", Fault.TEST_IN_TRAIN)],
    }


def test_gold_that_is_no_text_needs_the_adapters_help(folder: Path) -> None:
    with pytest.raises(TaskError, match=r"task mine, problem r1: the gold answer is no text; give the adapter a gold_response"):
        faults(folder, train=[row(1, answer={"x": 1})])


def test_every_problem_is_reported_as_done() -> None:
    seen: list[tuple[str, int, int]] = []
    asyncio.run(validate(load_task("chains"), ["test"], limit=5, on_problem=lambda *step: seen.append(step)))
    assert seen == [("test", done, 5) for done in range(1, 6)]


def test_gold_response_has_the_form_that_the_verifier_reads(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "plain.jsonl").write_text(json.dumps({"prompt": "1+1?", "answer": 2}))
    task = load_task(str(tmp_path / "plain.jsonl"))
    assert gold_response(task, task.problems("all")[0]) == "\\boxed{2}"


def test_math_rows_are_graded_in_worker_processes(tmp_path: Path) -> None:
    rows = [{"prompt": "a?", "answer": r"\frac{1}{2}"}, {"prompt": "b?", "answer": "x^2+1"}, {"prompt": "c?", "answer": "17"}]
    (tmp_path / "plain.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (report,) = asyncio.run(validate(load_task(str(tmp_path / "plain.jsonl")), ["all"], workers=1))
    assert (report.problems, report.findings) == (3, ())


def gives(job: Job, limits: Limits) -> Execution:
    """What a program that says "gives N" would have returned."""
    number = int(getattr(job, "code", "").rpartition("gives ")[2] or 0)
    return Execution(Status.EXITED, returned=(Returned(number),))


def problem_of(name: str, *asserts: str, solution: str | None) -> dict[str, Any]:
    tests = {"type": "asserts", "setup": "", "asserts": list(asserts)}
    metadata = {} if solution is None else {"solution": solution}
    return {"id": name, "prompt": f"{name}?", "answer": {"tests": tests}, "metadata": metadata}


def test_reference_programs_are_graded_and_broken_tests_are_listed(folder: Path) -> None:
    rows = [
        problem_of("right", "assert f(0) == 1", solution="def f(x): ...  # gives 1"),
        problem_of("refused", "assert f(0) == 2", solution="def f(x): ...  # gives 3"),
        problem_of("broken", "assert f(0) =", solution="def f(x): ...  # gives 4"),
        problem_of("broken and without a program", "assert 1 == 1", solution=None),
        problem_of("without a program", "assert f(0) == 5", solution=None),
    ]
    sandbox = FakeSandbox(gives)
    with use_sandbox(sandbox):
        found = faults(folder, "code", train=rows)
    assert found == {
        "train": [
            ("refused", Fault.GOLD_FAILS),
            ("broken", Fault.VERIFIER_ERROR),
            ("broken and without a program", Fault.VERIFIER_ERROR),
        ]
    }
    assert sandbox.warm_ups == 1
