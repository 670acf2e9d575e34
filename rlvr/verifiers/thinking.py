"""`thinking`: did the response reason as its prompt asked, and not where the prompt forbade it? Says nothing about the answer."""

from __future__ import annotations

import math
import re
import unicodedata
from enum import StrEnum
from typing import Literal, TypeAlias

from rlvr.types import Problem, Rollout, Verdict
from rlvr.verifiers.base import verifier
from rlvr.verifiers.extract import split_thinking

Mode: TypeAlias = Literal["on", "off", "budget"]

_ANSWER = re.compile(r"\s*<answer>[^<]*</answer>\s*")


class ThinkingMode(StrEnum):
    """What a prompt asks for, as `Problem.metadata["thinking"]` records it."""

    ON = "on"
    OFF = "off"
    BUDGET = "budget"  # on, and in at most `metadata["target_tokens"]` tokens


@verifier("thinking", isolated=False, grades="form")
def thinking(problem: Problem, rollout: Rollout, *, mode: Mode | None = None, bare: bool = False) -> Verdict:
    """Score 1 when the response thinks as `mode` says (unset: as `metadata["thinking"]` of the problem says), else 0.

    `on`: thinking that has words in it and ends. `off`: no reasoning block, or an empty one, which some chat templates put there;
    with `bare`, nothing but one `<answer>` beside it, so that reasoning cannot move out of its tags. `budget`: as `on`, and the
    whole response has at most `metadata["target_tokens"]` tokens of the policy's own.
    """
    asked = problem.metadata.get("thinking") if mode is None else mode
    if asked not in tuple(ThinkingMode):
        allowed = ", ".join(ThinkingMode)
        return Verdict.error(
            f"{problem.id} has metadata thinking = {asked!r}; allowed: {allowed} (the task `thinking:NAME` sets it)"
        )
    if not rollout.response.strip():
        return Verdict.unparsed("there is no response", mode=asked)
    parts = split_thinking(rollout.response)
    has_words = any(unicodedata.category(char)[0] in "LNS" for char in parts.thinking or "")
    if asked == ThinkingMode.OFF:
        return _off(parts.answer, is_open=parts.is_open, has_words=has_words, bare=bare)
    if parts.is_open:
        return Verdict.incorrect(reason="the thinking never ends", mode=asked)
    if not has_words:
        return Verdict.incorrect(reason="no thinking, but the prompt asks for it", mode=asked)
    return _within_budget(problem, rollout) if asked == ThinkingMode.BUDGET else Verdict.correct(mode=asked)


def _off(answer: str, *, is_open: bool, has_words: bool, bare: bool) -> Verdict:
    if is_open or has_words:
        return Verdict.incorrect(reason="a reasoning block, but the prompt asks for none", mode="off")
    if bare and not _ANSWER.fullmatch(answer):
        return Verdict.incorrect(reason="text beside the one <answer>", mode="off")
    return Verdict.correct(mode="off")


def _within_budget(problem: Problem, rollout: Rollout) -> Verdict:
    budget = problem.metadata.get("target_tokens")
    if isinstance(budget, bool) or not isinstance(budget, int | float) or not (math.isfinite(budget) and budget > 0):
        return Verdict.error(
            f"{problem.id} has metadata target_tokens = {budget!r}; a budget needs the tokens that its prompt allows"
        )
    if not rollout.completion_tokens and rollout.response:
        return Verdict.error("the rollout was read from text and has no tokens to compare with its budget")
    if rollout.completion_tokens > budget:
        reason = f"{rollout.completion_tokens} tokens; the prompt allows {budget:g}"
        return Verdict.incorrect(reason=reason, mode="budget", tokens=rollout.completion_tokens)
    return Verdict.correct(mode="budget", tokens=rollout.completion_tokens)
