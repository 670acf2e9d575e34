"""Split LaTeX or plain mathematics into tokens. Linear in the text."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum

from rlvr.verifiers.algebra.vocabulary import (
    FUNCTIONS,
    GREEK,
    PAIRS_OF_LETTERS,
    SEPARATOR_WORDS,
    SHORT_WORDS,
    SYNONYMS,
    UNICODE,
    UNIT_LETTERS,
    WORD_UNITS,
)

MAX_TOKENS = 600


class UnreadableError(ValueError):
    """The text is not something that this reader understands. Not an error of anyone: others may read it."""


class Kind(Enum):
    """What a token is."""

    NUMBER = "number"
    SYMBOL = "symbol"  # one letter, with its subscript and primes
    COMMAND = "command"  # \sqrt, \pi, or a function's name in plain text
    TEXT = "text"  # words: \text{...}, or a run of letters that is no product
    MARK = "mark"  # one character, or a relation


@dataclass(frozen=True, slots=True)
class Token:
    """One token; `text` has no backslash for commands."""

    kind: Kind
    text: str
    after_space: bool = False


_SKIPPED = re.compile(
    r"(?<!\\)(?:\\(?:left|right)\s?\.|\\[,;:!>]|\\(?:left|right|displaystyle|textstyle|scriptstyle|quad|qquad|big|Big|bigg|Bigg|bigl|bigr|Bigl|Bigr"
    r"|limits|thinspace|enspace|medspace|hfill|phantom|nonumber|,)(?![a-zA-Z])|\\ )|&(?=\s?=)|~"
)
_SUPERSCRIPTS = re.compile(r"⁻?[⁰¹²³⁴⁵⁶⁷⁸⁹]+")
_SUPERSCRIPT_DIGITS = str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789")
_TOKEN = re.compile(
    r"(?P<space>\s+)"
    r"|\\(?:text|textbf|textit|textrm|textnormal|textup|mathrm|mathbf|mathit|mathsf|mathcal|boldsymbol|bm|vec|overrightarrow|hat|mbox|hbox"
    r"|operatorname)\*?\s{0,4}\{(?P<words>[^{}]{0,300})\}"
    r"|\\mathbb\s{0,4}\{?\s{0,4}(?P<field>[A-Z])\s{0,4}\}?(?P<field_sign>\^\s?\{?[+*-]\}?|_\s?\{?[+>]\s?0?\}?)?"
    r"|\\(?P<env>begin|end)\s{0,4}\{(?P<env_name>[a-zA-Z]{1,12}\*?)\}(?:\{[lcr|]{0,12}\})?"
    r"|\\(?P<command>[a-zA-Z]+)"
    r"|(?P<row>\\\\(?!\{))"
    r"|\\(?P<brace>[{}|])"
    r"|\\(?P<escaped>[$%#&_])"
    r"|(?P<relation><=|>=|!=|==|=<|=>)"
    r"|(?P<repeating>\d*\.\d*(?:\\overline\s?\{\d+\}|\\dot\s?\{?\d\}?(?:\d*\\dot\s?\{?\d\}?)?|\(\d+\)))"
    r"|(?P<number>\d+(?:\.\d+)?(?:[eE][-+]?\d{1,4}(?![\w.]))?|\.\d+)"
    r"|(?P<letters>[A-Za-z]+)"
    r"|(?P<other>.)",
    re.DOTALL,
)
_COUNTED = re.compile(r"(\d+(?:,\d{3})*(?:\.\d+)?) ([^\W\d_]+(?: [^\W\d_]+)*)\.?")


def tokenize(text: str) -> list[Token]:
    r"""The tokens of `text`.

    >>> [token.text for token in tokenize("2\\dfrac{x_1}{3}")]
    ['2', 'frac', '{', 'x_1', '}', '{', '3', '}']

    Raises:
        UnreadableError: it is too long.
    """
    text = _SUPERSCRIPTS.sub(lambda match: f"^{{{match[0].translate(_SUPERSCRIPT_DIGITS)}}}", text).translate(UNICODE)
    if "\\\\begin" in text or ("\\\\" in text and "\\begin" not in text):
        text = text.replace("\\\\", "\\")  # escaped twice on its way here
    text = _SKIPPED.sub(" ", text.replace("\\%", "%").replace("{,}", ",").replace("**", "^"))
    found: list[Token] = []
    after_space = False
    for match in _TOKEN.finditer(text):
        if match["space"]:
            after_space = True
            continue
        found += _tokens_of(match, found[-1] if found else None, after_space=after_space)
        after_space = False
        if len(found) > MAX_TOKENS:
            raise UnreadableError(f"more than {MAX_TOKENS} tokens")
    if found and found[-1].kind is Kind.COMMAND and found[-1].text in ("min", "sec"):
        found[-1] = Token(Kind.TEXT, found[-1].text, found[-1].after_space)  # minutes; a function has an argument
    return _with_subscripts(found)


def _tokens_of(match: re.Match[str], previous: Token | None, *, after_space: bool) -> list[Token]:
    if match["words"] is not None:
        return _words(match["words"], after_space=after_space)
    if match["letters"]:
        return _letters(match["letters"], previous, after_space=after_space)
    if match["number"] or match["repeating"]:
        return [Token(Kind.NUMBER, match["number"] or match["repeating"], after_space)]
    if match["field"]:
        return [Token(Kind.COMMAND, f"mathbb {match['field']}{'+' if match['field_sign'] else ''}", after_space)]
    if match["env"]:
        return [Token(Kind.COMMAND, f"{match['env']} {match['env_name'].rstrip('*')}", after_space)]
    if match["command"]:
        return _command(match["command"], after_space=after_space)
    if match["row"]:
        return [Token(Kind.MARK, "\\\\")]
    if match["brace"]:
        return [Token(Kind.MARK, "|" if match["brace"] == "|" else "\\" + match["brace"], after_space)]
    if match["relation"]:
        sign = {"<=": "le", ">=": "ge", "!=": "ne", "==": "=", "=<": "le", "=>": "Rightarrow"}[match["relation"]]
        return [Token(Kind.MARK if sign == "=" else Kind.COMMAND, sign, after_space)]
    return [Token(Kind.MARK, match["escaped"] or match["other"], after_space)]


def _command(name: str, *, after_space: bool) -> list[Token]:
    name = SYNONYMS.get(name, name)
    if not name:
        return []
    is_mark = not name[0].isalpha()
    return [Token(Kind.MARK if is_mark else Kind.COMMAND, name, after_space)]


def _words(content: str, *, after_space: bool) -> list[Token]:
    word = content.strip()
    if not word:
        return []
    if word in FUNCTIONS or word in ("pi", "gcd", "lcm"):
        return [Token(Kind.COMMAND, word, after_space)]
    if word.lower() in SEPARATOR_WORDS:
        return [Token(Kind.COMMAND, word.lower(), after_space)]
    if word.lower() in ("infinity", "pi"):
        return [Token(Kind.COMMAND, "infty" if word[0] in "iI" else "pi", after_space)]
    if (counted := _COUNTED.fullmatch(word)) is not None:  # 7 people
        return [Token(Kind.NUMBER, counted[1].replace(",", ""), after_space), Token(Kind.TEXT, counted[2])]
    if len(word) == 1 and word.isalpha():
        return [Token(Kind.TEXT if content != word else Kind.SYMBOL, word, after_space)]
    if word.replace(".", "", 1).replace(",", "").isdigit():
        return [Token(Kind.NUMBER, word.replace(",", ""), after_space)]
    if word in (",", ";"):
        return [Token(Kind.MARK, word, after_space)]
    return [Token(Kind.TEXT, word, after_space)]


def _letters(run: str, previous: Token | None, *, after_space: bool) -> list[Token]:
    if run in FUNCTIONS:
        return [Token(Kind.COMMAND, run, after_space)]
    lowered = run.lower()
    if lowered in SEPARATOR_WORDS and len(run) > 1:
        return [Token(Kind.COMMAND, lowered, after_space)]
    if lowered in ("infinity", "inf", "oo", "infty"):
        return [Token(Kind.COMMAND, "infty", after_space)]
    if run in ("pi", "Pi"):
        return [Token(Kind.COMMAND, "pi", after_space)]
    if run == "mod":
        return [Token(Kind.COMMAND, "bmod", after_space)]
    is_after_value = previous is not None and (previous.kind is Kind.NUMBER or previous.text in (")", "}", "pi"))
    if is_after_value and run in WORD_UNITS:
        return [Token(Kind.TEXT, run, after_space)]
    if len(run) >= 3 and (inner := _function_inside(run)):
        return [token for part in inner for token in _letters(part, None, after_space=False)]
    if (
        len(run) >= 4
        or run in SHORT_WORDS
        or (len(run) > 2 and lowered in SHORT_WORDS)
        or (after_space and previous is not None and run in PAIRS_OF_LETTERS)
        or (len(run) == 3 and after_space and is_after_value)
    ):
        return [Token(Kind.TEXT, run, after_space)]
    if (
        len(run) == 1
        and is_after_value
        and after_space
        and run in UNIT_LETTERS
        and previous is not None
        and previous.kind is Kind.NUMBER
    ):
        return [Token(Kind.TEXT, run, after_space)]
    return [Token(Kind.SYMBOL, letter, after_space and position == 0) for position, letter in enumerate(run)]


def _function_inside(run: str) -> tuple[str, ...] | None:
    """`sinx`, `xcos` and `lnab` as a function and letters."""
    for name in ("arcsin", "arccos", "arctan", "sqrt", "sin", "cos", "tan", "log", "exp", "ln", "pi"):
        before, found, after = run.partition(name)
        if found and len(before) <= 1 and len(after) <= 1:
            return tuple(part for part in (before, name, after) if part)
    return None


def _with_subscripts(tokens: list[Token]) -> list[Token]:
    """Join `x _ { 1 }` and `f '` into one symbol; a subscript of anything else stays."""
    joined: list[Token] = []
    at = 0
    while at < len(tokens):
        token = tokens[at]
        is_based = token.kind is Kind.NUMBER and at + 1 < len(tokens) and tokens[at + 1].text == "_"  # 204_5
        if token.kind is Kind.SYMBOL or is_based or (token.kind is Kind.COMMAND and token.text in GREEK):
            name = token.text
            at += 1
            while at < len(tokens) and tokens[at].kind is Kind.MARK and tokens[at].text in ("_", "'"):
                if tokens[at].text == "'":
                    name, at = name + "'", at + 1
                    continue
                index, at = _subscript(tokens, at + 1)
                name += "_" + index
            joined.append(Token(Kind.SYMBOL if name != token.text else token.kind, name, token.after_space))
            continue
        joined.append(token)
        at += 1
    return joined


def _subscript(tokens: list[Token], at: int) -> tuple[str, int]:
    if at >= len(tokens):
        raise UnreadableError("a subscript is missing")
    if tokens[at].text != "{":
        return tokens[at].text, at + 1
    depth, text = 0, ""
    for end in range(at, len(tokens)):
        depth += (tokens[end].text == "{") - (tokens[end].text == "}")
        if depth == 0:
            return text, end + 1
        text += tokens[end].text if tokens[end].text != "{" else ""
    raise UnreadableError("a brace is not closed")
