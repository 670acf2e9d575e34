"""`math`: a gold answer against a response, first as exact numbers, then as text, then symbolically in the worker process."""

from __future__ import annotations

import re
from typing import Literal

from rlvr.types import JSON, Problem, Rollout, Verdict
from rlvr.verifiers.base import verifier
from rlvr.verifiers.exact import gold_number, number_within
from rlvr.verifiers.extract import MATH_RULES, Extraction, Mode, find_answer
from rlvr.verifiers.guard import hazard, unfinished
from rlvr.verifiers.numeric import Number, parse_number, same_number

MAX_ANSWER_CHARS = 2_000

_SPACING = re.compile(r"\\[,;:! ]|\\(?:left|right|displaystyle|quad|qquad)(?![a-zA-Z])|\s+|~|\$")
_FRACTION = re.compile(r"\\[dtc]frac")
_TEXT = re.compile(r"\\(?:text|textbf|mathrm|mbox)\s?\{([^{}]*)\}")
_BASE = re.compile(r"([0-9A-Z]+)_\{?(\d{1,2})\}?")
_ELLIPSIS = re.compile(r"\\(?:l|c|v|d)?dots|\.\.\.|…")


def _import_symbolic() -> None:
    import rlvr.verifiers.symbolic  # noqa: F401


@verifier("math", isolated=True, version="1", warm_up=_import_symbolic)
def math(
    problem: Problem,
    rollout: Rollout,
    *,
    extract: Literal["auto", "boxed", "answer_tag", "hash", "last_number"] = "auto",
    mode: Mode = "lenient",
) -> Verdict:
    """Correct when the response's final answer equals the gold answer (text in LaTeX or plain notation, or a number).

    Rational numbers are compared exactly and never reach the symbolic library. An answer that is too large to
    evaluate is the model's fault and incorrect; a gold answer that cannot be read is ours and an error.
    """
    gold = _gold_text(problem.answer)
    if gold is None:
        return Verdict.error(f"gold answer of {problem.id} is {type(problem.answer).__name__}; 'math' wants text or a number")
    found = find_answer(rollout.response, extract, strict=mode == "strict", auto=MATH_RULES)
    if found.text is None:
        return Verdict.unparsed(found.reason)
    if len(found.text) > MAX_ANSWER_CHARS:
        return Verdict.incorrect(reason=f"the answer has {len(found.text)} characters; at most {MAX_ANSWER_CHARS} are read")
    if found.is_ambiguous and found.rule != "boxed":
        return Verdict.incorrect(found.text, found.reason)
    return _compare(problem, gold, found)


def _compare(problem: Problem, gold: str, found: Extraction) -> Verdict:
    answer = found.text or ""
    decided = _compare_directly(gold, answer, found)
    if decided is not None:
        return decided
    if (danger := hazard(answer) or unfinished(gold, answer)) is not None:
        return Verdict.incorrect(answer, danger)
    if (danger := hazard(gold)) is not None:
        return Verdict.error(f"gold answer of {problem.id} cannot be evaluated: {danger}")
    from rlvr.verifiers.symbolic import compare

    result = compare(gold, answer)
    if result.gold_error is not None:
        return Verdict.error(f"gold answer of {problem.id}: {result.gold_error}")
    return Verdict.correct(answer, result.reason) if result.is_equal else Verdict.incorrect(answer, result.reason)


def _compare_directly(gold: str, answer: str, found: Extraction) -> Verdict | None:
    """What numbers and text alone decide; None where mathematics has to be read."""
    if normal_text(gold) == normal_text(answer):
        return Verdict.correct(answer, "same text")
    gold_value, value = gold_number(gold), _answer_number(answer, found)
    if gold_value is not None and value is not None:
        is_equal = same_number(gold_value, value)
        return Verdict.correct(answer, "same number") if is_equal else Verdict.incorrect(answer, "another number")
    gold_base, base = _BASE.fullmatch(normal_text(gold)), _BASE.fullmatch(normal_text(answer))
    if gold_base is not None and (base is not None or value is not None):
        digits, radix = (base[1], base[2]) if base is not None else (normal_text(answer), gold_base[2])
        is_equal = (digits, radix) == gold_base.groups()
        return Verdict.correct(answer, "same digits") if is_equal else Verdict.incorrect(answer, "another number or base")
    if _ELLIPSIS.search(gold) or _ELLIPSIS.search(answer):
        return Verdict.incorrect(answer, "a list with an ellipsis is only compared as text")
    return None


def _answer_number(answer: str, found: Extraction) -> Number | None:
    value = parse_number(answer)
    if value is None and found.rule in ("answer_tag", "sentence", "hash") and "\\" not in answer and "$" not in answer:
        words = sum(len(word) > 1 for word in re.findall(r"[^\W\d_]+", answer))
        value = number_within(answer) if words > 1 else None  # "72 clips in all", but not "2x"
    return value


def normal_text(text: str) -> str:
    """The text without what changes only its looks: spaces, delimiters, sizes of brackets and fractions, a final period."""
    text = _TEXT.sub(r"\1", _FRACTION.sub(r"\\frac", text.strip().rstrip(".")))
    return _SPACING.sub("", text).replace("^\\circ", "°").replace("^{\\circ}", "°").replace("\\%", "%").rstrip(".")


def _gold_text(answer: JSON) -> str | None:
    if isinstance(answer, bool) or not isinstance(answer, (str, int, float)):
        return None
    return str(answer)
