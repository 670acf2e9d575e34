"""The verifier `code` over the real sandbox: every problem's reference program is right, and near misses of it are wrong.

Set RLVR_DATA to the folder with the data sets; without it, those tests are skipped.
"""

from __future__ import annotations

import ast
import asyncio
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from rlvr.envs.tasks import Task, load_task
from rlvr.envs.validate import gold_response
from rlvr.sandbox.pool import SandboxPool
from rlvr.sandbox.shared import use_sandbox
from rlvr.testing import check_verifier
from rlvr.types import Message, Outcome, Problem, Rollout, Verdict
from rlvr.verifiers.runner import Grader, WeightedVerifier

# Programs that solve some of the Code Jam problems, written for these tests; the archive has none.
CONTEST = Path(__file__).parent / "contest"
GOLDEN = Path(__file__).parents[1] / "golden" / "code.jsonl"
# Returning the first argument, or True, passes the tests of these: the tests are weak, and known to be.
WEAK = {
    "first argument": {"mbpp/404", "mbpp/698", "mbpp/847", "mbpp_sanitized/404"},
    "True": {"mbpp/899"},
}

needs_data = pytest.mark.skipif(not os.environ.get("RLVR_DATA"), reason="RLVR_DATA names no folder with data")


pytestmark = pytest.mark.filterwarnings("ignore:invalid escape sequence")  # in the reference programs


@pytest.fixture(autouse=True)
def shared(sandbox: SandboxPool) -> Iterator[None]:
    with use_sandbox(sandbox):
        yield


def grade(rollouts: Sequence[Rollout], **settings: Any) -> list[Verdict]:
    async def run() -> None:
        async with Grader([WeightedVerifier("code", 1.0, settings)], threads=8) as grader, asyncio.TaskGroup() as group:
            for rollout in rollouts:
                group.create_task(grader.grade(rollout))

    asyncio.run(run())
    return [next(iter(rollout.verdicts.values())) for rollout in rollouts]


def grade_one(answer: Any, response: str, prompt: str = "?", **settings: Any) -> Verdict:
    problem = Problem("p", (Message("user", prompt),), answer)
    return grade([Rollout.from_response(problem, response)], **settings)[0]


def fenced(code: str, language: str = "python") -> str:
    return f"```{language}\n{code}\n```"


def every_problem(task: Task) -> list[Problem]:
    return [problem for split in task.splits for problem in task.problems(split)]


def not_graded(outcome: Outcome, problems: Sequence[Problem], responses: Sequence[str], **settings: Any) -> dict[str, str]:
    """The problems whose response got another outcome, and why."""
    rollouts = [Rollout.from_response(*pair) for pair in zip(problems, responses, strict=True)]
    graded = zip(problems, grade(rollouts, **settings), strict=True)
    return {problem.id: f"{one.outcome}: {one.reason[:200]}" for problem, one in graded if one.outcome is not outcome}


# -- every problem of the data sets

FUNCTIONS = ("humaneval", "mbpp", "mbpp_sanitized")
SIZES = {"humaneval": 98, "mbpp": 474, "mbpp_sanitized": 170, "gcca": 118}


@needs_data
@pytest.mark.parametrize("name", SIZES)
def test_every_reference_program_is_right(name: str) -> None:
    task = load_task(name)
    problems = every_problem(task)
    assert len(problems) >= SIZES[name]
    golds = [gold_response(task, problem) for problem in problems]
    assert None not in golds
    settings = dict(task.verifiers[0].args)
    assert not_graded(Outcome.CORRECT, problems, [gold or "" for gold in golds], **settings) == {}


@needs_data
def test_the_body_of_every_humaneval_function_is_right_and_returning_nothing_is_wrong() -> None:
    problems = every_problem(load_task("humaneval"))
    bodies = [problem.metadata["solution"][len(problem.answer["tests"]["prompt"]) :] for problem in problems]
    assert not_graded(Outcome.CORRECT, problems, bodies) == {}
    assert not_graded(Outcome.INCORRECT, problems, ["    return None\n"] * len(problems)) == {}


