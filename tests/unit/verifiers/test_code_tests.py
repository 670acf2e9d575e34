"""Reading tests: the shapes of the data sets, and what is wrong with broken ones."""

from __future__ import annotations

import json
from typing import Any

import pytest

from rlvr.errors import VerifierError
from rlvr.verifiers.code_checkers import Checker
from rlvr.verifiers.code_checks import plan_asserts, plan_check
from rlvr.verifiers.code_tests import AssertTests, CallCase, CallTests, HumanEvalTests, IoCase, IoTests, read_tests

ASSERTS = {"type": "asserts", "setup": "import math", "asserts": ["assert f(1) == 2"], "challenge": ["assert f(2) == 3"]}
IO_CASES = [{"group": "sample", "input": "1\n", "output": "2"}, {"group": "subtask1", "input": "3\n", "output": "4", "score": 7}]
IO = {"type": "stdin_stdout", "checker": {"type": "tokens", "float_tolerance": 1e-6, "case_sensitive": False}, "cases": IO_CASES}


@pytest.mark.parametrize("wrap", [lambda t: {"tests": t}, lambda t: t, json.dumps, lambda t: {"tests": json.dumps(t)}])
def test_tests_stand_in_the_answer_or_are_it_or_are_its_json_text(wrap: Any) -> None:
    assert read_tests(wrap(ASSERTS), {}).tests == AssertTests("import math", ("assert f(1) == 2",), ("assert f(2) == 3",))


def test_humaneval_brings_its_prompt_where_it_has_one() -> None:
    tests = {"type": "humaneval", "entry_point": "f", "code": "def check(c): pass"}
    assert read_tests({"tests": tests}, {}).tests == HumanEvalTests("f", "def check(c): pass")
    assert read_tests({"tests": {**tests, "prompt": "def f():\n"}}, {}).tests == HumanEvalTests(
        "f", "def check(c): pass", "def f():\n"
    )


def test_samples_are_public_and_the_checker_is_the_data_sets() -> None:
    found = read_tests({"tests": IO}, {}).tests
    assert isinstance(found, IoTests)
    assert found.checker == Checker("tokens", 1e-6, is_case_sensitive=False)
    assert found.cases == (
        IoCase("test 1 (sample)", b"1\n", b"2", is_public=True),
        IoCase("test 2 (subtask1)", b"3\n", b"4", is_public=False),
    )


def test_calls_have_arguments_and_values() -> None:
    tests = {"type": "calls", "fn_name": "f", "inputs": [[1, "a"], [[2]]], "outputs": [[3], None], "public": 1, "time_limit_s": 2}
    found = read_tests({"tests": tests}, {})
    assert found.time_limit_s == 2.0
    assert found.tests == CallTests(
        "f",
        (CallCase("test 1", (1, "a"), ([3],), is_public=True), CallCase("test 2", ([2],), (None,), is_public=False)),
    )


def test_livecodebench_writes_a_line_of_json_for_each_argument() -> None:
    tests = {"fn_name": "f", "inputs": ['[1, 2]\n"a"'], "outputs": ["3.5"]}
    found = read_tests(tests, {}).tests
    assert found == CallTests("f", (CallCase("test 1", ([1, 2], "a"), (3.5,), is_public=False),))


def test_livecodebenchs_columns_are_read_with_the_functions_name_from_the_metadata() -> None:
    cases = [{"input": "1\n2", "output": "3", "testtype": "functional"}]
    found = read_tests(json.dumps(cases), {"func_name": "f"}).tests
    assert found == CallTests("f", (CallCase("test 1", (1, 2), (3,), is_public=False),))
    programs = read_tests([{"input": "1\n2", "output": "3", "testtype": "stdin"}], {}).tests
    assert isinstance(programs, IoTests)
    assert programs.checker.kind == "numbers"


def test_apps_has_lists_of_arguments_and_often_a_list_around_the_output() -> None:
    found = read_tests({"fn_name": "f", "inputs": [[[1, 2], 3]], "outputs": [[4]]}, {}).tests
    assert found == CallTests("f", (CallCase("test 1", ([1, 2], 3), ([4], 4), is_public=False),))


def test_apps_without_a_function_is_a_program_and_lists_are_lines() -> None:
    found = read_tests({"inputs": ["1 2\n", ["a", "b"]], "outputs": ["3\n", ["c"]]}, {}).tests
    assert isinstance(found, IoTests)
    assert [(case.input, case.output) for case in found.cases] == [(b"1 2\n", b"3\n"), (b"a\nb", b"c")]


