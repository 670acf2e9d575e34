"""Parts for combined verifiers: one in the trainer's process, and two in a worker."""

from __future__ import annotations

import os
import threading

from rlvr.types import Problem, Rollout, Verdict
from rlvr.verifiers.base import verifier


@verifier("half_sure", isolated=False)
def half_sure(problem: Problem, rollout: Rollout) -> Verdict:
    return Verdict.partial(0.5, "half", "a half")


@verifier("tells_process")
def tells_process(problem: Problem, rollout: Rollout) -> Verdict:
    return Verdict.correct(str(os.getpid()))


@verifier("never_ends")
def never_ends(problem: Problem, rollout: Rollout) -> Verdict:
    threading.Event().wait(60)
    return Verdict.correct()