NUDGE = """
def _nudged(value):
    if isinstance(value, bool) or value is None:
        return not value
    if isinstance(value, (int, float, complex)):
        return value + 1
    if isinstance(value, str):
        return value + "x"
    if isinstance(value, (list, tuple)):
        return value + type(value)([0])
    if isinstance(value, (set, frozenset)):
        return value ^ {0}
    if isinstance(value, dict):
        return {**value, "x": 1}
    return None

def _nudging(function):
    return lambda *args, **kwargs: _nudged(function(*args, **kwargs))

"""


def nearly_right(problem: Problem) -> str:
    """The reference program, whose functions each return something close to what they should."""
    tests = problem.answer["tests"]
    tree = ast.parse(problem.metadata["solution"])
    called = {tests["entry_point"]} if "entry_point" in tests else _called("\n".join(tests["asserts"]))
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and node.name in called:
            # Outside the function, so that its own recursion stays right.
            wrapped = ast.parse(f"{node.name} = _nudging({node.name})").body
            tree.body += wrapped
    return fenced(NUDGE + ast.unparse(tree))


def _called(tests: str) -> set[str]:
    calls = (node for node in ast.walk(ast.parse(tests)) if isinstance(node, ast.Call))
    return {node.func.id for node in calls if isinstance(node.func, ast.Name)}


@needs_data
@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_program_that_returns_nearly_the_right_value_is_wrong(name: str) -> None:
    problems = every_problem(load_task(name))
    assert not_graded(Outcome.INCORRECT, problems, [nearly_right(problem) for problem in problems]) == {}


class _Mutant(ast.NodeTransformer):
    """Changes the first operator or comparison that it meets."""

    SWAPS = {
        ast.Add: ast.Sub,
        ast.Sub: ast.Add,
        ast.Mult: ast.Add,
        ast.Mod: ast.FloorDiv,
        ast.FloorDiv: ast.Mod,
        ast.Pow: ast.Mult,
    }
    TURNS = {
        ast.Eq: ast.NotEq,
        ast.NotEq: ast.Eq,
        ast.Lt: ast.GtE,
        ast.LtE: ast.Gt,
        ast.Gt: ast.LtE,
        ast.GtE: ast.Lt,
        ast.In: ast.NotIn,
    }

    def __init__(self) -> None:
        self.is_done = False

    def visit_BinOp(self, node: ast.BinOp) -> ast.AST:
        swap = self.SWAPS.get(type(node.op))  # type: ignore[arg-type]
        if not self.is_done and swap is not None:
            self.is_done, node.op = True, swap()
        return self.generic_visit(node)

    def visit_Compare(self, node: ast.Compare) -> ast.AST:
        turn = self.TURNS.get(type(node.ops[0]))  # type: ignore[arg-type]
        if not self.is_done and turn is not None:
            self.is_done, node.ops = True, [turn(), *node.ops[1:]]
        return self.generic_visit(node)


@needs_data
@pytest.mark.parametrize(("name", "share"), [("humaneval", 0.9), ("mbpp", 0.9), ("mbpp_sanitized", 0.9)])
def test_most_programs_with_one_operator_changed_are_wrong(name: str, share: float) -> None:
    """Not all: some operators do not matter, and some tests do not look."""
    problems, mutants = [], []
    for problem in every_problem(load_task(name)):
        mutant = _Mutant()
        tree = mutant.visit(ast.parse(problem.metadata["solution"]))
        if mutant.is_done:
            problems.append(problem)
            mutants.append(fenced(ast.unparse(tree)))
    survivors = not_graded(Outcome.INCORRECT, problems, mutants, time_limit_s=2.0)
    assert all(said.startswith("correct") for said in survivors.values())
    assert len(survivors) <= (1 - share) * len(problems), survivors


STUBS = {
    "None": "lambda *args, **kwargs: None",
    "True": "lambda *args, **kwargs: True",
    "0": "lambda *args, **kwargs: 0",
    "[]": "lambda *args, **kwargs: []",
    "first argument": "lambda *args, **kwargs: args[0] if args else None",
}


@needs_data
@pytest.mark.parametrize("stub", STUBS)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_programs_that_ignore_the_task_are_wrong_except_where_the_tests_are_known_to_be_weak(name: str, stub: str) -> None:
    problems = every_problem(load_task(name))
    responses = []
    for problem in problems:
        tests = problem.answer["tests"]
        names = {tests["entry_point"]} if "entry_point" in tests else _called(tests["setup"] + "\n" + "\n".join(tests["asserts"]))
        responses.append(fenced("\n".join(f"{one} = {STUBS[stub]}" for one in sorted(names) if one not in ("set", "int"))))
    passed = not_graded(Outcome.INCORRECT, problems, responses)
    known = WEAK.get(stub, set()) & {problem.id for problem in problems}
    assert set(passed) == known, passed


