"""Verifiers with the faults that an audit must find."""

from __future__ import annotations

import os
import subprocess
import threading

from rlvr.types import Problem, Rollout, Verdict
from rlvr.verifiers.base import verifier
from rlvr.verifiers.extract import find_answer


def _verdict(*, is_right: bool, shown: str) -> Verdict:
    return Verdict.correct(shown) if is_right else Verdict.incorrect(shown, "another answer")


@verifier("substring")
def substring(problem: Problem, rollout: Rollout) -> Verdict:
    """Accepts every response that holds the gold answer anywhere."""
    return _verdict(is_right=str(problem.answer) in rollout.response, shown=str(problem.answer))


@verifier("runs_code")
def runs_code(problem: Problem, rollout: Rollout) -> Verdict:
    """Lets a shell look at the answer."""
    text = find_answer(rollout.response, "auto").text or ""
    if len(text) < 1_000 and "\x00" not in text and "touch" in text:
        subprocess.run(["sh", "-c", f"echo {text}".encode(errors="ignore")], capture_output=True, check=False)
    return _verdict(is_right=text == str(problem.answer), shown=text[:100])


@verifier("knows_its_process")
def knows_its_process(problem: Problem, rollout: Rollout) -> Verdict:
    """Says another thing in each process."""
    return Verdict.incorrect(str(os.getpid()), "never right")


@verifier("main_thread_only")
def main_thread_only(problem: Problem, rollout: Rollout) -> Verdict:
    """Fails in other threads, as a limit by signal does."""
    if threading.current_thread() is not threading.main_thread():
        raise ValueError("signal only works in main thread of the main interpreter")
    text = find_answer(rollout.response, "auto").text or ""
    return _verdict(is_right=text.strip() == str(problem.answer), shown=text[:100])
