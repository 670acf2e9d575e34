"""Equality of text (`exact`) and of numbers (`number`): exact, linear in the response, no library parses the model's text."""

from __future__ import annotations

import math
import re
import unicodedata
from fractions import Fraction
from functools import lru_cache

from rlvr.types import JSON, Problem, Rollout, Verdict
from rlvr.verifiers.algebra.vocabulary import WORD_UNITS
from rlvr.verifiers.base import verifier
from rlvr.verifiers.extract import NUMBER_RULES, TEXT_RULES, Extract, find_answer, numbers_in
from rlvr.verifiers.numeric import Number, close, parse_number, plain, same_number

MAX_TEXT_CHARS = 10_000
_ALTERNATIVES = re.compile(r"\bor\b|或", re.IGNORECASE)
_PUNCTUATION = " \t\n.,;:!?\"'`*()[]{}$"

# What may stand around the one number of a phrase.
_COMPARED = ("<", ">", "!", "≠", "~", "≤", "≥")
_MARKS = re.compile(r"</?[A-Za-z]{1,10}>|\\[()\[\]]|\\(?:approx|quad|qquad|Rightarrow|rightarrow|implies|to)(?![A-Za-z])|≈")
_UNSPACED = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]+")
_COLON = re.compile(r"(?<=[^\W\d_]):(?=\S)")
_EDGES = ".,;:!?\"'`*_()[]{}“”‘’«»…、，。：；！？（）「」"
_SIGNS = frozenset({"", "-", "—", "→", "⇒", "•", "&", "$", "€", "£", "¥"})
_WORD = re.compile(r"[^\W\d_]+(?:['’.&/-][^\W\d_]+)*(?:\([^\W\d_]+\)?)?|[A-Z]\d{1,3}")  # "apple(s)", "vitamin D3"
_BEFORE_NUMBER = re.compile(r"(?:[A-Za-z]{0,3}[$€£¥₹]|Rs\.?|[#~%])?")
_AFTER_NUMBER = re.compile(r"(?:st|nd|rd|th|am|pm|[$€£¥₹°]|[-/]?[^\W\d_]{3,}(?:[-/][^\W\d_]+)*)?")
_UNIT_AFTER_NUMBER = re.compile(
    rf"(?:[mgshlLAVWJNCF]|{'|'.join(sorted(WORD_UNITS))})(?:/[^\W\d_]+)?"
)  # among words; "5m" is 5 times m
_CHANGES_NEXT = re.compile(
    r"(?:\b(?:minus|negative|plus|times|not|than|twice|thrice|double|triple|sqrt|root|log|ln|exp|sin|cos|tan|mod|modulo|base|oo)"
    r"|\b(?:square|cube|root|half|third|quarter|factorial|power|logarithm|percent|multiple|double|triple) of|负|不是)\W*$",
    re.IGNORECASE,
)
_CHANGES_LAST = re.compile(
    r"\W*(?:(?:(?:squared|cubed)(?! [^\W\d_])|factorial|pi|plus|minus|mod|modulo|oo)\b"
    r"|and (?:a|one|three)[ -](?:half|third|quarter)|[万亿千百十倍])",
    re.IGNORECASE,
)


@verifier("exact", isolated=False)
def exact(
    problem: Problem,
    rollout: Rollout,
    *,
    extract: Extract = "auto",
    strict: bool = False,
    case_sensitive: bool = False,
    strip_punctuation: bool = True,
) -> Verdict:
    """Correct when the final answer is the gold text after Unicode NFKC, white space and (by default) case are evened out."""
    if isinstance(problem.answer, bool) or not isinstance(problem.answer, (str, int, float)):
        return Verdict.error(f"gold answer of {problem.id} is {type(problem.answer).__name__}; 'exact' wants text or a number")
    gold = _normal(str(problem.answer), case_sensitive=case_sensitive, strip_punctuation=strip_punctuation)
    if not gold:
        return Verdict.error(f"gold answer of {problem.id} is empty")
    found = find_answer(rollout.response, extract, strict=strict, auto=TEXT_RULES)
    if found.text is None:
        return Verdict.unparsed(found.reason)
    if found.is_ambiguous:
        return Verdict.incorrect(found.text[:MAX_TEXT_CHARS], found.reason)
    if len(found.text) > MAX_TEXT_CHARS:
        return Verdict.incorrect(reason=f"the answer has {len(found.text)} characters; at most {MAX_TEXT_CHARS} are read")
    if _normal(found.text, case_sensitive=case_sensitive, strip_punctuation=strip_punctuation) == gold:
        return Verdict.correct(found.text)
    return Verdict.incorrect(found.text, "another text than the gold answer")


