"""Symbolic equality through math-verify. Imported only inside worker processes: it costs about a second and may not end.

math-verify's own timeouts (`signal.alarm`) are off: they are not delivered inside long integer operations, and they
turn a hang into "not equal". The grader's wall-clock kill is the limit.
"""

from __future__ import annotations

import functools
import logging
from dataclasses import dataclass
from typing import Any

from rlvr.errors import VerifierError, boundary
from rlvr.verifiers.notation import to_latex

with boundary(VerifierError, "'math' needs math-verify; pip install 'rlvr[math]'"):
    from math_verify import LatexExtractionConfig, parse, verify
    from sympy import Basic, Eq, Expr, MatrixBase, Rational, simplify, solve
    from sympy.core.relational import Relational

    from rlvr.verifiers.refute import surely_differ

RELATIVE_TOLERANCE = 1e-6

# It logs the whole input on every trouble.
logging.getLogger("math_verify").setLevel(logging.CRITICAL)


@dataclass(frozen=True, slots=True)
class Comparison:
    """`gold_error` says that the gold answer could not be read, so that nothing was compared."""

    is_equal: bool
    reason: str
    gold_error: str | None = None


def compare(gold: str, answer: str) -> Comparison:
    """Compare two answers in LaTeX or plain notation. `gold` comes first: the comparison is not symmetric.

    What goes wrong while the gold answer is read is a `gold_error`; what the answer provokes makes it unequal.
    """
    gold_parsed = _parse_gold(gold)
    if isinstance(gold_parsed, str):
        return Comparison(False, "", gold_error=gold_parsed)
    try:
        answer_parsed = _parse(answer)
        if not answer_parsed:
            return Comparison(False, "the answer cannot be read as mathematics")
        return _compare_parsed(gold_parsed, answer_parsed)
    except VerifierError as error:
        return _blame(gold_parsed, error)


@functools.lru_cache(maxsize=256)
def _parse_gold(text: str) -> list[Any] | str:
    """The gold answer, or why it cannot be read. Kept: a group's responses come one after another, and parsing takes longest."""
    try:
        parsed = _parse(text)
    except VerifierError as error:
        if isinstance(error.__cause__, MemoryError):
            raise  # says nothing about the answer: the worker may be full
        return str(error)
    if not any(isinstance(item, (Basic, MatrixBase)) for item in parsed):
        return f"it cannot be read as mathematics: {text[:200]!r}"
    return parsed


def _compare_parsed(gold: list[Any], answer: list[Any]) -> Comparison:
    with boundary(VerifierError, "comparing"):
        gold, answer = [_last_value(item) for item in gold], [_last_value(item) for item in answer]
        if (difference := surely_differ(gold[0], answer[0])) is not None:
            return Comparison(False, difference)
        is_equal = verify(gold, answer, timeout_seconds=None)
        if is_equal and _are_far_apart(gold[0], answer[0]):
            return Comparison(False, "equal only after rounding")
        if is_equal and _share_no_solution(gold[0], answer[0]):
            return Comparison(False, "two equations that only have in common that they cannot be solved")
        return Comparison(is_equal, "equal symbolically" if is_equal else "not equal")


def _blame(gold: list[Any], error: VerifierError) -> Comparison:
    """Whose fault a failed comparison is: the gold answer's, if it cannot even be compared with itself."""
    if isinstance(error.__cause__, MemoryError):
        raise error  # says nothing about either: the worker may be full
    try:
        _compare_parsed(gold, gold)
    except VerifierError as gold_error:
        return Comparison(False, "", gold_error=str(gold_error)[:300])
    return Comparison(False, f"the answer cannot be compared ({str(error)[:200]})")


def _parse(text: str) -> list[Any]:
    r"""Bare answers are wrapped: unwrapped, "6 - 5i" reads as 5 and "2,3,4" as 2.3.

    Raises:
        VerifierError: the parser failed, rather than found nothing.
    """
    text = to_latex(text)
    # One formula in a sentence is found by the parser; of several it would take one.
    if text.count("$") != 2 or text[0] == text[-1] == "$":
        text = text.replace("\\$", "").replace("$", " ")
    wrapped = text if "$" in text else f"\\boxed{{{text}}}"
    with boundary(VerifierError, "reading mathematics"):
        parsed: list[Any] = parse(
            wrapped, extraction_config=[LatexExtractionConfig(boxed_match_priority=0)], parsing_timeout=None, raise_on_error=True
        )
    return parsed


def _last_value(item: Any) -> Any:
    """An equation between numbers ("20 cos 60 = 10") stands for its result."""
    return item.rhs if isinstance(item, Relational) and isinstance(item, Eq) and not item.free_symbols else item


def _are_far_apart(gold: Any, answer: Any) -> bool:
    """math-verify rounds to 6 decimals, so all tiny numbers are equal to it; here the relative difference counts."""
    if not (isinstance(gold, Expr) and isinstance(answer, Expr)) or gold.free_symbols or answer.free_symbols:
        return False
    try:
        left, right = gold.evalf(30), answer.evalf(30)
        if not (left.is_number and right.is_number) or left == 0 or right == 0:
            return False  # where one side is zero, the other may be zero only nearly: a matter of evaluation
        # 9% stands for 9 and for 0.09.
        return all(bool(abs(left * factor - right) > RELATIVE_TOLERANCE * abs(right)) for factor in (1, 100, Rational(1, 100)))
    except (TypeError, ValueError, ArithmeticError, AttributeError):
        return False


def _share_no_solution(gold: Any, answer: Any) -> bool:
    """math-verify compares equations by their solutions, so all that have none are equal to it."""
    if not (isinstance(gold, Eq) and isinstance(answer, Eq)) or gold == answer:
        return False
    if solve(gold, *gold.free_symbols) or solve(answer, *answer.free_symbols):
        return False
    return not simplify((gold.lhs - gold.rhs) / (answer.lhs - answer.rhs)).is_number
