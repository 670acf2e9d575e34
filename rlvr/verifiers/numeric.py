"""Read numbers as people and models write them, exactly: no floats, no symbolic library, bounded size."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

from rlvr.verifiers.algebra.units import scale_of

MAX_NUMBER_CHARS = 1_000
MAX_EXPONENT = 1_000

_TRANSLATE = str.maketrans(
    {
        "−": "-", "–": "-", "﹣": "-", "－": "-", "＋": "+", "，": ",", "．": ".", "％": "%", "／": "/", "⁄": "/",
        "＝": "=", "＄": "$", "\u00a0": " ", "\u2007": " ", "\u2009": " ", "\u202f": " ", "\u2003": " ", "\u3000": " ",
        "\u200b": None,
        "½": " 1/2", "⅓": " 1/3", "⅔": " 2/3", "¼": " 1/4", "¾": " 3/4", "⅕": " 1/5", "⅛": " 1/8",
        **{chr(0xFF10 + digit): str(digit) for digit in range(10)},
    }
)  # fmt: skip
_LATEX_NOISE = re.compile(r"\\[,;:! ]|\\(?:left|right|displaystyle|textstyle|quad|qquad)(?![a-zA-Z])|~")
_TEXT_COMMAND = re.compile(r"\\(?:text|textbf|mathrm|mathbf|mbox|operatorname)\s{0,4}\{([^{}]{0,80})\}")
_FRACTION_COMMAND = re.compile(r"\\[dtc]?frac")
_CURRENCY = "$€£¥₹￥"
_DIGITS = r"(?:\d{1,3}(?:,\d{3})+|\d{1,3}(?: \d{3})+|\d+)"
_DECIMAL = rf"(?:{_DIGITS}(?:\.\d*)?|\.\d+)"
_VALUE = re.compile(
    rf"(?P<sign>[-+]?)\s*[{_CURRENCY}]?\s*(?:"
    rf"(?P<whole>\d+)\s+(?P<mixed_top>\d+)\s*/\s*(?P<mixed_bottom>\d+)"
    rf"|\(?(?P<top>[-+]?{_DECIMAL})\)?\s*/\s*\(?(?P<bottom>[-+]?{_DECIMAL})\)?"
    rf"|(?P<decimal>{_DECIMAL})(?:[eE](?P<e>[-+]?\d{{1,6}})|\s*(?:\\times|\\cdot|×|\*)\s*10\s*(?:\^|\*\*)\s*\{{?\(?(?P<power>[-+]?\d{{1,6}})\)?\}}?)?"
    r")"
)
_UNIT = re.compile(r"[^\W\d_]{1,24}(?:[ /.-][^\W\d_]{1,24}){0,4}\.?|°\s?[CF]?|[^\W\d_]{1,12}\s?(?:\^\s?\{?[23]\}?|[²³])")
_UNIT_NAMES = {
    "metre": "m", "meter": "m", "kilometer": "km", "kilometre": "km", "centimeter": "cm", "centimetre": "cm", "millimeter": "mm",
    "millimetre": "mm", "gram": "g", "kilogram": "kg", "hour": "h", "hr": "h", "minute": "min", "second": "s", "sec": "s",
    "dollar": "$", "usd": "$", "euro": "€", "cent": "¢", "degree": "°", "liter": "l", "litre": "l", "mile": "mi", "inche": "in",
    "inch": "in", "foot": "ft", "feet": "ft", "percent": "%", "pct": "%",
}  # fmt: skip
_PHYSICAL = frozenset({*_UNIT_NAMES.values(), "ml", "mg", "lb", "oz", "kmh", "mph"})
_NOT_UNITS = frozenset(
    {
        "pi", "sqrt", "sin", "cos", "tan", "log", "ln", "mod", "and", "or", "plus", "minus", "times", "over", "infinity",
        "squared", "cubed", "factorial",
    }
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Number:
    """An exact value, and how it was written.

    `decimals` counts the digits after the point (None for integers and fractions); `unit` is "" if there was none.
    """

    value: Fraction
    decimals: int | None = None
    digits: int = 0  # significant digits that were written
    is_percent: bool = False
    unit: str = ""
    scale: int = 1  # what a word of the unit multiplies it by: a million in "5 million dollars", whose value is 5


def parse_number(text: str) -> Number | None:
    r"""The one number that `text` is, or None if it is anything else.

    Understands signs, `1,234.5`, `12 586 269 025`, `3/4`, `\frac{3}{4}`, `2 1/3`, `1.5e3`, `2 \times 10^{5}`, `50\%`, `$5`
    and a trailing unit in words. `1,2` is two numbers, hence None.

    >>> parse_number("12 586 269 025.").value == 12586269025
    True
    """
    if len(text) > MAX_NUMBER_CHARS:
        return None
    written = plain(text)
    match = _VALUE.match(written)
    if match is None:
        return None
    rest = written[match.end() :].strip()
    is_percent = rest.startswith("%")
    rest = rest.removeprefix("%").strip().rstrip(".").strip()
    is_spaced = written[match.end() :][:1] in ("", " ", "%", ".")
    unit = _unit(rest)
    if rest and not (_UNIT.fullmatch(rest) and _is_unit(unit, is_spaced=is_spaced)):
        return None
    value = _value(match)
    if value is None:
        return None
    mantissa = match["decimal"] or ""
    fraction_digits = mantissa.partition(".")[2] if match["e"] is None and match["power"] is None else ""
    decimals = len(fraction_digits) or None
    digits = len(re.sub(r"\D", "", mantissa).lstrip("0"))
    if not unit and any(sign in written for sign in _CURRENCY):
        unit = next(sign for sign in written if sign in _CURRENCY)
    return Number(value, decimals, digits, is_percent or unit == "%", "" if unit == "%" else unit, scale_of(unit))


def same_number(gold: Number, other: Number) -> bool:
    """Equal values; a percentage may stand for itself or for its hundredth; different physical units never agree.

    "5 million" is 5,000,000, and 5 where the problem asks for millions. A decimal with at least six significant digits also
    agrees with the value that it rounds (0.333333 and 1/3).
    """
    if gold.unit != other.unit and gold.unit in _PHYSICAL and other.unit in _PHYSICAL:
        return False
    if gold.value == other.value or _rounds(other, gold) or _rounds(gold, other):
        return True
    if gold.value * gold.scale == other.value * other.scale:
        return True
    if gold.is_percent == other.is_percent:
        return False
    percent, plain = (gold, other) if gold.is_percent else (other, gold)
    return percent.value == plain.value * 100


def close(gold: Fraction, other: Fraction, tolerance: Fraction) -> bool:
    """|gold - other| <= tolerance * max(1, |gold|)."""
    return abs(gold - other) <= tolerance * max(Fraction(1), abs(gold))


def _rounds(written: Number, exact: Number) -> bool:
    if written.decimals is None or written.digits < 6 or exact.decimals is not None:
        return False
    return abs(written.value - exact.value) <= Fraction(1, 2 * 10**written.decimals)


def _is_unit(unit: str, *, is_spaced: bool) -> bool:
    # "5 m" and "5km" carry units, "5 clips" counts things; "5m", "3i" and "2 pi" may be products.
    if unit.partition(" ")[0] in _NOT_UNITS:
        return False
    if len(unit) == 1 and unit.isalpha():
        return is_spaced and unit in _PHYSICAL
    return unit in _PHYSICAL or (is_spaced and len(unit) > 2) or not unit[0].isalpha()


def plain(text: str) -> str:
    """The text with one way of writing for digits, signs, fractions and LaTeX around numbers."""
    text = text.translate(_TRANSLATE).strip()
    text = _TEXT_COMMAND.sub(r" \1", text)
    text = text.replace("{,}", ",").replace("\\$", "$").replace("\\%", "%").replace("^\\circ", "°").replace("^{\\circ}", "°")
    text = _LATEX_NOISE.sub(" " if "," not in text else "", text).strip()
    text = text.removeprefix("\\(").removesuffix("\\)").removeprefix("\\[").removesuffix("\\]").strip("*` \n\t")
    while len(text) > 1 and text[0] == text[-1] == "$":
        text = text[1:-1].strip()
    if text.endswith("$") and text.count("$") == 1:
        text = text[:-1].strip()
    return _fractions(text)


def _fractions(text: str) -> str:
    r"""Write `\frac{a}{b}` and `\frac12` as ` a/b`."""
    command = _FRACTION_COMMAND.search(text)
    if command is None:
        return text
    parts = re.fullmatch(r"\s*(?:\{([^{}]*)\}|(\d))\s*(?:\{([^{}]*)\}|(\d))(.*)", text[command.end() :], re.DOTALL)
    if parts is None:
        return text
    top, bottom = parts[1] or parts[2] or "", parts[3] or parts[4] or ""
    head = text[: command.start()]
    return f"{head} {top.strip()}/{bottom.strip()}{parts[5]}".strip()


def _value(match: re.Match[str]) -> Fraction | None:
    negative = match["sign"] == "-"
    if match["mixed_bottom"] is not None:
        bottom = int(match["mixed_bottom"])
        if bottom == 0:
            return None
        value = int(match["whole"]) + Fraction(int(match["mixed_top"]), bottom)
    elif match["bottom"] is not None:
        denominator = _decimal(match["bottom"])
        if denominator == 0:
            return None
        value = _decimal(match["top"]) / denominator
    else:
        exponent = int(match["e"] or match["power"] or 0)
        if abs(exponent) > MAX_EXPONENT:
            return None
        value = _decimal(match["decimal"]) * Fraction(10) ** exponent
    return -value if negative else value


def _decimal(text: str) -> Fraction:
    return Fraction(text.replace(",", "").replace(" ", "").rstrip(".") or "0")


def _unit(text: str) -> str:
    word = text.strip().rstrip(".").lower()
    if not word:
        return ""
    singular = word[:-1] if word.endswith("s") and len(word) > 2 else word
    return _UNIT_NAMES.get(word) or _UNIT_NAMES.get(singular) or singular
