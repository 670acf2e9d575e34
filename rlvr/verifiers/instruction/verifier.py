"""`ifeval` and `ifbench`: did the response follow the constraints of its prompt?"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Literal, TypeAlias

from rlvr.errors import ConfigError
from rlvr.types import Problem, Rollout, Verdict
from rlvr.verifiers.base import verifier
from rlvr.verifiers.extract import split_thinking
from rlvr.verifiers.instruction import language
from rlvr.verifiers.instruction.base import Bound, Compat
from rlvr.verifiers.instruction.registry import constraints, read_constraints

FollowMode: TypeAlias = Literal["strict", "loose"]
Level: TypeAlias = Literal["prompt", "instruction"]


def _warm_up() -> None:
    constraints()
    with contextlib.suppress(ConfigError):  # said by the first verdict that needs it; most constraints do not
        language.load()


@verifier("ifeval", warm_up=_warm_up, grades="form")
def ifeval(
    problem: Problem,
    rollout: Rollout,
    *,
    mode: FollowMode = "strict",
    level: Level = "prompt",
    compat: Compat = "fixed",
    with_thinking: bool = False,
) -> Verdict:
    """Did the response follow its constraints? All 83 of IFEval and IFBench are known, and can be mixed in one problem.

    `problem.answer` is `{"constraints": [{"id": "punctuation:no_comma", "kwargs": {}}, ...]}`, that list alone, or the data
    sets' pair of lists. `mode`: `strict` grades the response as it is; `loose` also without its first line, its last
    line, both, and each of these without asterisks, and takes the best for each constraint. `level`: `prompt` scores 1 only
    where every constraint is followed; `instruction` scores the share of constraints that are. `compat = "reference"` gives
    the verdict of the published code, its defects included (docs/verifiers-instruction.md lists them). Thinking before the
    answer is left out, unless `with_thinking`.
    """
    return grade(problem, rollout, mode=mode, level=level, compat=compat, with_thinking=with_thinking)


@verifier("ifbench", warm_up=_warm_up, grades="form")
def ifbench(
    problem: Problem,
    rollout: Rollout,
    *,
    mode: FollowMode = "strict",
    level: Level = "prompt",
    compat: Compat = "fixed",
    with_thinking: bool = False,
) -> Verdict:
    """`ifeval` under the name of the other data set: the same constraints, settings and verdicts."""
    return grade(problem, rollout, mode=mode, level=level, compat=compat, with_thinking=with_thinking)


def grade(problem: Problem, rollout: Rollout, *, mode: FollowMode, level: Level, compat: Compat, with_thinking: bool) -> Verdict:
    """The verdict on one response; `details["constraints"]` says of each constraint whether it is followed."""
    try:
        bound = read_constraints(problem.answer)
    except ConfigError as error:
        return Verdict.error(f"gold answer of {problem.id}: {error}")
    response = rollout.response if with_thinking else split_thinking(rollout.response).answer
    if not response.strip():
        return Verdict.unparsed("the response is empty")
    followed = [follows(constraint, response, mode, compat) for constraint in bound]
    return _verdict(bound, followed, level)


def follows(bound: Bound, response: str, mode: FollowMode = "strict", compat: Compat = "fixed") -> bool:
    """Whether a response follows one constraint, in the given mode."""
    if bound.follows(response, compat):
        return True
    return mode == "loose" and any(bound.follows(variant, compat) for variant in loose_variants(response))


def loose_variants(response: str) -> list[str]:
    """The response without asterisks, first line, last line, and every combination of these; itself left out.

    Source: IFEval, arXiv 2311.07911, section 2.2.
    """
    lines = response.split("\n")
    parts = (lines[1:], lines[:-1], lines[1:-1])
    shorter = ["\n".join(part).strip() for part in parts]
    variants = [*shorter, *(text.replace("*", "") for text in (response, *shorter))]
    return list(dict.fromkeys(variant for variant in variants if variant.strip() and variant != response))


def _verdict(bound: Sequence[Bound], followed: Sequence[bool], level: Level) -> Verdict:
    count, total = sum(followed), len(bound)
    shown = f"{count}/{total}"
    each = [
        {"id": constraint.constraint.id, "followed": is_followed} for constraint, is_followed in zip(bound, followed, strict=True)
    ]
    if count == total:
        return Verdict.correct(shown, constraints=each)
    missed = [entry["id"] for entry in each if not entry["followed"]]
    reason = f"not followed: {', '.join(map(str, missed))}"
    if level == "instruction" and count:
        return Verdict.partial(count / total, shown, reason, constraints=each)
    return Verdict.incorrect(shown, reason, constraints=each)
