r"""Other ways to write a gold answer, and near misses of it, by the kind of the answer.

- number (a JSON number, or text that is a plain number). Forms: `72.0`, `$72$`, `144/2`, `1,234`, `−5` with the Unicode minus,
  `\frac{3}{4}`. Near misses: n + 1, n - 1, -n, 10 n, the last decimal + 1.
- latex (text with `\`, `^`, `_` or operators). Forms: `$...$`, `\dfrac`, `\left( \right)`, spacing, two terms in the other order.
  Near misses: one digit changed, `+1`, a minus for the plus.
- quantity (text with digits and words: `5 km`). Forms: spaces around, a final period. Near misses: one digit changed.
- text (any other). Forms: spaces around, a final period, case. Near misses: `not ...`, other endings, another problem's answer.
- choice (one letter, for a verifier with the setting `letters`). Forms: `(B)`, `B.`, `\text{B}`. Near misses: all other letters.
- roles (`{name: "knight" or "knave"}`). Forms: another order, colons, capitals, a list. Near misses: one turned round, or all.
- unknowns (`{name: number}`). Forms: another order, lines, `6/2` for 3. Near misses: one value + 1, two values swapped.
- expression (`{"numbers", "target"}`). Forms: in brackets, spaced, `= target`, `×`. Near misses: an operand more, a wrong
  total, the bare target.
- json (a list or object that the gold response repeats as JSON). Forms: indented, keys in another order. Near misses: one leaf
  changed, a list around it.

Near misses keep out of the reach of a tolerance among the settings. Every other answer (none at all, or an object that only
its verifier understands) has no forms: such a verifier grades the form of a response, not its answer.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from fractions import Fraction

from rlvr.types import JSON

_PLAIN_NUMBER = re.compile(r"[-+]?(?:\d{1,3}(?:,\d{3})+|\d{1,40})(?:\.\d{1,40})?|[-+]?\d{1,20}/[1-9]\d{0,19}")
_DIGIT = re.compile(r"\d")
_TERMS = re.compile(r"([A-Za-z0-9^*]{1,20})\+([A-Za-z0-9^*]{1,20})")
_OPERATORS = "\\^_$=+*/<>{}()[]|"
_OPPOSITE = {"knight": "knave", "knave": "knight"}


class Kind(StrEnum):
    """What a gold answer is; see the module's table."""

    NUMBER = "number"
    LATEX = "latex"
    QUANTITY = "quantity"
    TEXT = "text"
    CHOICE = "choice"
    ROLES = "roles"
    UNKNOWNS = "unknowns"
    EXPRESSION = "expression"
    JSON = "json"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class Forms:
    """A gold answer as text, other ways to write the same answer, and answers that are wrong."""

    canonical: str
    equivalent: tuple[str, ...]
    mutated: tuple[str, ...]


def kind_of(answer: JSON, *, has_letters: bool) -> Kind:
    """The kind of a gold answer; `has_letters` says that the verifier has the setting `letters`."""
    if answer is None or isinstance(answer, bool):
        return Kind.NONE
    if isinstance(answer, (int, float)):
        return Kind.NUMBER if _PLAIN_NUMBER.fullmatch(str(answer)) else Kind.NONE
    if isinstance(answer, str):
        return _kind_of_text(answer.strip(), has_letters=has_letters)
    if isinstance(answer, Mapping) and answer:
        if answer.keys() == {"numbers", "target"}:
            return Kind.EXPRESSION
        if all(value in ("knight", "knave") for value in answer.values()):
            return Kind.ROLES
        if all(not isinstance(v, bool) and _PLAIN_NUMBER.fullmatch(str(v)) for v in answer.values()):
            return Kind.UNKNOWNS
    return Kind.JSON if isinstance(answer, (Mapping, list)) else Kind.NONE


def forms_of(kind: Kind, answer: JSON, extracted: str | None, settings: Mapping[str, JSON]) -> Forms | None:
    """The forms of a gold answer; `extracted` is what the verifier read from the gold response. None: there are none."""
    made = _MAKERS[kind](answer, extracted, settings) if kind in _MAKERS else None
    if made is None:
        return None
    same = {_bare(form) for form in (made.canonical, *made.equivalent)}
    mutated = tuple(dict.fromkeys(form for form in made.mutated if _bare(form) not in same))
    return Forms(made.canonical, tuple(dict.fromkeys(form for form in made.equivalent if form != made.canonical)), mutated)