@needs_data
def test_a_table_of_the_right_outputs_with_one_word_changed_is_wrong() -> None:
    task = load_task("gcca")
    problems = every_problem(task)
    responses = []
    for problem in problems:
        cases = problem.answer["tests"]["cases"]
        words = cases[-1]["output"].split(" ")
        changed = " ".join([*words[:-1], "0" if words[-1].strip() != "0" else "1"])
        tests = {**problem.answer["tests"], "cases": [*cases[:-1], {**cases[-1], "output": changed}]}
        other = Problem(problem.id, problem.prompt, {"tests": tests})
        responses.append(task.adapter.gold_response(other) or "")
    assert not_graded(Outcome.INCORRECT, problems, responses, **task.verifiers[0].args) == {}
    assert not_graded(Outcome.INCORRECT, problems, [fenced('print("Case #1: 0")')] * len(problems)) == {}


def contest_problem(path: Path) -> Problem:
    found = [problem for problem in every_problem(load_task("gcca")) if problem.id.endswith(f"/{path.stem}")]
    if not found:
        pytest.skip(f"{path.stem} is not in this copy of the data")
    return found[0]


def whole(solve: str) -> str:
    """A program for standard input around a `solve` for one test case."""
    return f'{solve}\n\nfor case in range(1, int(input()) + 1):\n    print(f"Case #{{case}}: {{solve()}}")\n'


@needs_data
@pytest.mark.parametrize("path", sorted(CONTEST.glob("*.py")), ids=lambda path: path.stem)
def test_contest_programs_are_right_and_a_missing_line_is_wrong(path: Path) -> None:
    problem, program = contest_problem(path), whole(path.read_text(encoding="utf-8"))
    wrong = program.replace("in range(1, int(input()) + 1)", "in range(1, int(input()))")
    right, cut = grade([Rollout.from_response(problem, fenced(code)) for code in (program, wrong)], time_limit_s=20.0)
    assert right.outcome is Outcome.CORRECT, right.reason
    assert right.details["route"] == "program"
    assert cut.outcome is Outcome.INCORRECT


@needs_data
@pytest.mark.parametrize("path", sorted(CONTEST.glob("*.cpp")), ids=lambda path: path.stem)
def test_contest_programs_in_cpp_are_right_and_a_changed_condition_is_wrong(path: Path) -> None:
    problem, program = contest_problem(path), path.read_text(encoding="utf-8")
    programs = [program, program.replace("m > n &&", "m >= n &&")]
    rollouts = [Rollout.from_response(problem, fenced(one, "cpp")) for one in programs]
    right, wrong = grade(rollouts, language="cpp", time_limit_s=20.0)
    assert right.outcome is Outcome.CORRECT, right.reason
    assert right.details["route"] == "binary"
    assert wrong.outcome is Outcome.INCORRECT


# -- what the verifier promises


def test_golden_cases_and_the_rules_of_every_verifier_hold() -> None:
    check_verifier("code", GOLDEN, timeout_s=60.0)


ADD = {"tests": {"type": "asserts", "setup": "", "asserts": ["assert add(1, 2) == 3"]}}
PROGRAM = {"tests": {"type": "stdin_stdout", "cases": [{"input": "1 2\n", "output": "3\n"}]}}
LOOPED = {"tests": {"type": "asserts", "setup": "", "asserts": ["for i in range(3):\n    assert add(i, 1) == i + 1"]}}


