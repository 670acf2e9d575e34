"""`math`: a gold answer against a response. Text, exact numbers and our own algebra decide nearly all; the rest goes to a worker.

`grade_quickly` is everything that takes bounded time, in any process. What it leaves open is compared symbolically in
a worker process, where it can be killed.
"""

from __future__ import annotations

import re
from typing import Literal

from rlvr.types import JSON, Problem, Rollout, Verdict
from rlvr.verifiers.algebra.answers import strip_wrapping
from rlvr.verifiers.algebra.decide import TYPES, Decision, Type, decide, readings
from rlvr.verifiers.base import verifier
from rlvr.verifiers.exact import gold_number
from rlvr.verifiers.extract import MATH_RULES, Extraction, Mode, boxes, find_answer, joined_boxes, math_spans
from rlvr.verifiers.guard import hazard, unfinished
from rlvr.verifiers.numeric import Number, parse_number, same_number
from rlvr.verifiers.phrase import number_within

MAX_ANSWER_CHARS = 2_000
MAX_PHRASE_CHARS = 500

_SPACING = re.compile(
    r"\\[,;:! ]|\\(?:left|right|displaystyle|quad|qquad)(?![a-zA-Z])|(?<!\d)\s+|\s+(?!\d)|~|\$"
)  # "1 2" is not 12
_FRACTION = re.compile(r"\\[dtc]frac")
_TEXT = re.compile(r"\\(?:text|textbf|mathrm|mbox)\s?\{([^{}]*)\}")
_BASE = re.compile(r"([0-9A-Z]+)_\{?(\d{1,2})\}?")
_ELLIPSIS = re.compile(r"\\(?:l|c|v|d)?dots|\.\.\.|…")
_SYMBOLIC = re.compile(
    r"\\(?:int|sum|prod|lim|det|partial|nabla|begin|operatorname|overline|mathop|frac\{d|Delta)|matrix", re.IGNORECASE
)
_VERB = re.compile(r"\b(?:is|are|equals?|was|be)\b|=|为|是", re.IGNORECASE)

Extract = Literal["auto", "boxed", "answer_tag", "hash", "sentence", "last_math", "last_number", "whole"]


def _import_symbolic() -> None:
    import rlvr.verifiers.symbolic  # noqa: F401


def grade_quickly(
    problem: Problem,
    rollout: Rollout,
    *,
    extract: Extract = "auto",
    mode: Mode = "lenient",
    type: Type = "auto",
    tolerance: float = 0.0,
) -> Verdict | None:
    """What `math` finds in bounded time; None where only the symbolic library could tell."""
    gold = gold_text(problem.answer)
    if gold is None:
        return Verdict.error(f"gold answer of {problem.id} is {_kind(problem.answer)}; 'math' wants text or a number")
    if type not in TYPES:
        return Verdict.error(f"type = {type!r}; 'math' knows {', '.join(TYPES)}")
    found = find_answer(rollout.response, extract, strict=mode == "strict", auto=MATH_RULES)
    if found.text is None:
        return Verdict.unparsed(found.reason)
    if len(found.text) > MAX_ANSWER_CHARS:
        return Verdict.incorrect(reason=f"the answer has {len(found.text)} characters; at most {MAX_ANSWER_CHARS} are read")
    if found.is_ambiguous and found.rule != "boxed":
        return Verdict.incorrect(found.text, found.reason)
    return _decide(problem, gold, found, rollout.response, type, tolerance)


def _gold_as_response(problem: Problem) -> tuple[str, ...]:
    """An answer that is no harder than the gold answer itself: if comparing that takes long too, the gold answer is to blame."""
    gold = gold_text(problem.answer) or ""
    return (f"\\boxed{{{gold}}}", f"\\boxed{{{gold} + 1}}")


@verifier(
    "math", isolated=True, version="2", warm_up=_import_symbolic, quick=grade_quickly, probe=_gold_as_response, grades="answer"
)
def math(
    problem: Problem,
    rollout: Rollout,
    *,
    extract: Extract = "auto",
    mode: Mode = "lenient",
    type: Type = "auto",
    tolerance: float = 0.0,
) -> Verdict:
    """Correct when the response's final answer equals the gold answer (text in LaTeX or plain notation, or a number).

    `type` says what the gold answer is: under "auto" its notation tells. `tolerance` lets numbers differ by that much
    times max(1, |gold|); without it they are compared exactly, but a decimal with five significant digits or more stands
    for the number that it rounds. Where the gold answer has a unit or percent sign the response may leave it out, except
    under "unit"; another unit is incorrect unless it is converted.

    An answer that is too large to evaluate is the model's fault and incorrect; a gold answer that cannot be read is
    ours and an error.
    """
    decided = grade_quickly(problem, rollout, extract=extract, mode=mode, type=type, tolerance=tolerance)
    if decided is not None:
        return decided
    gold = gold_text(problem.answer) or ""
    found = find_answer(rollout.response, extract, strict=mode == "strict", auto=MATH_RULES)
    answer = found.text or ""
    from rlvr.verifiers.symbolic import compare

    result = compare(gold, answer)
    if result.gold_error is not None and readings(gold):
        return Verdict.incorrect(answer, "the answer cannot be read as mathematics")
    if result.gold_error is not None:
        return Verdict.error(f"gold answer of {problem.id}: {result.gold_error}")
    return Verdict.correct(answer, result.reason) if result.is_equal else Verdict.incorrect(answer, result.reason)


