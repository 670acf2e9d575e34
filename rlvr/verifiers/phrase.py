"""The one number of a short phrase, where the words around it leave it as it is. Linear in the phrase."""

from __future__ import annotations

import re

from rlvr.verifiers.algebra.vocabulary import WORD_UNITS
from rlvr.verifiers.extract import numbers_in
from rlvr.verifiers.numeric import Number, parse_number, plain

MAX_PHRASE_CHARS = 10_000
_ALTERNATIVES = re.compile(r"\bor\b|或", re.IGNORECASE)
_COMPARED = ("<", ">", "!", "≠", "~", "≤", "≥")
_MARKS = re.compile(r"</?[A-Za-z]{1,10}>|\\[()\[\]]|\\(?:approx|quad|qquad|Rightarrow|rightarrow|implies|to)(?![A-Za-z])|≈")
_UNSPACED = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]+")
_COLON = re.compile(r"(?<=[^\W\d_]):(?=\S)")
_EDGES = ".,;:!?\"'`*_()[]{}“”‘’«»…、，。：；！？（）「」"
_SIGNS = frozenset({"", "-", "—", "→", "⇒", "•", "&", "$", "€", "£", "¥"})
_WORD = re.compile(r"[^\W\d_]+(?:['’.&/-][^\W\d_]+)*(?:\([^\W\d_]+\)?)?|[A-Z]\d{1,3}")  # "apple(s)", "vitamin D3"
_BEFORE_NUMBER = re.compile(r"(?:[A-Za-z]{0,3}[$€£¥₹]|[#~%])?")
_AFTER_NUMBER = re.compile(r"(?:st|nd|rd|th|am|pm|[$€£¥₹°]|[-/]?[^\W\d_]{3,}(?:[-/][^\W\d_]+)*)?")
# Among words; "5m" alone may be 5 times m.
_UNIT_AFTER_NUMBER = re.compile(rf"(?:[mgshlLAVWJNCF]|{'|'.join(sorted(WORD_UNITS))})(?:/[^\W\d_]+)?")
_CHANGES_WHAT_FOLLOWS = re.compile(
    r"(?:\b(?:minus|negative|plus|times|not|than|twice|thrice|double|triple|sqrt|root|log|ln|exp|sin|cos|tan|mod|modulo|base|oo)"
    r"|\b(?:square|cube|root|half|third|quarter|factorial|power|logarithm|percent|multiple|double|triple) of|负|不是)\W*$",
    re.IGNORECASE,
)
_CHANGES_WHAT_WAS = re.compile(
    r"\W*(?:(?:(?:squared|cubed)(?! [^\W\d_])|factorial|pi|plus|minus|mod|modulo|oo)\b"
    r"|and (?:a|one|three)[ -](?:half|third|quarter)|[万亿千百十倍])",
    re.IGNORECASE,
)


def number_within(text: str) -> Number | None:
    """The number that a short phrase ends up with: the last after "=", else the only one, among words and nothing else.

    None where the words change it ("5 squared", "more than 5"), where it is part of something ("x+5", "f(5)", "/tmp/5x"), and
    for alternatives.
    """
    if len(text) > MAX_PHRASE_CHARS or _ALTERNATIVES.search(text):
        return None
    left, _, phrase = text.rpartition("=")
    if left.endswith(_COMPARED):
        return None
    whole = parse_number(phrase)
    if whole is not None:
        return whole
    phrase = _apart(phrase)
    numbers = list(numbers_in(phrase))
    if len(numbers) != 1:
        return None
    before, own, after = _around(phrase, numbers[0])
    words = [word.strip(_EDGES) for word in f"{before} {after}".split()]
    if not all(word in _SIGNS or _WORD.fullmatch(word) for word in words):
        return None
    if _CHANGES_WHAT_FOLLOWS.search(before) or _CHANGES_WHAT_WAS.match(after):
        return None
    own = own.strip(_EDGES if words else _EDGES.replace("!", ""))
    attached = own.partition(numbers[0][0])
    follows = _AFTER_NUMBER.fullmatch(attached[2]) or (words and _UNIT_AFTER_NUMBER.fullmatch(attached[2]))
    is_plain = follows and _BEFORE_NUMBER.fullmatch(attached[0])
    return parse_number(own) or (parse_number(attached[1]) if is_plain else None)


def says_more(sentence: str) -> bool:
    """Whether a sentence is more than one number with something done to it, so that its answer may be elsewhere in it."""
    is_prose = sum(len(word) > 2 for word in re.findall(r"[^\W\d_]+", sentence)) > 2
    return is_prose or _ALTERNATIVES.search(sentence) is not None or len(list(numbers_in(sentence))) != 1


def _apart(phrase: str) -> str:
    """The phrase without marks of form, and with spaces where a number touches words of a script that writes none."""
    phrase = _UNSPACED.sub(r" \g<0> ", plain(_MARKS.sub(" ", phrase)))
    return _COLON.sub(": ", phrase)


def _around(phrase: str, number: re.Match[str]) -> tuple[str, str, str]:
    """What comes before the word that holds the number, this word, and what comes after it."""
    head, tail = phrase[: number.start()], phrase[number.end() :]
    touching = "" if head[-1:].isspace() else "".join(head.rsplit(None, 1)[-1:])
    following = "" if tail[:1].isspace() else "".join(tail.split(None, 1)[:1])
    return head[: len(head) - len(touching)], touching + number[0] + following, tail[len(following) :]