@verifier("number", isolated=False)
def number(
    problem: Problem, rollout: Rollout, *, extract: Extract = "auto", strict: bool = False, tolerance: float = 0.0
) -> Verdict:
    """Correct when the final answer is the gold number, compared exactly, or within `tolerance` * max(1, |gold|).

    Outside strict mode an answer in words may surround its one number ("<answer>72 clips in all</answer>").
    """
    gold = gold_number(problem.answer)
    if gold is None:
        return Verdict.error(f"gold answer of {problem.id} is not a number: {str(problem.answer)[:80]!r}")
    found = find_answer(rollout.response, extract, strict=strict, auto=NUMBER_RULES)
    if found.text is None:
        return Verdict.unparsed(found.reason)
    if found.is_ambiguous:
        return Verdict.incorrect(found.text[:MAX_TEXT_CHARS], found.reason)
    value = parse_number(found.text)
    if value is None and not strict:
        value = number_within(found.text)
        if value is None and found.rule == "sentence" and extract == "auto" and _says_more(found.text):
            found = find_answer(rollout.response, "last_number")  # "The answer is easy to see: 2 + 3 is 5."
            value = parse_number(found.text or "")
    if value is None or found.text is None:
        return Verdict.unparsed(f"the answer is not one number: {(found.text or '')[:80]!r}")
    if same_number(gold, value) or (tolerance > 0 and close(gold.value, value.value, Fraction(tolerance))):
        return Verdict.correct(found.text)
    return Verdict.incorrect(found.text, "another number than the gold answer")


def gold_number(answer: JSON) -> Number | None:
    """The gold answer as a number: a JSON number, or text that `parse_number` reads."""
    if isinstance(answer, bool) or (isinstance(answer, float) and not math.isfinite(answer)):
        return None
    if isinstance(answer, int):
        return Number(Fraction(answer))
    return _parsed(str(answer)) if isinstance(answer, (str, float)) else None


_parsed = lru_cache(maxsize=256)(parse_number)  # every rollout of a group has the same gold answer


def number_within(text: str) -> Number | None:
    """The number that a short phrase ends up with: the last after "=", else the only one, among words and nothing else.

    None where the words change it ("5 squared", "more than 5"), where it is part of something ("x+5", "f(5)", "/tmp/5x"), and
    for alternatives.
    """
    if len(text) > MAX_TEXT_CHARS or _ALTERNATIVES.search(text):
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
    if _CHANGES_NEXT.search(before) or _CHANGES_LAST.match(after):
        return None
    own = own.strip(_EDGES if words else _EDGES.replace("!", ""))
    attached = own.partition(numbers[0][0])
    follows = _AFTER_NUMBER.fullmatch(attached[2]) or (words and _UNIT_AFTER_NUMBER.fullmatch(attached[2]))
    is_plain = follows and _BEFORE_NUMBER.fullmatch(attached[0])
    return parse_number(own) or (parse_number(attached[1]) if is_plain else None)


def _says_more(sentence: str) -> bool:
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


def _normal(text: str, *, case_sensitive: bool, strip_punctuation: bool) -> str:
    text = " ".join(unicodedata.normalize("NFKC", text).split())
    if strip_punctuation:
        text = text.strip(_PUNCTUATION)
    return text if case_sensitive else text.casefold()
