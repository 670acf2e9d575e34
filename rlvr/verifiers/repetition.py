"""`repetition` and `length`: how a response is written, not what it says."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias

from rlvr.types import JSON, Problem, Rollout, Verdict
from rlvr.verifiers.base import verifier
from rlvr.verifiers.language import Part, part_of
from rlvr.verifiers.protocol import NO_TOKEN

Unit: TypeAlias = Literal["words", "characters", "tokens"]

MAX_UNITS = 200_000


@verifier("repetition", isolated=False, grades="form")
def repetition(
    problem: Problem,
    rollout: Rollout,
    *,
    n: int = 3,
    unit: Unit = "words",
    part: Part = "response",
    allowed: float = 0.0,
    max_penalty: float = -1.0,
) -> Verdict:
    """Score: distinct n-grams / all n-grams; 1 for a text without a repeated n-gram. Up to `allowed` repetition is correct.

    `details["penalty"]` is open-r1's and TRL's reward, `max_penalty * (1 - distinct / all)`, 0 for a text shorter than n. `words`
    are lower-case and split at white space, as in open-r1; `tokens` are the policy's own, as in TRL; `characters` suit
    languages without spaces. A text that was not sampled here has no token ids: `tokens` is an error then. The first 200,000
    units are read.

    Source: Yeo et al. 2025 (arXiv 2502.03373), appendix; `get_repetition_penalty_reward` of open-r1 and TRL.
    """
    units = _units(rollout, unit, part)
    if units is None:
        return Verdict.error("token ids are not known here (a text, or a worker process); set unit = 'words' or 'characters'")
    if not units:
        return Verdict.unparsed("there is nothing to measure")
    total = max(0, len(units) - n + 1)
    distinct = len(set(zip(*(units[shift:] for shift in range(n)), strict=False)))
    score = distinct / total if total else 1.0
    share = 1.0 - score
    details: dict[str, JSON] = {"share": share, "penalty": max_penalty * share, "ngrams": total, "distinct": distinct}
    if share <= allowed:
        return Verdict.correct(**details)
    reason = f"{total - distinct} of {total} {n}-grams of {unit} repeat an earlier one"
    return Verdict.partial(score, reason=reason, **details)


@verifier("length", isolated=False, grades="form")
def length(
    problem: Problem,
    rollout: Rollout,
    *,
    unit: Unit = "words",
    minimum: int = 0,
    maximum: int | None = None,
    soft: int = 0,
    part: Part = "response",
) -> Verdict:
    """Score 1 within `minimum`..`maximum`, falling in a straight line to 0 at `soft` units outside; at once with `soft=0`.

    `tokens` counts what the policy sampled, over all turns and thinking included. With `maximum = L - C` and `soft = C` the score
    is 1 + DAPO's soft overlong punishment (arXiv 2503.14476, equation 13) for a limit L and a cache C.
    """
    measured = _length(rollout, unit, part)
    if measured is None:
        return Verdict.error("the rollout was read from text and has no tokens; set unit = 'words' or 'characters'")
    if measured == 0:
        return Verdict.unparsed("there is nothing to measure")
    excess = max(minimum - measured, 0 if maximum is None else measured - maximum, 0)
    if excess == 0:
        return Verdict.correct(length=measured)
    bound = f"at least {minimum}" if measured < minimum else f"at most {maximum}"
    reason = f"{measured} {unit}; {bound} are wanted"
    if excess >= soft:
        return Verdict.incorrect(reason=reason, length=measured)
    return Verdict.partial(1.0 - excess / soft, reason=reason, length=measured)


def _length(rollout: Rollout, unit: Unit, part: Part) -> int | None:
    if unit == "tokens":
        return rollout.completion_tokens or (None if rollout.response else 0)
    text = part_of(rollout.response, part)
    return len(text.split()) if unit == "words" else len(text.strip())


def _units(rollout: Rollout, unit: Unit, part: Part) -> Sequence[object] | None:
    if unit == "tokens":
        tokens = [token for turn in rollout.turns for token in turn.completion.token_ids]
        is_known = NO_TOKEN not in tokens and (len(tokens) > 0 or not rollout.response)
        return tokens[:MAX_UNITS] if is_known else None
    text = part_of(rollout.response, part)
    if unit == "characters":
        return "".join(text[: 2 * MAX_UNITS].split())[:MAX_UNITS]
    return text.lower().split(maxsplit=MAX_UNITS)[:MAX_UNITS]