def gold_text(answer: JSON) -> str | None:
    """The gold answer as text: what is boxed, if it is a worked solution. None if it is neither text nor a number."""
    if isinstance(answer, bool) or not isinstance(answer, (str, int, float)):
        return None
    text = str(answer)
    return ", ".join(content for *_, content in boxes(text)) if "\\boxed" in text and boxes(text) else text


def _kind(answer: JSON) -> str:
    return type(answer).__name__


def _decide(problem: Problem, gold: str, found: Extraction, response: str, kind: Type, tolerance: float) -> Verdict | None:
    answer = found.text or ""
    decided = _compare_directly(gold, answer, found) if kind == "auto" else None
    if decided is not None and (decided.score == 1.0 or tolerance == 0.0):
        return decided
    decision = _decide_phrase(gold, found, kind, tolerance)
    if decision.gold_error is not None:
        return Verdict.error(f"gold answer of {problem.id}: {decision.gold_error}")
    if decision.is_equal:
        return Verdict.correct(answer, decision.reason)
    if decision.is_equal is False:
        several = joined_boxes(response) if found.rule == "boxed" else None
        if several is not None and decide(gold, several, kind, tolerance).is_equal:
            return Verdict.correct(several, "its parts in boxes of their own")
        return Verdict.incorrect(answer, decision.reason)
    if (danger := hazard(answer) or unfinished(gold, answer)) is not None:
        return Verdict.incorrect(answer, danger)
    # The symbolic parser picks what it can read out of a text, so it is not asked where there is nothing for it to do.
    if readings(gold) and not readings(answer) and not _SYMBOLIC.search(answer + gold):
        return Verdict.incorrect(answer, "not readable as one answer")
    if (danger := hazard(gold)) is not None:
        if readings(gold):
            return Verdict.incorrect(answer, "not comparable with the gold answer")
        return Verdict.error(f"gold answer of {problem.id} cannot be evaluated: {danger}")
    return None


def _decide_phrase(gold: str, found: Extraction, kind: Type, tolerance: float) -> Decision:
    """Compare what was found; of a sentence that is no answer itself, what follows its last verb, or its last formula."""
    answer = found.text or ""
    decision = decide(gold, answer, kind, tolerance)
    is_answer = bool(readings(answer)) and not _is_prose(answer)
    if decision.is_equal or is_answer or len(answer) > MAX_PHRASE_CHARS:
        return decision
    tails = [answer[match.end() :] for match in _VERB.finditer(answer)][-1:] + math_spans(answer)[-1:]
    for tail in tails:
        if tail.strip() and readings(tail):
            return decide(gold, tail, kind, tolerance)
    return decision


def _is_prose(text: str) -> bool:
    return sum(len(word) > 2 for word in re.findall(r"(?<![\\\w])[^\W\d_]+", text)) > 2


def _compare_directly(gold: str, answer: str, found: Extraction) -> Verdict | None:
    """What numbers and text alone decide; None where mathematics has to be read."""
    if normal_text(gold) == normal_text(answer):
        return Verdict.correct(answer, "same text")
    gold_value, value = gold_number(gold), _answer_number(answer, found)
    if gold_value is not None and value is not None and not gold_value.unit and not value.unit:
        if same_number(gold_value, value):
            return Verdict.correct(answer, "same number")
        # A comma may also separate two values, or be a decimal point; our algebra tries these.
        is_settled = not any(mark in text for mark in ",." for text in (gold, answer))
        return Verdict.incorrect(answer, "another number") if is_settled else None
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
    text = _TEXT.sub(r"\1", _FRACTION.sub(r"\\frac", strip_wrapping(text)))
    return _SPACING.sub("", text.strip()).replace("^\\circ", "°").replace("^{\\circ}", "°").replace("\\%", "%").rstrip(".")