def _kind_of_text(text: str, *, has_letters: bool) -> Kind:
    if not text:
        return Kind.NONE
    if has_letters:
        return Kind.CHOICE if len(text) == 1 and text.isalpha() else Kind.NONE
    if _PLAIN_NUMBER.fullmatch(text):
        return Kind.NUMBER
    if any(char in _OPERATORS for char in text):
        return Kind.LATEX
    return Kind.QUANTITY if _DIGIT.search(text) else Kind.TEXT


def _number(answer: JSON, extracted: str | None, settings: Mapping[str, JSON]) -> Forms:
    text = str(answer).strip()
    plain = text.replace(",", "").removeprefix("+")
    value = Fraction(plain)
    equivalent = [f"${plain}$", f" {plain} "]
    if value.denominator == 1 and "/" not in plain:
        whole = int(value)
        equivalent += [f"{2 * whole}/2", f"{whole:,}"] + ([f"{whole}.0"] if "." not in plain else [])
    elif "/" in plain:
        equivalent += [f"\\frac{{{value.numerator}}}{{{value.denominator}}}", f"{2 * value.numerator}/{2 * value.denominator}"]
    else:
        equivalent += [f"{value.numerator}/{value.denominator}", f"{plain}0"]
    if value < 0:
        equivalent.append(plain.replace("-", "−"))
    decimals = len(plain.partition(".")[2])
    step = Fraction(1, 10**decimals)
    reach = _tolerance(settings) * max(Fraction(1), abs(value))
    candidates = [value + step, value + 1, value - 1, -value, 10 * value, value + 10 ** max(0, len(str(int(abs(value)))) - 1)]
    mutated = [_written(other, decimals) for other in candidates if abs(other - value) > 2 * reach]
    return Forms(plain, tuple(equivalent), tuple(mutated))


def _latex(answer: JSON, extracted: str | None, settings: Mapping[str, JSON]) -> Forms:
    text = str(answer).strip()
    bare = text.strip("$").strip()
    equivalent = [f"${bare}$", f"  {bare} ", f"\\displaystyle {bare}"]
    if "\\frac" in bare:
        equivalent.append(bare.replace("\\frac", "\\dfrac"))
    if "(" in bare and "\\left" not in bare and bare.count("(") == bare.count(")"):
        equivalent.append(bare.replace("(", "\\left(").replace(")", "\\right)"))
    if (terms := _TERMS.fullmatch(bare)) is not None:
        equivalent.append(f"{terms[2]}+{terms[1]}")
    mutated = [f"{bare}+1"] if "=" not in bare and "," not in bare else []
    digits = [match.start() for match in _DIGIT.finditer(bare) if not _is_of_zero(bare, match.start())]
    mutated += [_with_other_digit(bare, at) for at in dict.fromkeys([*digits[:1], *digits[-1:]])]
    if "\\pm" not in bare and bare.count("+") == 1 and not bare.startswith("+"):
        mutated.append(bare.replace("+", "-"))
    return Forms(bare, tuple(equivalent), tuple(mutated))


def _quantity(answer: JSON, extracted: str | None, settings: Mapping[str, JSON]) -> Forms:
    text = str(answer).strip()
    digits = [match.start() for match in _DIGIT.finditer(text)]
    return Forms(text, (f"  {text} ", f"{text}."), tuple(_with_other_digit(text, at) for at in {digits[0]: 0, digits[-1]: 0}))


def _text(answer: JSON, extracted: str | None, settings: Mapping[str, JSON]) -> Forms:
    text = str(answer).strip()
    equivalent = [f"  {text} ", f"{text}."]
    if settings.get("case_sensitive") is not True:
        equivalent += [text.upper(), text.lower()]
    return Forms(text, tuple(equivalent), (f"not {text}", f"{text} {text}ish", f"un{text}"))


def _choice(answer: JSON, extracted: str | None, settings: Mapping[str, JSON]) -> Forms:
    letter = str(answer).strip().upper()
    letters = str(settings.get("letters", "ABCDE"))
    return Forms(
        letter, (f"({letter})", f"{letter}.", f"\\text{{{letter}}}", f" {letter} "), tuple(o for o in letters if o != letter)
    )


def _roles(answer: JSON, extracted: str | None, settings: Mapping[str, JSON]) -> Forms:
    roles: dict[str, str] = dict(answer)
    backwards = dict(reversed(roles.items()))

    def said(given: Mapping[str, str]) -> str:
        return ", ".join(f"{name} is a {role}" for name, role in given.items())

    equivalent = (
        said(backwards),
        "; ".join(f"{name}: {role}" for name, role in roles.items()),
        said(roles).upper(),
        "\n".join(f"({number}) {name} is a {role}" for number, (name, role) in enumerate(roles.items(), 1)),
    )
    turned = [said({**roles, name: _OPPOSITE[role]}) for name, role in roles.items()]
    return Forms(said(roles), equivalent, (*turned, said({name: _OPPOSITE[role] for name, role in roles.items()})))


