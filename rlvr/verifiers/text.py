"""`f1`: overlap of words with the gold answer; `json_equal`: equality of JSON values."""

from __future__ import annotations

import string
from collections import Counter
from fractions import Fraction

from rlvr.types import JSON, Problem, Rollout, Verdict
from rlvr.verifiers.base import verifier
from rlvr.verifiers.extract import TEXT_RULES, Extract, find_answer
from rlvr.verifiers.json_text import MAX_DEPTH, canonical, find_json, nesting, parse_json
from rlvr.verifiers.numeric import close, parse_number

MAX_TEXT_CHARS = 20_000
MAX_SHOWN_CHARS = 2_000

_ARTICLES = frozenset({"a", "an", "the"})
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


@verifier("f1", isolated=False)
def f1(problem: Problem, rollout: Rollout, *, extract: Extract = "auto", strict: bool = False) -> Verdict:
    """Score: F1 of the answer's words against the gold answer's (the best of several), by SQuAD's rules, but numbers by value.

    `problem.answer` is a text or a list of texts. Precision makes a long answer that merely contains the gold words score low.

    Source: Rajpurkar et al. 2016 (arXiv 1606.05250), official evaluation script v1.1.
    """
    golds = problem.answer if isinstance(problem.answer, list) else [problem.answer]
    if not golds or any(isinstance(gold, bool) or not isinstance(gold, (str, int, float)) for gold in golds):
        return Verdict.error(
            f"gold answer of {problem.id} is {type(problem.answer).__name__}; 'f1' wants text or a list of texts"
        )
    gold_words = [answer_words(str(gold)) for gold in golds]
    if not all(gold_words):
        return Verdict.error(f"a gold answer of {problem.id} has no words")
    found = find_answer(rollout.response, extract, strict=strict, auto=TEXT_RULES)
    if found.text is None:
        return Verdict.unparsed(found.reason)
    if found.is_ambiguous:
        return Verdict.incorrect(found.text[:MAX_SHOWN_CHARS], found.reason)
    if len(found.text) > MAX_TEXT_CHARS:
        return Verdict.incorrect(reason=f"the answer has {len(found.text)} characters; at most {MAX_TEXT_CHARS} are read")
    score = max(word_f1(answer_words(found.text), words) for words in gold_words)
    shown = found.text[:MAX_SHOWN_CHARS]
    if score == 1:
        return Verdict.correct(shown)
    if score == 0:
        return Verdict.incorrect(shown, "no word of the gold answer")
    return Verdict.partial(float(score), shown, f"F1 {float(score):.3f} with the gold answer")


def answer_words(text: str) -> list[str]:
    """Lower case, without punctuation and articles; numbers by their value, for SQuAD's rule makes 15 of 1.5 and 7 of -7.

    >>> answer_words("The cat's 1,200.50 hats!")
    ['cats', '2401/2', 'hats']
    """
    words = [_plain(word) for word in text.lower().split()]
    found = [word for word in words if word and word not in _ARTICLES]
    return found or [word for word in words if word] or text.split()  # a gold answer "A" or "..." is not nothing


def _plain(word: str) -> str:
    number = parse_number(word.rstrip(string.punctuation).lstrip("([{$\"'")) if any(map(str.isdigit, word)) else None
    return str(number.value) if number is not None else word.translate(_NO_PUNCTUATION)


def word_f1(answer: list[str], gold: list[str]) -> Fraction:
    """2 P R / (P + R) over words counted with repetition, exactly; 0 without a common word."""
    common = (Counter(answer) & Counter(gold)).total()
    return Fraction(2 * common, len(answer) + len(gold)) if common else Fraction(0)


@verifier("json_equal", isolated=False)
def json_equal(
    problem: Problem, rollout: Rollout, *, strict: bool = False, tolerance: float = 0.0, ignore_order: bool = False
) -> Verdict:
    """Correct when the answer is JSON that equals the gold answer: 1 equals 1.0, true does not equal 1, keys have no order.

    Numbers may differ by `tolerance` * max(1, |gold|). With `ignore_order` lists are compared as sorted. A gold answer that is a
    text starting with "{" or "[" is read as JSON. `strict` allows no words around the JSON.
    """
    gold = problem.answer
    if isinstance(gold, str) and gold.lstrip()[:1] in ("{", "["):
        read = parse_json(gold)
        if read.text is None:
            return Verdict.error(f"gold answer of {problem.id}: {read.reason}")
        gold = read.value
    elif nesting(str(gold)) > MAX_DEPTH:
        return Verdict.error(f"gold answer of {problem.id} is nested more than {MAX_DEPTH} deep")
    found = find_json(rollout.response, strict=strict)
    if found.text is None:
        return Verdict.unparsed(found.reason)
    shown = found.text[:MAX_SHOWN_CHARS]
    if ignore_order:
        value, gold = _sorted(found.value), _sorted(gold)
    else:
        value = found.value
    where = _difference(value, gold, Fraction(tolerance), "$")
    return Verdict.correct(shown) if where is None else Verdict.incorrect(shown, f"{where[:200]} differs from the gold answer")


def _difference(value: JSON, gold: JSON, tolerance: Fraction, path: str) -> str | None:
    """The path of the first place where two values differ. As deep as the gold answer, which is bounded."""
    if isinstance(gold, bool) or isinstance(value, bool) or gold is None or isinstance(gold, str):
        return None if type(value) is type(gold) and value == gold else path
    if isinstance(gold, (int, float)):
        is_number = isinstance(value, (int, float))
        return None if is_number and _same(value, gold, tolerance) else path
    if isinstance(gold, list):
        if not isinstance(value, list) or len(value) != len(gold):
            return path
        pairs = ((f"{path}[{index}]", pair) for index, pair in enumerate(zip(value, gold, strict=True)))
    elif isinstance(gold, dict):
        if not isinstance(value, dict) or value.keys() != gold.keys():
            return path
        pairs = ((f"{path}.{key}", (value[key], gold[key])) for key in gold)
    else:
        return path
    return next((where for step, (a, b) in pairs if (where := _difference(a, b, tolerance, step)) is not None), None)


def _same(value: JSON, gold: JSON, tolerance: Fraction) -> bool:
    if value == gold:
        return True
    return tolerance > 0 and close(Fraction(gold), Fraction(value), tolerance)


def _sorted(value: JSON) -> JSON:
    if isinstance(value, dict):
        return {key: _sorted(item) for key, item in value.items()}
    if isinstance(value, list):
        return sorted((_sorted(item) for item in value), key=canonical)
    return value
