"""Rewards from unit tests elsewhere: in TRL, verl and a notebook, with a sandbox that fails as no score."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

import rlvr
from rlvr.errors import SandboxError, VerifierError
from rlvr.integrations.trl import reward_function
from rlvr.integrations.verl import compute_score
from rlvr.sandbox.jobs import Execution, Job, Limits, Returned, Status
from rlvr.sandbox.shared import use_sandbox
from rlvr.testing import FakeSandbox

TESTS = {"tests": {"type": "asserts", "setup": "", "asserts": ["assert f(1) == 2"]}}
TOGETHER = 8


class Meeting:
    """Answers when as many programs as it waits for are under way, with the number that each one names."""

    def __init__(self) -> None:
        self.together = threading.Barrier(1)

    def __call__(self, job: Job, limits: Limits) -> Execution | SandboxError:
        self.together.wait(30.0)
        said = getattr(job, "code", "").rpartition(" ")[2].strip()
        return SandboxError("the engine is gone") if said == "gone" else Execution(Status.EXITED, returned=(Returned(int(said)),))


@pytest.fixture
def meeting() -> Iterator[Meeting]:
    script = Meeting()
    with use_sandbox(FakeSandbox(script)):
        yield script


def program(number: object) -> str:
    return f"```python\ndef f(x): return {number}\n```"


def test_trl_gets_the_rewards_of_a_batch_at_once(meeting: Meeting) -> None:
    meeting.together = threading.Barrier(TOGETHER)
    function = reward_function("code", workers=1, max_unscored=0.5)
    completions = [program(n) for n in range(TOGETHER)]
    rewards = function(prompts=["?"] * TOGETHER, completions=completions, answer=[TESTS] * TOGETHER)
    assert rewards == [0.0, 0.0, 1.0, *[0.0] * (TOGETHER - 3)]
    meeting.together = threading.Barrier(1)
    assert function(prompts=["?"] * 2, completions=[program("gone"), program(2)], answer=[TESTS] * 2) == [None, 1.0]
    function.close()


def test_verl_gets_a_score_and_stops_where_the_sandbox_failed(meeting: Meeting) -> None:
    assert compute_score("mbpp", program(2), TESTS, verifier="code")["score"] == 1.0
    assert compute_score("mbpp", program(3), TESTS, verifier="code")["outcome"] == "incorrect"
    with pytest.raises(VerifierError, match="the engine is gone"):
        compute_score("mbpp", program("gone"), TESTS, verifier="code")


def test_a_notebook_grades_one_program(meeting: Meeting) -> None:
    verdict = rlvr.grade(program(2), TESTS, "code", time_limit_s=1.0)
    assert verdict.outcome == "correct"
    combined = rlvr.grade(program(3), TESTS, "gate", of="code", requires=[{"name": "format", "args": {"family": "code_block"}}])
    assert combined.outcome == "incorrect"
    assert "returned 3" in combined.reason