@pytest.mark.parametrize("answer", [ADD, PROGRAM, LOOPED], ids=["calls", "program", "checks"])
@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("", None),
        ("\0", "compile_error"),
        ("x = '\ud800'", "compile_error"),
        ("# -*- coding: latin-1 -*-\nx = '\xe9'\nraise KeyError", "runtime_error"),
        ("# -*- coding: nonsense -*-\nx = 1", None),
        ("(" * 100_000 + ")" * 100_000, None),
        ("x = " + "[" * 100_000, None),
        ("-" * 300_000 + "1", None),
        ("x" * 999_000, None),
        ("x = 1\n" * 160_000, None),
        ("def add(a, b:\n    return 3", "compile_error"),
        ("import nowhere", "runtime_error"),
        ("import sys\nsys.setrecursionlimit(10**9)\ndef f(): f()\nf()", None),
        ("def add(a, b):\n    return add(b, a)\nadd(1, 2)", "runtime_error"),
        ("raise SystemExit", None),
        ("import os\nos._exit(0)", None),
        ("import os\nos.kill(os.getpid(), 9)", "runtime_error"),
        ("import ctypes\nctypes.string_at(0)", "runtime_error"),
        ("print('x' * 10**8)", None),
        ("import sys\nsys.stdout.close()", None),
        ("\t\x0c\x1a", None),
        ("\ufeffx = 1", None),
    ],
    ids=lambda given: repr(given)[:40] if isinstance(given, str) else "",
)
def test_odd_programs_score_0_with_a_reason(answer: Any, code: str, kind: str | None) -> None:
    verdict = grade_one(answer, fenced(code), time_limit_s=2.0, memory_limit_mb=256)
    assert verdict.score == 0.0
    assert verdict.reason
    if kind is not None and "kind" in verdict.details:
        assert verdict.details["kind"] == kind, verdict.reason


@pytest.mark.parametrize(
    ("answer", "code", "kind"),
    [
        (ADD, "def add(a, b):\n    while True: pass", "time_out"),
        (ADD, "while True: pass", "time_out"),
        (ADD, "import time\ndef add(a, b): time.sleep(60)", "time_out"),
        (ADD, "def add(a, b):\n    return bytearray(10**10)", "out_of_memory"),
        (ADD, "x = bytearray(10**10)", "out_of_memory"),
        (ADD, "def add(a, b): return 4", "wrong_answer"),
        (ADD, "def add(a, b): return 1 / 0", "runtime_error"),
        (LOOPED, "def add(a, b):\n    while True: pass", "time_out"),
        (LOOPED, "def add(a, b): return 4", "wrong_answer"),
        (LOOPED, "def add(a, b): return 1 / 0", "runtime_error"),
        (LOOPED, "def add(a, b:", "compile_error"),
        (PROGRAM, "while True: pass", "time_out"),
        (PROGRAM, "import time; time.sleep(60)", "time_out"),
        (PROGRAM, "x = bytearray(10**10)", "out_of_memory"),
        (PROGRAM, "print(4)", "wrong_answer"),
        (PROGRAM, "print(3); 1 / 0", "runtime_error"),
        (PROGRAM, "print(3); raise SystemExit(2)", "runtime_error"),
        (PROGRAM, "print('3' * 10**6)", "truncated_output"),
        (PROGRAM, "print(3", "compile_error"),
    ],
)
def test_failures_are_told_apart(answer: Any, code: str, kind: str) -> None:
    verdict = grade_one(answer, fenced(code), time_limit_s=0.5, total_limit_s=0.5, memory_limit_mb=512)
    assert verdict.outcome is Outcome.INCORRECT
    assert verdict.details["kind"] == kind, verdict.reason
    assert verdict.details["image"].startswith("sha256:")


def test_a_call_that_is_late_is_the_last_unless_every_test_counts() -> None:
    tests = {"tests": {"type": "asserts", "setup": "", "asserts": [f"assert f({n}) == {n}" for n in range(4)]}}
    response = fenced("def f(n):\n    while n == 1: pass\n    return n")
    stopped = grade_one(tests, response, time_limit_s=0.3)
    assert [test["kind"] for test in stopped.details["tests"]] == ["passed", "time_out", "not_run", "not_run"]
    counted = grade_one(tests, response, time_limit_s=0.3, scoring="fraction")
    assert counted.score == 0.75


def test_libraries_of_the_image_can_be_used() -> None:
    tests = {"tests": {"type": "calls", "fn_name": "norm", "inputs": [[[3, 4]]], "outputs": [5.0]}}
    response = fenced("import numpy as np\n\ndef norm(xs: List[float]) -> float:\n    return np.linalg.norm(np.array(xs))")
    verdict = grade_one(tests, response)
    assert verdict.outcome is Outcome.CORRECT, verdict.reason
