"""Decide whether an answer equals the gold answer, from their texts. What this module leaves open, another may decide."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal, TypeAlias, get_args

from rlvr.errors import VerifierError, boundary
from rlvr.verifiers.algebra.answers import read_answer, strip_wrapping
from rlvr.verifiers.algebra.equality import equal, span_of
from rlvr.verifiers.algebra.expressions import Node
from rlvr.verifiers.algebra.kinds import Answer, Matrix, Region, Relation, Scalar, Sequence, Words
from rlvr.verifiers.algebra.points import constant_value
from rlvr.verifiers.algebra.tokens import UnreadableError
from rlvr.verifiers.algebra.values import to_real
from rlvr.verifiers.choice import letters_in

Type: TypeAlias = Literal[
    "auto", "number", "expression", "equation", "interval", "set", "tuple", "matrix", "percent", "unit", "choice", "text"
]
TYPES: tuple[str, ...] = get_args(Type)
MAX_GOLD_WORDS = 5
LETTERS = "ABCDEFGHIJ"

_GROUPED = re.compile(
    r"(?<![\d.,\w\\])(\d{1,3}(?:(?:,|\{,\}|,?\\[,;:!] ?|,\\!\s|\\ | )\d{3})+)(?![\d\w]|,\d|\s\d{1,2}(?!\d))(\.\d+)?"
)
_SPACED_LETTER = re.compile(r"(?<=\d)\s+([A-Za-z])(?![A-Za-z])")
_DECIMAL_COMMA = re.compile(r"-?(?:\d+,\d{2}|0,\d+|\d+,\d{4,})")
_WRAPPED = re.compile(r"\\(?:text|textbf|textrm|textit|mathrm|mathbf|mbox|rm|bf)\s{0,4}\{([^{}]{0,200})\}")
_GOLD_LETTER = re.compile(r"\(?([A-J])\)?\.?")
_MARKED_LETTER = re.compile(r"(?:\(([A-J])\)|([A-J])[).:](?!\d))")
_LETTER_IN_FORMULA = re.compile(r"\b[A-J]\)?[-+*/^=]")


@dataclass(frozen=True, slots=True)
class Decision:
    """`is_equal` is None where this module cannot tell; `gold_error` says that the gold answer is not of its type."""

    is_equal: bool | None
    reason: str = ""
    gold_error: str | None = None


OPEN = Decision(None)


def decide(gold: str, answer: str, kind: Type = "auto", tolerance: float = 0.0) -> Decision:
    """Whether `answer` equals `gold`, which is of type `kind`. Bounded time; symmetric for `kind="auto"`; never raises.

    `tolerance` lets constants differ by that much times max(1, |gold|).
    """
    try:
        with boundary(VerifierError, "comparing"):
            return _decide(gold, answer, kind, tolerance)
    except VerifierError as error:
        return Decision(None, str(error))


def _decide(gold: str, answer: str, kind: Type, tolerance: float) -> Decision:
    if kind == "text":
        return _same_text(gold, answer)
    if kind == "choice" or (kind == "auto" and gold_letter(gold) is not None):
        decided = _same_choice(gold, answer)
        if decided.is_equal is not None or kind == "choice":
            return decided
    golds = _of_type(gold, kind)
    if kind == "auto" and any(isinstance(one, Words) and len(one.text.split()) > MAX_GOLD_WORDS for one in golds):
        return Decision(
            None, gold_error=f"it is prose, which has no one wording (type = 'text' would compare it as text): {gold[:200]!r}"
        )
    if not golds:
        if kind == "auto":
            return OPEN
        return Decision(None, gold_error=f"it is not read as {kind}: {gold[:200]!r}")
    answers = _of_type(answer, kind)
    if not answers:
        return Decision(False, f"not of type {kind}") if readings(answer) else OPEN
    verdicts = [equal(one, other) for one in golds for other in answers]
    if True in verdicts:
        return Decision(True, "equal")
    if tolerance > 0 and any(_are_close(one, other, tolerance) for one in golds for other in answers):
        return Decision(True, "within the tolerance")
    return Decision(False, "not equal") if None not in verdicts else OPEN


def gold_letter(gold: str) -> str | None:
    """The letter of a multiple-choice gold answer such as `B`, `(B)` or `\\text{(B)}`."""
    match = _GOLD_LETTER.fullmatch(strip_wrapping(_WRAPPED.sub(r"\1", gold)))
    return match[1] if match else None


@lru_cache(maxsize=4096)
def readings(text: str) -> tuple[Answer, ...]:
    """What `text` may mean: with commas and spaces as thousands separators, and as the separators of a list; `12 m` as
    a length, and as a product.
    """
    joined = _GROUPED.sub(lambda match: re.sub(r"\D", "", match[1]) + (match[2] or ""), text)
    variants = [joined] if joined == text or text.lstrip("$\\ ")[:1] not in "([{" else [text, joined]
    if joined != text and variants == [joined]:
        variants.append(text)
    if _DECIMAL_COMMA.fullmatch(strip_wrapping(text)):
        variants.append(text.replace(",", "."))
    if _SPACED_LETTER.search(text):
        variants.append(_SPACED_LETTER.sub(r"\1", joined))
    found: list[Answer] = []
    for variant in variants:
        try:
            found.append(read_answer(variant))
        except (UnreadableError, RecursionError):
            continue
    return tuple(dict.fromkeys(found))


def _of_type(text: str, kind: Type) -> list[Answer]:
    return [typed for reading in readings(text) if (typed := as_type(reading, kind)) is not None]


def as_type(answer: Answer, kind: Type) -> Answer | None:
    """`answer` read as being of type `kind`; None if it is not."""
    convert = _CONVERSIONS.get(kind)
    return answer if convert is None else convert(answer)


def _number(answer: Answer) -> Answer | None:
    return answer if isinstance(answer, Scalar) and not any(answer.node.symbols()) else None


def _expression(answer: Answer) -> Answer | None:
    return replace(answer, name="") if isinstance(answer, Scalar) else None


def _equation(answer: Answer) -> Answer | None:
    if isinstance(answer, Scalar) and answer.name:
        return Relation(Node("symbol", name=answer.name), "=", answer.node)
    return answer if isinstance(answer, Relation) else None


def _interval(answer: Answer) -> Answer | None:
    if isinstance(answer, Sequence):
        return span_of(answer) if answer.kind.startswith("pair") else answer if answer.kind == "list" else None
    return answer if isinstance(answer, Region) else None


def _set(answer: Answer) -> Answer | None:
    if isinstance(answer, Sequence):
        return replace(answer, kind="set") if answer.kind in ("set", "list") else None
    if isinstance(answer, Scalar):
        return Sequence("set", (answer,))
    return answer if isinstance(answer, Region) else None


def _tuple(answer: Answer) -> Answer | None:
    return replace(answer, kind="tuple") if isinstance(answer, Sequence) and answer.kind != "set" else None


def _matrix(answer: Answer) -> Answer | None:
    return answer if isinstance(answer, Matrix) or (isinstance(answer, Sequence) and answer.kind not in ("set", "list")) else None


def _percent(answer: Answer) -> Answer | None:
    return answer if isinstance(answer, Scalar) else None


def _with_unit(answer: Answer) -> Answer | None:
    return answer if isinstance(answer, Scalar) and (answer.unit or answer.is_percent) else None


_CONVERSIONS: dict[str, Callable[[Answer], Answer | None]] = {
    "number": _number, "expression": _expression, "equation": _equation, "interval": _interval, "set": _set, "tuple": _tuple,
    "matrix": _matrix, "percent": _percent, "unit": _with_unit,
}  # fmt: skip


def _same_text(gold: str, answer: str) -> Decision:
    one, other = plain_words(gold), plain_words(answer)
    if not one:
        return Decision(None, gold_error="it is empty")
    return Decision(one == other, "same text" if one == other else "another text")


def plain_words(text: str) -> str:
    """Letters and digits of a text in lower case, without wrapping commands and articles at its beginning."""
    plain = _WRAPPED.sub(r" \1 ", strip_wrapping(text))
    words = "".join(char if char.isalnum() else " " for char in plain.casefold()).split()
    return " ".join(words[1:] if len(words) > 1 and words[0] in ("the", "a", "an") else words)


def _same_choice(gold: str, answer: str) -> Decision:
    letter = gold_letter(gold)
    if letter is None:
        return Decision(None, gold_error=f"it is no letter of {LETTERS}: {gold[:80]!r}")
    plain = strip_wrapping(_WRAPPED.sub(r"\1", answer)).replace("\\ ", " ").replace("\\", "")
    marked = _MARKED_LETTER.match(plain)
    if _LETTER_IN_FORMULA.search(plain) or (marked is None and any(char in plain for char in "*+^=/{}_")):
        return OPEN
    named = letters_in(plain, LETTERS)
    if not named:
        return OPEN
    return Decision(named == {letter}, "same letter" if named == {letter} else "another letter")


def _are_close(gold: Answer, answer: Answer, tolerance: float) -> bool:
    if isinstance(gold, Sequence) and isinstance(answer, Sequence):
        return len(gold.items) == len(answer.items) and all(
            equal(one, other) or _are_close(one, other, tolerance) for one, other in zip(gold.items, answer.items, strict=True)
        )
    if not isinstance(gold, Scalar) or not isinstance(answer, Scalar):
        return False
    one, other = constant_value(gold.node), constant_value(answer.node)
    if one is None or other is None or to_real(one) is None or to_real(other) is None:
        return False
    left, right = float(to_real(one)), float(to_real(other))
    return abs(left - right) <= tolerance * max(1.0, abs(left))
