"""The code tasks: what is read from a row, and what stands in the prompt."""

from __future__ import annotations

from typing import Any

import pytest

from rlvr.envs.tasks import Draft, load_task
from rlvr.envs.tasks.adapter import RowReader
from rlvr.envs.validate import gold_response
from rlvr.types import Message, Problem

STUB = 'def one() -> int:\n    """Give 1."""\n'
BODY = "    return 1\n"
CHECK = "def check(candidate):\n    assert candidate() == 1\n"


def read(name: str, row: dict[str, Any], **args: Any) -> Draft:
    adapter = load_task(name, args).adapter
    assert isinstance(adapter, RowReader)
    draft = adapter.read(row)
    assert draft is not None
    return draft


@pytest.mark.parametrize(
    "row",
    [
        {"task_id": "HumanEval/7", "prompt": STUB, "canonical_solution": BODY, "test": CHECK, "entry_point": "one"},
        {
            "id": "humaneval/7",
            "prompt": STUB,
            "tests": {"type": "humaneval", "entry_point": "one", "code": CHECK},
            "meta": {"split": "test", "orig": {"task_id": "HumanEval/7", "canonical_solution": BODY}},
        },
    ],
)
def test_humaneval_keeps_the_prompt_with_the_tests(row: dict[str, Any]) -> None:
    draft = read("humaneval", row)
    assert draft.id == "humaneval/7"
    assert draft.prompt == f"```python\n{STUB.strip()}\n```"
    assert draft.answer == {"tests": {"type": "humaneval", "entry_point": "one", "code": CHECK, "prompt": STUB}}
    assert draft.metadata == {"solution": STUB + BODY}


MBPP = {
    "task_id": 8,
    "text": "Write a function to square.",
    "code": "def sq(x):\r\n  return x * x",
    "test_list": ["assert sq(1) == 1", "assert sq(2) == 4"],
    "test_setup_code": "",
    "challenge_test_list": ["assert sq(-3) == 9"],
}


def test_mbpp_shows_the_first_test_and_says_which_are_public() -> None:
    draft = read("mbpp", MBPP)
    assert draft.id == "mbpp/008"
    assert draft.prompt == ("Write a function to square.\n\nYour code must pass this test:\n\n```python\nassert sq(1) == 1\n```")
    assert draft.answer["tests"]["asserts"] == MBPP["test_list"]
    assert draft.answer["tests"]["challenge"] == MBPP["challenge_test_list"]
    assert draft.answer["tests"]["public"] == 1
    assert draft.metadata == {"solution": "def sq(x):\n  return x * x"}


def test_mbpp_shows_as_many_tests_as_it_is_told() -> None:
    draft = read("mbpp", MBPP, shown=3)
    assert "these tests:\n\n```python\nassert sq(1) == 1\nassert sq(2) == 4\n```" in str(draft.prompt)
    assert draft.answer["tests"]["public"] == 2


def test_sanitized_mbpp_has_its_imports_in_the_setup() -> None:
    row = {"task_id": 9, "prompt": "p", "code": "c", "test_imports": ["import math"], "test_list": ["assert f(1) == math.pi"]}
    draft = read("mbpp_sanitized", row)
    assert draft.id == "mbpp_sanitized/009"
    assert draft.answer["tests"]["setup"] == "import math"


def test_gcca_has_a_program_that_looks_its_answers_up() -> None:
    cases = [{"group": "sample", "input": "1\n5\n", "output": "Case #1: 6"}]
    tests = {"type": "stdin_stdout", "checker": {"type": "tokens"}, "cases": cases}
    row = {"id": "gcca/x", "prompt": "Add one.", "tests": tests, "meta": {"name": "x", "contest": "c", "split": "archive"}}
    draft = read("gcca", row)
    assert draft.metadata == {"name": "x", "contest": "c"}
    gold = gold_response(load_task("gcca"), Problem("gcca/x", (), draft.answer))
    assert gold is not None
    assert "'Case #1: 6'" in gold
    assert "'1\\n5\\n'" not in gold


def test_the_reference_program_of_a_row_is_its_gold_response_and_without_one_there_is_none() -> None:
    task = load_task("mbpp")
    problem = Problem("p", (Message("user", "?"),), {"tests": {}}, {"solution": "def f(): pass"})
    assert gold_response(task, problem) == "```python\ndef f(): pass\n```"
    assert gold_response(task, Problem("p", (), {"tests": {}})) is None


@pytest.mark.parametrize("name", ["humaneval", "mbpp", "mbpp_sanitized", "gcca"])
def test_code_tasks_ask_for_one_block_and_are_graded_by_code(name: str) -> None:
    task = load_task(name)
    assert [one.name for one in task.verifiers] == ["code"]
    assert "test" in task.splits
