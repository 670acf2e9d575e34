"""Rewrite plain-text and Unicode mathematics as LaTeX, which is what the symbolic parser reads. Linear; evaluates nothing."""

from __future__ import annotations

import re

_UNICODE = {
    "π": r"\pi ", "∞": r"\infty ", "≤": r"\le ", "≥": r"\ge ", "≠": r"\ne ", "×": r"\times ", "·": r"\cdot ", "÷": r"\div ",
    "±": r"\pm ", "∪": r"\cup ", "∩": r"\cap ", "∈": r"\in ", "∅": r"\emptyset ", "°": r"^{\circ}", "−": "-", "–": "-",
    "⋅": r"\cdot ",
    "θ": r"\theta ", "α": r"\alpha ", "β": r"\beta ", "λ": r"\lambda ", "²": "^{2}", "³": "^{3}", "½": r"\frac{1}{2}",
    "¼": r"\frac{1}{4}", "¾": r"\frac{3}{4}", "⅓": r"\frac{1}{3}", "⅔": r"\frac{2}{3}", "，": ",", "（": "(", "）": ")",
    "；": ";",
    "\u00a0": " ", "\u2003": " ", "\u2009": " ", "\u202f": " ",
}  # fmt: skip
_TABLE = str.maketrans(_UNICODE)
_ROOT = re.compile(r"√\s{0,4}(?:(\d+(?:\.\d+)?|[A-Za-z])|\(([^()]{0,200})\))")
_PLAIN_ROOT = re.compile(r"(?<![\\A-Za-z])sqrt\s{0,4}\(([^()]{0,200})\)")
_NAMES = re.compile(r"(?<![\\A-Za-z{])(sin|cos|tan|cot|sec|csc|arcsin|arccos|arctan|log|ln|exp|pi|infinity|inf)(?![A-Za-z}])")
_POWER = re.compile(r"(?:\*\*|\^)\s{0,4}(?:\(([^()]{1,100})\)|(-?\d{2,6})(?![\d.]))")
_PRODUCT = re.compile(r"(?<=[\w)}\]])\s{0,4}\*\s{0,4}(?=[\w(\\{])")
_IMAGINARY = re.compile(r"(?<![A-Za-z\\_{])i(?![A-Za-z=}])")
_UPRIGHT = re.compile(r"\\(?:mathrm|rm|text)\s?\{\s?([ieR])\s?\}")
_WORDS = {"pi": r"\pi ", "infinity": r"\infty ", "inf": r"\infty "}


def to_latex(text: str) -> str:
    r"""LaTeX for `text`, which may be LaTeX already.

    >>> to_latex("7*sin(pi*x/5) + 2**10")
    '7\\cdot \\sin(\\pi\\cdot x/5) + 2^{10}'
    >>> to_latex("√2")
    '\\sqrt{2}'
    """
    text = _ROOT.sub(lambda match: f"\\sqrt{{{match[1] or match[2]}}}", text.strip()).translate(_TABLE)
    text = _PLAIN_ROOT.sub(r"\\sqrt{\1}", _UPRIGHT.sub(r"\1", text))
    text = _POWER.sub(lambda match: f"^{{{match[1] or match[2]}}}", text).replace("**", "^")
    text = _NAMES.sub(lambda match: _WORDS.get(match[1], f"\\{match[1]}"), text)
    # Imaginary units stand alone, so that "5i" and "5 i" are read alike.
    return _IMAGINARY.sub(" i ", _PRODUCT.sub(r"\\cdot ", text))
