"""Verifiers that do what they should not, on command of the response."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from rlvr.types import Problem, Rollout, Verdict
from rlvr.verifiers.base import verifier


@verifier("misbehaving")
def misbehaving(problem: Problem, rollout: Rollout, *, directory: str = ".") -> Verdict:
    """Obeys the response."""
    command = rollout.response
    if command == "hang":
        spin()
    if command == "hang with child":
        Path(directory, "child").write_text("")
        if (child := os.fork()) == 0:
            spin()
        Path(directory, "child").write_text(str(child))
        spin()
    if command == "exit":
        print("last words")
        os._exit(3)
    if command == "segfault":
        os.kill(os.getpid(), signal.SIGSEGV)
    if command == "raise":
        raise ValueError("no such thing")
    if command == "print":
        print("{}" * 1000)
        os.write(1, b"\x00\x00\x00\x02{}")
        sys.stdout.flush()
    if command == "hog":
        bytearray(10**11)
    if command == "fork":
        os.fork()
    if command == "no verdict":
        return True  # type: ignore[return-value]
    if command == "odd details":
        return Verdict.correct("x", thing=object())
    if command == "die once" and not (mark := Path(directory, "died")).exists():
        mark.write_text("")
        os._exit(1)
    return Verdict.correct(command[:20], pid=os.getpid(), turns=len(rollout.turns), tokens=rollout.completion_tokens)


@verifier("mirror")
def mirror(problem: Problem, rollout: Rollout) -> Verdict:
    """Tells what arrived."""
    return Verdict.partial(
        0.5,
        rollout.response[-50:],
        answer=problem.answer,
        metadata=dict(problem.metadata),
        prompt=[message.content for message in problem.prompt],
        length=len(rollout.response),
        replies=[message.content for turn in rollout.turns for message in turn.replies],
        tokens=rollout.completion_tokens,
        is_truncated=rollout.is_truncated,
        sample_index=rollout.sample_index,
    )


@verifier("inline", isolated=False, version="7")
def inline(problem: Problem, rollout: Rollout, *, score: float = 1.0) -> Verdict:
    """Runs in the trainer's process."""
    if rollout.response == "raise":
        raise ValueError("no such thing")
    return Verdict.correct() if score == 1.0 else Verdict.partial(score)


def plain(problem: Problem, rollout: Rollout) -> Verdict:
    """A function that is no Verifier."""
    return Verdict.correct(str(os.getpid()))


def spin() -> None:
    while True:
        pass
