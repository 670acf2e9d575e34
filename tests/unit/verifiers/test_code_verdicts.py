"""The verifier `code` over a sandbox that answers from a script: what it asks, and what it makes of the answers."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from rlvr.errors import SandboxError
from rlvr.sandbox.jobs import Binary, Calls, Checks, Compile, Execution, Failure, Job, Limits, Program, Returned, Status
from rlvr.sandbox.plain import Opaque
from rlvr.sandbox.shared import use_sandbox
from rlvr.testing import FakeSandbox
from rlvr.types import Message, Outcome, Problem, Rollout, Verdict
from rlvr.verifiers.code import code as verifier
from rlvr.verifiers.runner import Grader, WeightedVerifier

ASSERTS = {"type": "asserts", "setup": "", "asserts": ["assert f(1) == 2", "assert f(2) == 3", "assert f(3) == 4"], "public": 1}
LOOPED = {"type": "asserts", "setup": "x = [1]", "asserts": ["for i in x:\n    assert f(i) == i", "assert f(2) == 2"]}
IO = {
    "type": "stdin_stdout",
    "checker": {"type": "tokens"},
    "cases": [
        {"group": "sample", "input": "1\n", "output": "2\n"},
        {"group": "small", "input": "2\n", "output": "3\n"},
        {"group": "large", "input": "3\n", "output": "4\n"},
    ],
}
CALLS = {"type": "calls", "fn_name": "f", "inputs": [[1], [2]], "outputs": [[1.5], True]}
RESPONSE = "```python\ndef f(x):\n    return x + 1\n```"
DONE = Execution(Status.EXITED, image="sha256:1")


def returned(*values: Any, **more: Any) -> Execution:
    return Execution(
        more.pop("status", Status.EXITED),
        returned=tuple(Returned(failure=value) if isinstance(value, Failure) else Returned(value) for value in values),
        image="sha256:1",
        **more,
    )


def printed(text: bytes, **more: Any) -> Execution:
    more.setdefault("stdout_bytes", len(text))
    return Execution(more.pop("status", Status.EXITED), stdout=text, image="sha256:1", **more)


def scripted(*answers: Execution | SandboxError) -> FakeSandbox:
    """Answers in turn."""
    waiting: Iterator[Execution | SandboxError] = iter(answers)
    return FakeSandbox(lambda job, limits: next(waiting))


def grade(tests: Any, sandbox: FakeSandbox, response: str = RESPONSE, *, prompt: str = "?", **settings: Any) -> Verdict:
    """Through the grader, as everybody does."""
    rollout = Rollout.from_response(Problem("p", (Message("user", prompt),), {"tests": tests}), response)

    async def run() -> None:
        async with Grader([WeightedVerifier("code", 1.0, settings)]) as grader:
            await grader.grade(rollout)

    with use_sandbox(sandbox):
        asyncio.run(run())
    verdict = rollout.verdict
    assert verdict is not None
    json.dumps(dict(verdict.details))
    return verdict


def kinds(verdict: Verdict) -> list[str]:
    return [test["kind"] for test in verdict.details["tests"]]


# -- calls


def test_asserts_over_literals_become_calls_and_no_expected_value_is_sent() -> None:
    tests = {**ASSERTS, "asserts": ["assert f(1) == 987654321", "assert f(2) == 'secret'"]}
    sandbox = scripted(returned(987654321, "secret"))
    verdict = grade(tests, sandbox)
    assert verdict.outcome is Outcome.CORRECT
    assert verdict.extracted == "def f(x):\n    return x + 1"
    ((job, limits),) = sandbox.jobs
    assert isinstance(job, Calls)
    assert job.function == "f"
    assert "987654321" not in repr(job)
    assert "secret" not in repr(job)
    assert (limits.cpu_s, limits.call_s, limits.wall_s) == (12.0, 12.0, 26.0)
    assert verdict.details == {
        "kind": "passed",
        "passed": 2,
        "total": 2,
        "route": "calls",
        "image": "sha256:1",
        "tests": [{"name": "test 1", "kind": "passed"}, {"name": "test 2", "kind": "passed"}],
    }


@pytest.mark.parametrize(
    ("answer", "found", "reason"),
    [
        (
            returned(2, 3, 5),
            ["passed", "passed", "wrong_answer"],
            "test 3 of 3: wrong answer: returned 5, which fails `assert f(3)",
        ),
        (
            returned(2, Failure("KeyError", "'a'"), 4),
            ["passed", "runtime_error", "passed"],
            "test 2 of 3: runtime error: KeyError: 'a'",
        ),
        (returned(2, Failure("MemoryError", ""), 4), ["passed", "out_of_memory", "passed"], "test 2 of 3: out of memory"),
        (
            returned(2, Failure("TimeoutError", "the call took longer")),
            ["passed", "time_out", "not_run"],
            "test 2 of 3: time out",
        ),
        (
            returned(failure=Failure("SyntaxError", "invalid syntax (line 1)")),
            ["compile_error", "not_run", "not_run"],
            "test 1 of 3: compile error: SyntaxError: invalid syntax",
        ),
        (
            returned(failure=Failure("NameError", "name 'f' is not defined")),
            ["runtime_error", "not_run", "not_run"],
            "name 'f' is not defined",
        ),
        (returned(2, status=Status.TIMED_OUT), ["passed", "time_out", "not_run"], "it takes longer than 6 s"),
        (returned(2, status=Status.OUT_OF_MEMORY), ["passed", "out_of_memory", "not_run"], "more memory than it may"),
        (returned(2, status=Status.KILLED, signal=11), ["passed", "runtime_error", "not_run"], "ended by signal 11"),
        (returned(2), ["passed", "runtime_error", "not_run"], "it ended with exit code 0"),
        (returned(Opaque("Equal"), 3, 4), ["wrong_answer", "passed", "passed"], "returned an object of class Equal"),
        (returned(10**10_000, 3, 4), ["wrong_answer", "passed", "passed"], "returned an integer of 33220 bits"),
    ],
)
def test_what_calls_did_is_told_apart(answer: Execution, found: list[str], reason: str) -> None:
    verdict = grade(ASSERTS, scripted(answer))
    assert verdict.outcome is Outcome.INCORRECT
    assert kinds(verdict) == found
    assert verdict.details["kind"] == next(kind for kind in found if kind != "passed")
    assert reason in verdict.reason


def test_a_rule_that_plain_values_cannot_settle_is_asked_beside_the_submission() -> None:
    tests = {"type": "asserts", "setup": "", "asserts": ["assert sorted(f(1)) == [1, 2]"]}
    sandbox = scripted(returned(Opaque("generator")), Execution(Status.EXITED, passed=(True,), check_failures=(None,)))
    verdict = grade(tests, sandbox)
    assert verdict.outcome is Outcome.CORRECT
    assert verdict.details["route"] == "checks"
    assert [type(job) for job, _ in sandbox.jobs] == [Calls, Checks]


def test_json_tests_are_compared_strictly_and_run_behind_the_usual_imports() -> None:
    sandbox = scripted(returned((1.5,), True))
    assert grade(CALLS, sandbox).outcome is Outcome.CORRECT
    job = sandbox.jobs[0][0]
    assert isinstance(job, Calls)
    assert "from typing import *" in job.code.split("\n")[0]
    verdict = grade(CALLS, scripted(returned([1.5], 1)))
    assert verdict.reason == "test 2 of 2: wrong answer: f(2) returned 1, not True"
    bare = scripted(returned([1.5], True))
    assert grade(CALLS, bare, imports=False).outcome is Outcome.CORRECT
    assert getattr(bare.jobs[0][0], "code", "").startswith("def f(x):")


def test_a_submission_cannot_pass_by_a_function_that_was_imported_for_it() -> None:
    tests = {"type": "calls", "fn_name": "gcd", "inputs": [[4, 6]], "outputs": [2]}
    sandbox = scripted()
    verdict = grade(tests, sandbox, "```python\npass\n```")
    assert verdict.outcome is Outcome.INCORRECT
    assert verdict.reason == "it does not define gcd"
    assert not sandbox.jobs


# -- checks


def passed(*tests: bool, failure: Failure | None = None, **more: Any) -> Execution:
    failures = tuple(None if one else failure or Failure("AssertionError", "") for one in tests)
    return Execution(Status.EXITED, passed=tests, check_failures=failures, image="sha256:1", **more)


def test_other_asserts_run_in_a_process_of_another_user() -> None:
    sandbox = scripted(passed(True, True))
    verdict = grade(LOOPED, sandbox)
    assert verdict.outcome is Outcome.CORRECT
    assert verdict.details["route"] == "checks"
    job = sandbox.jobs[0][0]
    assert job == Checks("def f(x):\n    return x + 1\n", ("f",), tuple(LOOPED["asserts"]), "x = [1]")


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        (passed(True, False), ["passed", "wrong_answer"]),
        (passed(False, True, failure=Failure("ZeroDivisionError", "")), ["runtime_error", "passed"]),
        (passed(False, failure=Failure("SyntaxError", "x")), ["compile_error", "not_run"]),
        (passed(False, failure=Failure("SubmissionGone", "it ended before it answered")), ["runtime_error", "not_run"]),
        (passed(True), ["passed", "runtime_error"]),
        (Execution(Status.TIMED_OUT), ["time_out", "not_run"]),
        (Execution(Status.OUT_OF_MEMORY), ["out_of_memory", "not_run"]),
        (passed(False, unsupported="a test passes a module"), ["wrong_answer", "not_run"]),
    ],
)
def test_what_checks_found_is_told_apart(answer: Execution, found: list[str]) -> None:
    verdict = grade(LOOPED, scripted(answer))
    assert verdict.outcome is Outcome.INCORRECT
    assert kinds(verdict) == found


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (Execution(Status.EXITED, is_checked=False, failure=Failure("NameError", "name 'y'")), "the tests are broken: NameError"),
        (
            Execution(Status.EXITED, is_checked=False, unsupported="a test passes a module"),
            "cannot run apart from the submission",
        ),
        (passed(True, unsupported="a test passes a module"), "cannot run apart from the submission: a test passes a module"),
    ],
)
def test_tests_that_fail_by_themselves_are_our_error(answer: Execution, words: str) -> None:
    verdict = grade(LOOPED, scripted(answer))
    assert verdict.outcome is Outcome.VERIFIER_ERROR
    assert verdict.score is None
    assert words in verdict.reason


HUMANEVAL = {
    "type": "humaneval",
    "entry_point": "f",
    "code": "def check(candidate):\n    assert candidate(1) == 2\n    assert candidate(2) == 3\n",
}
HUMANEVAL_PROMPT = 'from typing import List\n\ndef f(x: int) -> int:\n    """Add one."""\n'


@pytest.mark.parametrize("response", ["    return x + 1\n", "```python\ndef f(x):\n    return x + 1\n```"])
def test_humaneval_takes_the_function_or_its_body(response: str) -> None:
    sandbox = scripted(returned(2, 3))
    assert grade(HUMANEVAL, sandbox, response, prompt=HUMANEVAL_PROMPT).outcome is Outcome.CORRECT
    job = sandbox.jobs[0][0]
    assert isinstance(job, Calls)
    assert job.code.startswith("from typing import List\n")
    assert "return x + 1" in job.code


def test_a_body_without_its_prompt_defines_nothing() -> None:
    verdict = grade(HUMANEVAL, scripted(), "    return x + 1\n", prompt="?")
    assert verdict.reason == "it does not define f"


def test_a_check_with_loops_runs_as_code_with_the_prompts_helpers() -> None:
    check = "def check(candidate):\n    for i in range(3):\n        assert candidate(helper(i)) == i\n"
    tests = {"type": "humaneval", "entry_point": "f", "code": check}
    prompt = f"def helper(x):\n    return x\n\n{HUMANEVAL_PROMPT}"
    sandbox = scripted(passed(True))
    assert grade(tests, sandbox, prompt=prompt).outcome is Outcome.CORRECT
    job = sandbox.jobs[0][0]
    assert isinstance(job, Checks)
    assert (job.entry_points, job.tests, job.finish) == (("f",), (), "check(f)")
    assert job.setup.startswith("def helper(x):")
    without = grade(tests, scripted(), prompt="?")
    assert without.outcome is Outcome.VERIFIER_ERROR
    assert "give the prompt" in without.reason


# -- programs


def test_programs_stop_at_the_first_failure() -> None:
    sandbox = scripted(printed(b"2 \n"), printed(b"7\n"))
    verdict = grade(IO, sandbox)
    assert kinds(verdict) == ["passed", "wrong_answer", "not_run"]
    assert verdict.reason == "test 2 (small) of 3: wrong answer: token 1 is '7', not '3'"
    assert [job for job, _ in sandbox.jobs] == [
        Program("def f(x):\n    return x + 1\n", b"1\n"),
        Program("def f(x):\n    return x + 1\n", b"2\n"),
    ]


@pytest.mark.parametrize(
    ("answer", "kind", "reason"),
    [
        (printed(b"2", exit_code=1, failure=Failure("ValueError", "bad")), "runtime_error", "ValueError: bad"),
        (printed(b"2", exit_code=3), "runtime_error", "exit code 3"),
        (printed(b"2", status=Status.KILLED, signal=9), "runtime_error", "signal 9"),
        (printed(b"", exit_code=1, failure=Failure("IndentationError", "unexpected")), "compile_error", "unexpected"),
        (printed(b"2", status=Status.TIMED_OUT), "time_out", "longer than 6 s"),
        (printed(b"2", status=Status.OUT_OF_MEMORY), "out_of_memory", "memory"),
        (
            printed(b"2", stdout_bytes=10**9),
            "truncated_output",
            "it printed 1000000000 bytes, of which 1 were kept; 2 are expected",
        ),
        (printed(b""), "wrong_answer", "0 tokens, not 1"),
        (printed(b"\xff\x00"), "wrong_answer", "not '2'"),
    ],
)
def test_what_a_program_did_is_told_apart(answer: Execution, kind: str, reason: str) -> None:
    verdict = grade(IO, scripted(answer))
    assert verdict.outcome is Outcome.INCORRECT
    assert verdict.details["kind"] == kind
    assert reason in verdict.reason


def test_a_large_expected_output_may_be_printed() -> None:
    tests = {"type": "stdin_stdout", "cases": [{"input": "", "output": "7 " * 5_000_000}]}
    sandbox = scripted(printed(b"7\n" * 5_000_000))
    assert grade(tests, sandbox).outcome is Outcome.CORRECT
    limits = sandbox.jobs[0][1]
    assert limits.output_bytes > 20_000_000
    assert limits.file_mb * 2**20 > limits.output_bytes


def test_all_tests_together_have_a_time_limit() -> None:
    slow = printed(b"2", cpu_s=4.0, wall_s=4.0)
    sandbox = scripted(slow, printed(b"3", cpu_s=4.0, wall_s=4.0))
    verdict = grade(IO, sandbox, time_limit_s=5.0, total_limit_s=8.0)
    assert kinds(verdict) == ["passed", "passed", "time_out"]
    assert [limits.cpu_s for _, limits in sandbox.jobs] == [5.0, 4.0]
    assert "used up the 8 s" in verdict.reason


def test_what_the_tests_say_of_their_limits_counts_unless_a_setting_does() -> None:
    tests = {**IO, "time_limit_s": 2, "memory_limit_mb": 256}
    sandbox = scripted(printed(b""), printed(b""))
    grade(tests, sandbox)
    grade(tests, sandbox, time_limit_s=1.0, memory_limit_mb=512)
    assert [(limits.cpu_s, limits.wall_s, limits.memory_mb) for _, limits in sandbox.jobs] == [(2.0, 6.0, 256), (1.0, 4.0, 512)]


def test_cpp_is_compiled_once_and_run_for_each_case() -> None:
    response = "```cpp\n#include <iostream>\nint main() {}\n```"
    sandbox = scripted(Execution(Status.EXITED, binary=b"ELF"), printed(b"2"), printed(b"3"), printed(b"4"))
    verdict = grade(IO, sandbox, response, language="cpp")
    assert verdict.outcome is Outcome.CORRECT
    assert verdict.details["route"] == "binary"
    assert [type(job) for job, _ in sandbox.jobs] == [Compile, Binary, Binary, Binary]
    failed = Execution(Status.EXITED, exit_code=1, failure=Failure("CompileError", "main.cpp:1: error: expected ;"))
    verdict = grade(IO, scripted(failed), response, language="cpp")
    assert verdict.reason == "test 1 (sample) of 3: compile error: main.cpp:1: error: expected ;"
    verdict = grade(ASSERTS, scripted(), response, language="cpp")
    assert verdict.outcome is Outcome.VERIFIER_ERROR
    assert "these tests call Python functions" in verdict.reason


# -- scoring


def test_the_share_of_tests_that_pass_is_a_score() -> None:
    verdict = grade(ASSERTS, scripted(returned(2, 0, 4)), scoring="fraction")
    assert (verdict.outcome, verdict.score) == (Outcome.PARTIAL, pytest.approx(2 / 3))
    assert verdict.reason.startswith("2 of 3 tests pass; test 2 of 3: wrong answer")
    assert grade(ASSERTS, scripted(returned(2, 3, 4)), scoring="fraction").outcome is Outcome.CORRECT
    assert grade(ASSERTS, scripted(returned(0, 0, 0)), scoring="fraction").outcome is Outcome.INCORRECT


def test_fractions_of_programs_run_a_few_at_a_time_and_none_is_left_out() -> None:
    together = threading.Barrier(3)

    def answer(job: Job, limits: Limits) -> Execution:
        together.wait(20.0)  # returns once three are under way
        assert isinstance(job, Program)
        return printed(b"3") if job.stdin == b"2\n" else printed(b"no")

    verdict = grade(IO, FakeSandbox(answer), scoring="fraction")
    assert verdict.score == pytest.approx(1 / 3)
    assert kinds(verdict) == ["wrong_answer", "passed", "wrong_answer"]


def test_the_first_k_alone_are_run() -> None:
    sandbox = scripted(returned(2, 3))
    assert grade(ASSERTS, sandbox, scoring="first_k", k=2).outcome is Outcome.CORRECT
    job = sandbox.jobs[0][0]
    assert isinstance(job, Calls)
    assert len(job.calls) == 2


@pytest.mark.parametrize(
    ("settings", "arguments"),
    [
        ({"which": "public"}, [1]),
        ({"which": "private"}, [2, 3]),
        ({"max_tests": 2}, [1, 3]),
        ({"max_tests": 1}, [1]),
        ({"which": "private", "scoring": "first_k", "k": 1}, [2]),
        ({"challenge": True}, [1, 2, 3, 9]),
    ],
)
def test_tests_can_be_chosen(settings: dict[str, Any], arguments: list[int]) -> None:
    tests = {**ASSERTS, "challenge": ["assert f(9) == 10"]}
    sandbox = scripted(DONE)
    grade(tests, sandbox, **settings)
    job = sandbox.jobs[0][0]
    assert isinstance(job, Calls)
    assert [call.args[0] for call in job.calls] == arguments


def test_choosing_from_no_tests_is_our_error() -> None:
    verdict = grade(HUMANEVAL, scripted(), prompt=HUMANEVAL_PROMPT, which="public")
    assert verdict.outcome is Outcome.VERIFIER_ERROR
    assert "is public" in verdict.reason


def test_many_tests_make_short_details() -> None:
    tests = {"type": "calls", "fn_name": "f", "inputs": [[i] for i in range(5000)], "outputs": list(range(5000))}
    verdict = grade(tests, scripted(returned(*["x" * 10_000] * 5000)))
    assert verdict.details["total"] == 5000
    assert len(json.dumps(dict(verdict.details))) < 10_000
    assert len(verdict.reason) < 1000


# -- whose fault


@pytest.mark.parametrize(
    ("response", "outcome", "reason"),
    [
        ("", Outcome.UNPARSED, "the response is empty"),
        ("No.", Outcome.UNPARSED, "no code block in python"),
        ("<think>\n" + RESPONSE, Outcome.CORRECT, ""),
        ("```python\nx = '\0'\n```", Outcome.INCORRECT, "NUL"),
        ("```python\nx = '\ud800'\n```", Outcome.INCORRECT, "surrogate"),
        ("```python\n" + "#" * 2_000_000 + "\n```", Outcome.INCORRECT, "at most 1000000 are run"),
        ("x" * 10_000_000, Outcome.UNPARSED, "at most 4000000 are graded"),
    ],
    ids=["nothing", "prose", "open thinking", "nul", "surrogate", "2 MB", "10 MB"],
)
def test_odd_responses_get_a_verdict_and_score_0_where_they_hold_no_program(response: str, outcome: Outcome, reason: str) -> None:
    verdict = grade(ASSERTS, FakeSandbox(lambda job, limits: returned(2, 3, 4)), response)
    assert verdict.outcome is outcome
    assert reason in verdict.reason


def test_strict_mode_refuses_thinking_that_never_ends() -> None:
    assert grade(ASSERTS, scripted(), "<think>" + RESPONSE, strict=True).outcome is Outcome.UNPARSED


def test_a_sandbox_that_fails_is_no_score() -> None:
    verdict = grade(ASSERTS, scripted(SandboxError("the engine is gone")))
    assert (verdict.outcome, verdict.score) == (Outcome.VERIFIER_ERROR, None)
    assert "the engine is gone" in verdict.reason


@pytest.mark.parametrize("answer", [None, 5, {}, {"type": "pytest"}, {"type": "asserts", "asserts": ["assert f(1) ="]}])
def test_broken_tests_are_our_error_whatever_the_response(answer: Any) -> None:
    sandbox = scripted()
    for response in (RESPONSE, "", "A response."):
        verdict = grade(answer, sandbox, response)
        assert verdict.outcome is Outcome.VERIFIER_ERROR
        assert verdict.reason
    assert not sandbox.jobs


@pytest.mark.parametrize(
    "settings", [{"k": 0}, {"max_tests": 0}, {"time_limit_s": -1.0}, {"total_limit_s": 0.0}, {"memory_limit_mb": -5}]
)
def test_settings_out_of_range_are_named(settings: dict[str, Any]) -> None:
    verdict = grade(ASSERTS, scripted(), **settings)
    assert verdict.outcome is Outcome.VERIFIER_ERROR
    assert f"setting {next(iter(settings))} = " in verdict.reason


def test_addresses_do_not_make_verdicts_differ() -> None:
    verdicts = [
        grade(ASSERTS, scripted(returned(failure=Failure("TypeError", f"<object at 0x7f{digits}> is bad"))))
        for digits in ("0123456789", "9876543210")
    ]
    assert verdicts[0].reason == verdicts[1].reason


def test_the_sandbox_is_warmed_up_before_long_work() -> None:
    sandbox = FakeSandbox()
    with use_sandbox(sandbox):
        Grader([WeightedVerifier("code")]).prepare()
    assert sandbox.warm_ups == 1
    assert verifier.waits
