"""Refuse mathematics whose evaluation would not end, before any library reads it."""

from __future__ import annotations

import math
import re

MAX_DIGITS = 20_000  # decimal digits that a power or factorial may have
MAX_NESTING = 40
MAX_OPERATORS = 300
MAX_CELLS = 16  # of a determinant or an inverse
MAX_COMPOUND_EXPONENT = 500  # of a base in brackets

_OPEN_OPERATIONS = ("\\int", "\\sum", "\\prod", "\\lim")
_POWER = re.compile(r"\^|\*\*")
_FACTORIAL = re.compile(r"(\d{1,30})[)}\]\s]{0,20}!")
_BASE_BEFORE = re.compile(r"(?:(?<![\d.])(\d+(?:\.\d+)?)\s*|[({\[]\s*(\d+(?:\.\d+)?)\s*(?:\\right)?\s*[)}\]]\s*)$")  # 9^ or (9)^
_COMMAND = re.compile(r"\\[a-zA-Z]+")
_LARGE_BINOMIAL = re.compile(r"\\[dt]?binom\s{0,4}(?:\{[^{}]{0,20}(?:\d{5}|\^)|\{[^{}]{0,40}\}\s{0,4}\{[^{}]{0,20}(?:\d{5}|\^))")
_POWER_OF_FACTORIAL = re.compile(r"!\s{0,4}[)}\]]{0,8}\s{0,4}(?:\^|\*\*)")
_OPERATORS = re.compile(r"[-+*/^=<>!]|\\[a-zA-Z]+")


def hazard(text: str) -> str | None:
    """Why `text` is too large to evaluate, or None. Linear in the text.

    >>> hazard("9^{9^{9}}") is None
    False
    >>> hazard("x^{2^{n}}") is None
    True
    """
    depth = deepest = 0
    for char in text:
        depth += (char in "([{") - (char in ")]}")
        deepest = max(deepest, depth)
    if deepest > MAX_NESTING:
        return f"brackets are nested {deepest} deep; at most {MAX_NESTING} are read"
    operators = sum(1 for _ in _OPERATORS.finditer(text))
    if operators > MAX_OPERATORS:
        return f"{operators} operators; at most {MAX_OPERATORS} are read"
    if "!" in text and (reason := _large_factorial(text)):
        return reason
    if text.count("&") > MAX_CELLS and any(mark in text for mark in ("\\det", "vmatrix", "^{-1}", "^-1")):
        return "a determinant or inverse that is too large to evaluate"
    if _LARGE_BINOMIAL.search(text):
        return "a binomial coefficient that is too large to evaluate"
    if _POWER_OF_FACTORIAL.search(text):
        return "a power of a factorial"
    return _large_power(text)


def unfinished(gold: str, answer: str) -> str | None:
    """Why `answer` is not a final answer: it leaves an operation open that the gold answer does not have."""
    for command in _OPEN_OPERATIONS:
        if command in answer and command not in gold:
            return f"leaves {command} unevaluated"
    return None


def _large_factorial(text: str) -> str | None:
    if re.search(r"!\s*[)}\]]*\s*!", text):
        return "a factorial of a factorial"
    for match in _FACTORIAL.finditer(text):
        if int(match[1]) > 5_000:
            return f"the factorial of {match[1]} is too large to evaluate"
    if re.search(r"[)}\]]\s*!", text) and _POWER.search(text):
        return "the factorial of a power"
    return None


def _large_power(text: str) -> str | None:
    """Exponents are read from the right, so that a tower's upper part is known when its base is met."""
    known: float | None = None  # log10 of the power that was read last, and where its base began
    known_at = -1
    for operator in reversed(list(_POWER.finditer(text))):
        base = _BASE_BEFORE.search(text[max(0, operator.start() - 40) : operator.start()])
        exponent_text, end = _operand(text, operator.end())
        if operator.end() <= known_at < end and known is not None:
            exponent = 10.0 ** min(known, 300.0)
        elif any(char.isalpha() for char in _COMMAND.sub("", exponent_text)):
            known = None
            continue
        else:
            exponent = _magnitude(exponent_text)
        if base is None:
            if exponent > MAX_COMPOUND_EXPONENT and text[: operator.start()].rstrip()[-1:] in (")", "}", "]"):
                return f"the power {exponent_text[:20]} of an expression is too large to evaluate"
            known = None  # x^2 or (a+b)^2
            continue
        digits = exponent * math.log10(max(float(base[1] or base[2]), 1.0))
        if digits > MAX_DIGITS:
            return f"a power with about {digits:.0e} digits is too large to evaluate"
        known, known_at = digits, operator.start() - len(base[0])
    return None


def _operand(text: str, start: int) -> tuple[str, int]:
    """The exponent that begins at `start`: a bracketed group, or a run of digits and signs."""
    while start < len(text) and text[start] == " ":
        start += 1
    if start >= len(text) or text[start] not in "({[":
        end = start
        while end < len(text) and (text[end].isdigit() or text[end] in "+-."):
            end += 1
        return text[start:end], end
    depth = 0
    for end in range(start, min(len(text), start + 400)):
        depth += (text[end] in "([{") - (text[end] in ")]}")
        if depth == 0:
            return text[start + 1 : end], end
    return text[start + 1 : start + 400], min(len(text), start + 400)


def _magnitude(text: str) -> float:
    """An upper bound on a letterless exponent: the product of its numbers, which a sum or product of them does not pass."""
    bound = 1.0
    for number in re.findall(r"\d+(?:\.\d+)?", text):
        bound = min(bound * max(1.0, float(number[:200])), 1e100)
    return bound
