"""Symbolic equality through math-verify. Imported only inside worker processes: it costs about a second and may not end.

math-verify's own timeouts (`signal.alarm`) are off: they are not delivered inside long integer operations, and they
turn a hang into "not equal". The grader's wall-clock kill is the limit.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

from rlvr.errors import VerifierError, boundary

with boundary(VerifierError, "'math' needs math-verify; pip install 'rlvr[math]'"):
    from math_verify import LatexExtractionConfig, parse, verify
    from sympy import Basic, Expr, Rational

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
    """Compare two answers in LaTeX or plain notation. `gold` comes first: the comparison is not symmetric."""
    gold_parsed, answer_parsed = _parse(gold), _parse(answer)
    if not any(isinstance(item, Basic) or hasattr(item, "is_zero_matrix") for item in gold_parsed):
        return Comparison(False, "", gold_error=f"it cannot be read as mathematics: {gold[:200]!r}")
    if not answer_parsed:
        return Comparison(False, "the answer cannot be read as mathematics")
    is_equal = verify(gold_parsed, answer_parsed, timeout_seconds=None)
    if is_equal and _are_far_apart(gold_parsed[0], answer_parsed[0]):
        return Comparison(False, "equal only after rounding")
    return Comparison(is_equal, "equal symbolically" if is_equal else "not equal")


def _parse(text: str) -> list[Any]:
    r"""Bare answers are wrapped: unwrapped, "6 - 5i" reads as 5 and "2,3,4" as 2.3."""
    text = text.strip()
    if len(text) > 1 and text[0] == text[-1] == "$" and "$" not in text[1:-1]:
        text = text[1:-1]
    wrapped = text if "$" in text else f"\\boxed{{{text}}}"
    parsed: list[Any] = parse(wrapped, extraction_config=[LatexExtractionConfig(boxed_match_priority=0)], parsing_timeout=None)
    return parsed


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
