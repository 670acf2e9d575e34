"""Puzzles that are checked by their rules: `countdown`, `linear_equations`. See also `knights` and `sudoku`."""

from __future__ import annotations

import re
from collections import Counter
from fractions import Fraction
from typing import Literal

from rlvr.types import JSON, Problem, Rollout, Verdict
from rlvr.verifiers.arithmetic import MAX_EXPRESSION_CHARS, ExpressionError, evaluate
from rlvr.verifiers.base import verifier
from rlvr.verifiers.exact import gold_number
from rlvr.verifiers.extract import Extract, find_answer
from rlvr.verifiers.numeric import Number, parse_number
from rlvr.verifiers.phrase import number_within

MAX_ANSWER_CHARS = 20_000

_ASSIGNMENT = re.compile(r"\s*([A-Za-z]\w{0,15})\s*(?:=|:)\s*(.+)", re.DOTALL)
_SEPARATOR = re.compile(r"\\\\|\\quad|\n|;|,(?!\d{3}(?!\d))|\band\b")


@verifier("countdown", isolated=False)
def countdown(
    problem: Problem, rollout: Rollout, *, extract: Extract = "answer_tag", strict: bool = False, use_all: bool = True
) -> Verdict:
    """Correct when the answer is an expression in + - * / and parentheses that uses each given number exactly once (at most
    once without `use_all`) and evaluates to the target. `problem.answer` is `{"numbers": [...], "target": n}`.
    """
    numbers, target = _countdown_gold(problem.answer)
    if numbers is None or target is None:
        return Verdict.error(f"gold answer of {problem.id} is not {{'numbers': [whole numbers], 'target': number}}")
    found = find_answer(rollout.response, extract, strict=strict, auto=("answer_tag", "boxed"))
    if found.text is None:
        return Verdict.unparsed(found.reason)
    if found.is_ambiguous:
        return Verdict.incorrect(found.text[:MAX_EXPRESSION_CHARS], found.reason)
    expression, equals, claimed = found.text.partition("=")
    shown = found.text[: MAX_EXPRESSION_CHARS + 100]
    try:
        result = evaluate(expression)
    except ExpressionError as error:
        return Verdict.unparsed(str(error))
    used, given = Counter(result.numbers), Counter(numbers)
    if used - given or (use_all and used != given):
        return Verdict.incorrect(shown, f"uses {sorted(used.elements())}, but the numbers are {sorted(numbers)}")
    if result.value != target:
        return Verdict.incorrect(shown, f"evaluates to {result.value}, not to {target}")
    if equals and ((value := parse_number(claimed)) is None or value.value != target):
        return Verdict.incorrect(shown, "states another result than its value")
    return Verdict.correct(shown)


@verifier("linear_equations", isolated=False)
def linear_equations(problem: Problem, rollout: Rollout, *, extract: Extract = "auto", strict: bool = False) -> Verdict:
    """Correct when every unknown has its value, exactly: "x = 3, y = -2", fractions and decimals allowed.

    `problem.answer` is `{"x": "3", "y": "-2"}`, or a number when there is one unknown ("x = 3" and "3" are then the same).
    """
    gold = _gold_values(problem.answer)
    if not gold:
        return Verdict.error(f"gold answer of {problem.id} is neither a number nor {{unknown: number}}")
    found = find_answer(
        rollout.response, extract, strict=strict, auto=("answer_tag", "boxed", "hash", "sentence", _LAST_RULE[len(gold) > 1])
    )
    if found.text is None:
        return Verdict.unparsed(found.reason)
    text = found.text[:MAX_ANSWER_CHARS]
    if found.is_ambiguous and found.rule != "boxed":
        return Verdict.incorrect(text, found.reason)
    if len(gold) == 1 and (only := number_within(text)) is not None:
        (name, value), *_ = gold.items()
        stated = _ASSIGNMENT.fullmatch(text.strip(" $"))
        is_right = only.value == value and (name == "" or stated is None or stated[1] == name)
        return Verdict.correct(text) if is_right else Verdict.incorrect(text, "another value")
    values, reason = assigned_values(text)
    if values is None:
        return Verdict.unparsed(reason)
    if "" in gold:
        return Verdict.unparsed("the answer is not one number")
    if values.keys() != gold.keys():
        return Verdict.incorrect(
            text, f"gives values for {', '.join(sorted(values))}; the unknowns are {', '.join(sorted(gold))}"
        )
    wrong = [name for name, value in gold.items() if values[name] != value]
    return Verdict.incorrect(text, f"wrong for {', '.join(wrong)}") if wrong else Verdict.correct(text)


_LAST_RULE: dict[bool, Literal["last_number", "whole"]] = {False: "last_number", True: "whole"}


def assigned_values(text: str) -> tuple[dict[str, Fraction] | None, str]:
    """The unknowns' values in "x = 3, y = -2"; None, with the reason, if that is not what it is."""
    values: dict[str, Fraction] = {}
    for piece in _SEPARATOR.split(text.replace("$", " ").replace("\\(", " ").replace("\\)", " ")):
        if not piece.strip(" \t.&"):
            continue
        match = _ASSIGNMENT.fullmatch(piece.strip())
        number = parse_number(match[2]) if match else None
        if match is None or number is None:
            return None, f"{piece.strip()[:60]!r} is not of the form x = number"
        if values.setdefault(match[1], number.value) != number.value:
            return None, f"{match[1]} has two values"
    return (values, "") if values else (None, "no values")


def _countdown_gold(answer: JSON) -> tuple[list[int] | None, Fraction | None]:
    if not isinstance(answer, dict) or not isinstance(answer.get("numbers"), list) or not answer["numbers"]:
        return None, None
    if any(isinstance(number, bool) or not isinstance(number, int) or number < 0 for number in answer["numbers"]):
        return None, None
    target = gold_number(answer.get("target"))
    return answer["numbers"], None if target is None else target.value


def _gold_values(answer: JSON) -> dict[str, Fraction]:
    golds = answer if isinstance(answer, dict) else {"": answer}
    numbers: dict[str, Number | None] = {str(name): gold_number(value) for name, value in golds.items()}
    return {} if None in numbers.values() else {name: number.value for name, number in numbers.items() if number is not None}