def deep(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (None, "tests are NoneType"),
        (5, "tests are int"),
        ("", "no JSON with tests"),
        ("72", "tests are int"),
        ("{", "no JSON with tests"),
        ({}, "unknown type of tests: None"),
        ({"tests": {}}, "unknown type of tests: None"),
        ({"tests": {"type": "pytest"}}, "unknown type of tests: 'pytest'"),
        ({"tests": []}, "at least one"),
        ({"tests": [1]}, "objects with input and output"),
        ({"tests": {"type": "asserts", "asserts": []}}, "there is no test"),
        ({"tests": {"type": "asserts", "asserts": "assert 1"}}, "not JSON"),
        ({"tests": {"type": "asserts", "asserts": [1]}}, r"asserts\[0\] is 1"),
        ({"tests": {"type": "asserts", "setup": 3, "asserts": ["assert f()"]}}, "'setup' of the tests is int"),
        ({"tests": {"type": "humaneval", "code": "x"}}, "'entry_point' of the tests is missing"),
        ({"tests": {"type": "humaneval", "entry_point": "f", "code": ""}}, "'code' of the tests is ''"),
        ({"tests": {"type": "stdin_stdout", "cases": []}}, "there is no test"),
        ({"tests": {"type": "stdin_stdout", "cases": [3]}}, "test 1 is int"),
        ({"tests": {"type": "stdin_stdout", "cases": [{"input": "1"}]}}, "test 1 has output = None"),
        ({"tests": {"type": "stdin_stdout", "checker": {"type": "judge"}, "cases": IO_CASES}}, "unknown checker 'judge'"),
        ({"tests": {"type": "stdin_stdout", "checker": {"float_tolerance": -1}, "cases": IO_CASES}}, "float_tolerance is -1"),
        ({"tests": {"type": "calls", "inputs": [], "outputs": []}}, "fn_name is missing"),
        ({"tests": {"type": "calls", "fn_name": "f", "inputs": [], "outputs": []}}, "there is no test"),
        ({"tests": {"type": "calls", "fn_name": "f()", "inputs": [[1]], "outputs": [1]}}, "no name of a function"),
        ({"tests": {"type": "calls", "fn_name": "f", "inputs": [[1]], "outputs": []}}, "1 inputs, but 0 outputs"),
        ({"tests": {"type": "calls", "fn_name": "f", "inputs": [1], "outputs": [1]}}, r"inputs\[0\] is int"),
        ({"tests": {"type": "calls", "fn_name": "f", "inputs": [deep(80)], "outputs": [1]}}, "nests more than"),
        ({"fn_name": "f", "inputs": ["{"], "outputs": ["1"]}, r"inputs\[0\] of the tests is not JSON"),
        ({"fn_name": "f", "inputs": [3], "outputs": ["1"]}, r"inputs\[0\] is int"),
        ({"type": "calls", "fn_name": "f", "inputs": [[1]], "outputs": [1], "time_limit_s": 0}, "time_limit_s of the tests is 0"),
    ],
)
def test_broken_tests_say_what_is_wrong(answer: Any, words: str) -> None:
    with pytest.raises(VerifierError, match=words):
        read_tests(answer, {})


def test_tests_are_read_once_for_all_the_rollouts_of_a_problem() -> None:
    answer = {"tests": ASSERTS}
    assert read_tests(answer, {}).tests is read_tests(answer, {}).tests
    assert read_tests({"tests": ASSERTS}, {}).tests == read_tests(answer, {}).tests
    cases = [{"input": "1", "output": "2", "testtype": "functional"}]
    names = [getattr(read_tests(cases, {"func_name": name}).tests, "function", "") for name in ("f", "g")]
    assert names == ["f", "g"]


# -- tests that must run as code


def test_what_the_tests_call_and_do_not_define_is_the_submissions() -> None:
    plan = plan_asserts("root = Node(1)\nroot.left = Node(2)", ("assert height(root) == 2", "assert len([1]) == 1"))
    assert plan.entry_points == ("Node", "height")
    assert plan.tests == ("assert height(root) == 2", "assert len([1]) == 1")


def test_modules_that_the_tests_forgot_are_imported_on_their_side() -> None:
    plan = plan_asserts("", ("assert f((1, 2)) == sys.getsizeof((1, 2))", "assert math.isclose(f(2), math.pi)"))
    assert plan.entry_points == ("f",)
    assert plan.setup.startswith("import math\nimport sys\n")


def test_a_check_gets_the_helpers_of_its_prompt_and_nothing_from_the_submission() -> None:
    code = "def check(candidate):\n    for x in range(3):\n        assert candidate(encode(x)) == x\n"
    plan = plan_check("def encode(x):\n    return x + 1\n", code, "decode")
    assert plan.entry_points == ("decode",)
    assert plan.setup.startswith("def encode(x):")
    assert plan.finish == "check(decode)"
    with pytest.raises(VerifierError, match="the tests use encode, which they neither nor the prompt define; give the prompt"):
        plan_check("", code, "decode")


@pytest.mark.parametrize(
    ("setup", "asserts", "words"),
    [
        ("", ("assert f(1) =",), "test 1 cannot be read as Python"),
        ("def (", ("assert f(1) == 1",), "the setup of the tests cannot be read"),
        ("", ("assert 1 == 1",), "call nothing of the submission"),
        ("", ("assert f(1) == EXPECTED",), "use EXPECTED, which they neither define nor call"),
        ("", ("assert f(1) == '\0'",), "cannot be read as Python"),
    ],
)
def test_tests_that_cannot_run_are_our_error(setup: str, asserts: tuple[str, ...], words: str) -> None:
    with pytest.raises(VerifierError, match=words):
        plan_asserts(setup, asserts)
