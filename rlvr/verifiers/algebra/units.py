"""Names of units, and what they are in others of their kind."""

from __future__ import annotations

import re
from fractions import Fraction

_NAMES = {
    "metre": "m", "meter": "m", "kilometer": "km", "kilometre": "km", "centimeter": "cm", "centimetre": "cm", "millimeter": "mm",
    "millimetre": "mm", "gram": "g", "kilogram": "kg", "milligram": "mg", "hour": "h", "hr": "h", "minute": "min", "second": "s",
    "sec": "s", "dollar": "$", "usd": "$", "euro": "€", "cent": "¢", "degree": "°", "deg": "°", "liter": "l", "litre": "l",
    "mile": "mi",
    "inche": "in", "inch": "in", "foot": "ft", "feet": "ft", "percent": "%", "pct": "%", "percentage": "%", "yard": "yd",
    "pound": "lb",
    "ounce": "oz", "radian": "rad", "tonne": "t", "ml": "ml", "milliliter": "ml", "millilitre": "ml", "yuan": "yuan",
}  # fmt: skip
# In the first unit of its kind.
_SIZES: dict[str, tuple[str, Fraction]] = {
    "m": ("length", Fraction(1)), "km": ("length", Fraction(1000)), "cm": ("length", Fraction(1, 100)),
    "mm": ("length", Fraction(1, 1000)),
    "in": ("length", Fraction(254, 10_000)), "ft": ("length", Fraction(3048, 10_000)), "yd": ("length", Fraction(9144, 10_000)),
    "mi": ("length", Fraction(1_609_344, 1000)), "g": ("mass", Fraction(1)), "kg": ("mass", Fraction(1000)),
    "mg": ("mass", Fraction(1, 1000)), "t": ("mass", Fraction(1_000_000)), "lb": ("mass", Fraction(45_359_237, 100_000)),
    "oz": ("mass", Fraction(45_359_237, 1_600_000)), "s": ("time", Fraction(1)), "ms": ("time", Fraction(1, 1000)),
    "min": ("time", Fraction(60)), "h": ("time", Fraction(3600)), "day": ("time", Fraction(86_400)), "l": ("volume", Fraction(1)),
    "ml": ("volume", Fraction(1, 1000)), "$": ("money", Fraction(1)), "¢": ("money", Fraction(1, 100)),
    "€": ("euro", Fraction(1)),
    "£": ("pound", Fraction(1)), "yuan": ("yuan", Fraction(1)), "°": ("angle", Fraction(1)),
}  # fmt: skip
_WORD = re.compile(r"[^\W\d_]+|[$€£¢°%]")
SCALES = {"dozen": 12, "hundred": 100, "thousand": 1_000, "million": 10**6, "billion": 10**9, "trillion": 10**12}


def unit_name(text: str) -> str:
    """A unit in one spelling; "%" for percent, "" for nothing.

    >>> unit_name(" square centimeters"), unit_name(" cm^{2}")
    ('cm^2', 'cm^2')
    """
    text = text.strip().lower().rstrip(".").replace("{", "").replace("}", "").replace("²", "^2").replace("³", "^3").strip()
    power = ""
    for word, exponent in (("square ", "^2"), ("sq. ", "^2"), ("sq ", "^2"), ("cubic ", "^3"), ("cu ", "^3")):
        if text.startswith(word):
            text, power = text.removeprefix(word), exponent
    text = (
        text.replace(" squared", "^2")
        .replace(" cubed", "^3")
        .replace(" per ", "/")
        .replace(" ^", "^")
        .replace(" /", "/")
        .replace("/ ", "/")
    )
    named = _WORD.sub(lambda match: _singular(match[0]), text)
    return named + power


def are_compatible(one: str, other: str) -> Fraction | None:
    """How many `other` one `one` is, or None if both are known and measure different things. Unknown units count as words: 1."""
    if one == other or not one or not other:
        return Fraction(1)
    first, second = _size(one), _size(other)
    if first is None or second is None:
        return Fraction(1)
    return first[1] / second[1] if first[0] == second[0] else None


def scale_of(unit: str) -> int:
    """What the first word of a unit multiplies its number by: a million in "million dollars", 1 in "dollars"."""
    return SCALES.get(unit.partition(" ")[0].removesuffix("s"), 1)


def _size(unit: str) -> tuple[str, Fraction] | None:
    base, _, exponent = unit.partition("^")
    parts = base.split("/")
    if not all(part in _SIZES for part in parts) or exponent not in ("", "2", "3"):
        return None
    kind, size = _SIZES[parts[0]]
    for part in parts[1:]:
        kind, size = f"{kind}/{_SIZES[part][0]}", size / _SIZES[part][1]
    power = int(exponent or 1)
    return kind + exponent, size**power


def _singular(word: str) -> str:
    if word in _NAMES:
        return _NAMES[word]
    singular = word[:-1] if word.endswith("s") and len(word) > 2 else word
    return _NAMES.get(singular, singular)
