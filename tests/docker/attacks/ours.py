"""The same attacks against this project's sandbox, on every route that a submission can be graded by."""

from __future__ import annotations

import secrets
from collections.abc import Collection, Mapping
from typing import Any

from rlvr.errors import SandboxError
from rlvr.sandbox.jobs import Checks, Limits, Program
from rlvr.sandbox.pool import SandboxPool
from rlvr.sandbox.shared import use_sandbox
from rlvr.types import Outcome
from rlvr.verifiers.api import grade
from tests.docker.attacks.model import Attack, FunctionTask, Machine, Naive
from tests.docker.attacks.tasks import SUM

WRONG, PASSED = "wrong", "PASSED"
SETTINGS = {"extract": "whole", "time_limit_s": 1.0, "total_limit_s": 2.0}
ROUTES = ("check", "calls", "asserts", "split asserts")
LIMITS = Limits(wall_s=4.0, cpu_s=2.0)


def answers_to(sandbox: SandboxPool, attack: Attack | Machine) -> dict[str, str]:
    """By route: "wrong" (the score is 0), "PASSED", or what went wrong instead of a score."""
    if isinstance(attack, Machine):
        return {"machine": _of_machine(sandbox, attack)}
    if attack.task is not None:
        return of_function(sandbox, attack.task, attack.code)
    language = "cpp" if {Naive.CPP_EXIT, Naive.CPP_FOLDER} & set(attack.fools) else "python"
    return {"program": of_program(sandbox, attack.code, language)}


def of_function(sandbox: SandboxPool, task: FunctionTask, code: str, *, routes: Collection[str] = ROUTES) -> dict[str, str]:
    """A function against its literal calls (as JSON, as asserts), its test function, and its asserts in a second process."""
    check = {"type": "humaneval", "entry_point": task.function, "code": task.check}
    tests: dict[str, Mapping[str, Any]] = {"check": check | {"prompt": task.prompt} if task.prompt else check}
    if task.cases:
        inputs, outputs = [list(args) for args, _ in task.cases], [expected for _, expected in task.cases]
        tests["calls"] = {
            "type": "calls", "fn_name": task.function, "inputs": inputs, "outputs": outputs, "float_tolerance": 1e-7
        }  # fmt: skip
        tests["asserts"] = {"type": "asserts", "setup": "", "asserts": list(task.asserts)}
    found = {route: _graded(sandbox, code, one) for route, one in tests.items() if route in routes}
    if task.cases and "split asserts" in routes:
        found["split asserts"] = _split(sandbox, Checks(code, (task.function,), task.asserts))
    return found


def of_program(sandbox: SandboxPool, code: str, language: str = "python") -> str:
    cases = [{"input": given, "output": wanted} for given, wanted in SUM.cases]
    return _graded(sandbox, code, {"type": "stdin_stdout", "cases": cases}, language=language)


def _graded(sandbox: SandboxPool, code: str, tests: Mapping[str, Any], **settings: Any) -> str:
    with use_sandbox(sandbox):
        verdict = grade(code, {"tests": tests}, "code", timeout_s=120.0, **SETTINGS, **settings)
    if verdict.outcome is Outcome.CORRECT:
        return PASSED
    return WRONG if verdict.score == 0.0 else f"no score: {verdict.reason}"


def _split(sandbox: SandboxPool, job: Checks) -> str:
    try:
        done = sandbox.execute(job, LIMITS)
    except SandboxError as error:
        return f"no score: {error}"
    if not done.is_checked or done.unsupported:
        return f"no score: {done.unsupported or done.failure}"
    return PASSED if len(done.passed) == len(job.tests) and all(done.passed) else WRONG


def _of_machine(sandbox: SandboxPool, attack: Machine) -> str:
    """PASSED stands for any success: FOOLED was printed, or the sandbox did not serve what came next."""
    try:
        if Naive.SECRET in attack.fools:
            secret = f"SECRET-{secrets.token_hex(8)}"
            tests = (f'SECRET = "{secret}"\nassert find() == "FOOLED", SECRET',)
            seen = sandbox.execute(Checks(attack.code, ("find",), tests), LIMITS)
            return PASSED if seen.passed == (True,) or b"FOOLED" in seen.stdout else WRONG
        outputs = [sandbox.execute(Program(code), LIMITS).stdout for code in (attack.code, attack.witness or "print(1)")]
        outputs.append(sandbox.execute(Program("print('still here')")).stdout)
    except SandboxError as error:
        return f"no score: {error}"
    return PASSED if any(b"FOOLED" in output for output in outputs) or outputs[-1] != b"still here\n" else WRONG
