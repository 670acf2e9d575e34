"""Equality of text (`exact`) and of numbers (`number`): exact, linear in the response, no library parses the model's text."""

from __future__ import annotations

import math
import unicodedata
from fractions import Fraction
from functools import lru_cache

from rlvr.types import JSON, Problem, Rollout, Verdict
from rlvr.verifiers.base import verifier
from rlvr.verifiers.extract import NUMBER_RULES, TEXT_RULES, Extract, find_answer
from rlvr.verifiers.numeric import Number, close, parse_number, same_number
from rlvr.verifiers.phrase import number_within, says_more

MAX_TEXT_CHARS = 10_000
_PUNCTUATION = " \t\n.,;:!?\"'`*()[]{}$"


@verifier("exact", isolated=False)
def exact(
    problem: Problem,
    rollout: Rollout,
    *,
    extract: Extract = "auto",
    strict: bool = False,
    case_sensitive: bool = False,
    strip_punctuation: bool = True,
) -> Verdict:
    """Correct when the final answer is the gold text after Unicode NFKC, white space and (by default) case are evened out."""
    if isinstance(problem.answer, bool) or not isinstance(problem.answer, (str, int, float)):
        return Verdict.error(f"gold answer of {problem.id} is {type(problem.answer).__name__}; 'exact' wants text or a number")
    gold = _normal(str(problem.answer), case_sensitive=case_sensitive, strip_punctuation=strip_punctuation)
    if not gold:
        return Verdict.error(f"gold answer of {problem.id} is empty")
    found = find_answer(rollout.response, extract, strict=strict, auto=TEXT_RULES)
    if found.text is None:
        return Verdict.unparsed(found.reason)
    if found.is_ambiguous:
        return Verdict.incorrect(found.text[:MAX_TEXT_CHARS], found.reason)
    if len(found.text) > MAX_TEXT_CHARS:
        return Verdict.incorrect(reason=f"the answer has {len(found.text)} characters; at most {MAX_TEXT_CHARS} are read")
    if _normal(found.text, case_sensitive=case_sensitive, strip_punctuation=strip_punctuation) == gold:
        return Verdict.correct(found.text)
    return Verdict.incorrect(found.text, "another text than the gold answer")


@verifier("number", isolated=False)
def number(
    problem: Problem, rollout: Rollout, *, extract: Extract = "auto", strict: bool = False, tolerance: float = 0.0
) -> Verdict:
    """Correct when the final answer is the gold number, compared exactly, or within `tolerance` * max(1, |gold|).

    Outside strict mode an answer in words may surround its one number ("<answer>72 clips in all</answer>").
    """
    gold = gold_number(problem.answer)
    if gold is None:
        return Verdict.error(f"gold answer of {problem.id} is not a number: {str(problem.answer)[:80]!r}")
    found = find_answer(rollout.response, extract, strict=strict, auto=NUMBER_RULES)
    if found.text is None:
        return Verdict.unparsed(found.reason)
    if found.is_ambiguous:
        return Verdict.incorrect(found.text[:MAX_TEXT_CHARS], found.reason)
    value = parse_number(found.text)
    if value is None and not strict:
        value = number_within(found.text)
        if value is None and found.rule == "sentence" and extract == "auto" and says_more(found.text):
            found = find_answer(rollout.response, "last_number")  # "The answer is easy to see: 2 + 3 is 5."
            value = parse_number(found.text or "")
    if value is None or found.text is None:
        return Verdict.unparsed(f"the answer is not one number: {(found.text or '')[:80]!r}")
    if same_number(gold, value) or (tolerance > 0 and close(gold.value, value.value, Fraction(tolerance))):
        return Verdict.correct(found.text)
    return Verdict.incorrect(found.text, "another number than the gold answer")


def gold_number(answer: JSON) -> Number | None:
    """The gold answer as a number: a JSON number, or text that `parse_number` reads."""
    if isinstance(answer, bool) or (isinstance(answer, float) and not math.isfinite(answer)):
        return None
    if isinstance(answer, int):
        return Number(Fraction(answer))
    return _parsed(str(answer)) if isinstance(answer, (str, float)) else None


_parsed = lru_cache(maxsize=256)(parse_number)  # every rollout of a group has the same gold answer


def _normal(text: str, *, case_sensitive: bool, strip_punctuation: bool) -> str:
    text = " ".join(unicodedata.normalize("NFKC", text).split())
    if strip_punctuation:
        text = text.strip(_PUNCTUATION)
    return text if case_sensitive else text.casefold()
