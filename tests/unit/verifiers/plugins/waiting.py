"""Verifiers that wait for something: for each other, or for a thing that is not there."""

from __future__ import annotations

import threading
import time

from rlvr.errors import SandboxError
from rlvr.types import Problem, Rollout, Verdict
from rlvr.verifiers.base import verifier

TOGETHER = 8
PATIENCE_S = 60.0

_meeting = threading.Barrier(TOGETHER)
_seen: set[str] = set()


@verifier("meets_others", isolated=False, waits=True)
def meets_others(problem: Problem, rollout: Rollout) -> Verdict:
    """Correct once `TOGETHER` rollouts are being graded at the same time; its thread is named."""
    try:
        _meeting.wait(PATIENCE_S)
    except threading.BrokenBarrierError:
        return Verdict.incorrect(reason="nobody else came")
    return Verdict.correct(threading.current_thread().name)


@verifier("waits_its_turn", isolated=False, waits=True)
def waits_its_turn(problem: Problem, rollout: Rollout) -> Verdict:
    """Earlier rollouts take longer, so that they end in the reverse order."""
    time.sleep(0.001 * (20 - int(rollout.response)))
    return Verdict.correct(rollout.response)


def _no_sandbox() -> None:
    raise SandboxError("no sandbox on this machine: no Docker engine answers")


@verifier("needs_sandbox", isolated=False, waits=True, warm_up=_no_sandbox)
def needs_sandbox(problem: Problem, rollout: Rollout) -> Verdict:
    raise SandboxError("no sandbox on this machine: no Docker engine answers")


@verifier("tells_worker", isolated=True)
def tells_worker(problem: Problem, rollout: Rollout) -> Verdict:
    import os

    return Verdict.correct(str(os.getpid()))