def _unknowns(answer: JSON, extracted: str | None, settings: Mapping[str, JSON]) -> Forms:
    values = {name: Fraction(str(value).replace(",", "")) for name, value in dict(answer).items()}

    def said(given: Mapping[str, Fraction | str], separator: str = ", ") -> str:
        return separator.join(f"{name} = {value}" for name, value in given.items())

    backwards = dict(reversed(values.items()))
    doubled = {name: f"{2 * value.numerator}/{2 * value.denominator}" for name, value in values.items()}
    mutated = [said({**values, name: value + 1}) for name, value in values.items()]
    names = list(values)
    if len(names) > 1 and values[names[0]] != values[names[1]]:
        mutated.append(said({**values, names[0]: values[names[1]], names[1]: values[names[0]]}))
    equivalent = (said(backwards, " and "), said(values, "; "), said(values, "\n"), said(doubled))
    return Forms(said(values), equivalent, tuple(mutated))


def _expression(answer: JSON, extracted: str | None, settings: Mapping[str, JSON]) -> Forms | None:
    if not extracted:
        return None
    expression, target, numbers = extracted.partition("=")[0].strip(" $"), str(answer["target"]), list(answer["numbers"])
    equivalent = [f"({expression})", f"{expression} = {target}", f" {expression} ", expression.replace("*", " × ")]
    mutated = [f"{expression} + 1", f"{expression} - {numbers[0]} + {numbers[0]}", f"{expression} = {target}1"]
    if [str(number) for number in numbers] != [target]:
        mutated.append(target)
    return Forms(expression, tuple(equivalent), tuple(mutated))


def _json(answer: JSON, extracted: str | None, settings: Mapping[str, JSON]) -> Forms | None:
    if not extracted or not _is_same_json(extracted, answer):
        return None
    equivalent = [json.dumps(answer, indent=2), json.dumps(_reordered(answer)), json.dumps(answer, separators=(",", ":"))]
    return Forms(json.dumps(answer), tuple(equivalent), (json.dumps(_other_leaf(answer)), json.dumps([answer])))


_MAKERS: dict[Kind, Callable[[JSON, str | None, Mapping[str, JSON]], Forms | None]] = {
    Kind.NUMBER: _number,
    Kind.LATEX: _latex,
    Kind.QUANTITY: _quantity,
    Kind.TEXT: _text,
    Kind.CHOICE: _choice,
    Kind.ROLES: _roles,
    Kind.UNKNOWNS: _unknowns,
    Kind.EXPRESSION: _expression,
    Kind.JSON: _json,
}


def _bare(form: str) -> str:
    return "".join(form.split()).casefold()


def _tolerance(settings: Mapping[str, JSON]) -> Fraction:
    values = [value for name, value in settings.items() if "tol" in name and isinstance(value, (int, float))]
    return max((Fraction(value) for value in values), default=Fraction(0))


def _written(value: Fraction, decimals: int) -> str:
    if value.denominator == 1:
        return str(value.numerator)
    return f"{float(value):.{decimals}f}" if decimals else f"{value.numerator}/{value.denominator}"


def _is_of_zero(text: str, at: int) -> bool:
    """Whether the digit at `at` may stand where its value does not matter: after a zero's fraction bar, in a name or an index."""
    return "\\frac{0}" in text or text[max(0, at - 1) : at] == "_" or "\\text" in text or "\\sqrt[" in text


def _with_other_digit(text: str, at: int) -> str:
    return f"{text[:at]}{(int(text[at]) + 5) % 10 or 7}{text[at + 1 :]}"


def _is_same_json(text: str, value: JSON) -> bool:
    try:
        return bool(json.loads(text) == value)
    except (ValueError, RecursionError):
        return False


def _reordered(value: JSON) -> JSON:
    if isinstance(value, Mapping):
        return {key: _reordered(value[key]) for key in reversed(list(value))}
    return [_reordered(inner) for inner in value] if isinstance(value, list) else value


def _other_leaf(value: JSON) -> JSON:
    """The same structure with its first leaf changed."""
    if isinstance(value, Mapping) and value:
        key, inner = next(iter(value.items()))
        return {**value, key: _other_leaf(inner)}
    if isinstance(value, list) and value:
        return [_other_leaf(value[0]), *value[1:]]
    if isinstance(value, bool) or value is None:
        return "other"
    return value + 1 if isinstance(value, (int, float)) else f"other {value}"
