"""`choice`: the letter of a multiple-choice answer."""

from __future__ import annotations

import re

from rlvr.types import Problem, Rollout, Verdict
from rlvr.verifiers.base import verifier
from rlvr.verifiers.extract import CHOICE_RULES, Extract, find_answer, split_thinking

MAX_PHRASE_CHARS = 500

_WRAPPING = re.compile(r"\\(?:text|textbf|mathrm|mathbf|mbox)\s{0,4}\{([^{}]{0,200})\}")
_LEADING = re.compile(
    r"[\s$*(\[{]*(?:(?:option|choice|answer)\s{0,4}:?\s{0,4})?[\s$*(\[{]*([A-Za-z])(?![A-Za-z0-9'’])", re.IGNORECASE
)
_LETTER = re.compile(r"(?<![\w\\'’])\(?([A-Z])(?:\)|(?![\w'’]))")
_OPTION_TEXT = re.compile(r"\s{0,4}[).\]:](?!\s{0,4}(?:,|/|&|or\b|and\b)\s{0,4}\(?[A-Z]\b)")
_FURTHER_OPTION = re.compile(r"(?<!\w)[A-Z][).:](?!\w)")
# "Not B" names B to reject it.
_NEGATED = re.compile(
    r"\b(?:not|never|nor|neither|except|excluding|(?:is|are|was|does|do|ca|wo)n['’]t)\s{1,4}(?:option\s{1,4})?[(*]{0,3}[A-Z]\b(?!['’])"
)
_IN_BRACKETS = re.compile(r"(?<!\w)\(([A-Z])\)|\*\*\(?([A-Z])[).]?\*\*")


@verifier("choice", isolated=False)
def choice(
    problem: Problem, rollout: Rollout, *, extract: Extract = "auto", strict: bool = False, letters: str = "ABCDE"
) -> Verdict:
    """Correct when the response settles on the gold letter and on no other.

    Reads an answer tag, a box, `####` or "the answer is ..."; outside strict mode also the last "(B)" or bold letter. An
    answer such as "B) 600" counts by its letter; "A or B" is incorrect.
    """
    gold = problem.answer.strip().strip("()[]. ").upper() if isinstance(problem.answer, str) else ""
    if len(gold) != 1 or gold not in letters:
        return Verdict.error(f"gold answer of {problem.id} is {problem.answer!r}; 'choice' wants one letter of {letters}")
    found = find_answer(rollout.response, extract, strict=strict, auto=CHOICE_RULES)
    if found.text is None:
        letter = None if strict or extract != "auto" else _last_marked(rollout.response, letters)
        if letter is None:
            return Verdict.unparsed(found.reason)
        chosen = {letter}
    elif found.is_ambiguous:
        return Verdict.incorrect(found.text[:MAX_PHRASE_CHARS], found.reason)
    else:
        chosen = letters_in(found.text, letters)
        if _NEGATED.search(found.text[:MAX_PHRASE_CHARS]):
            return Verdict.incorrect(found.text[:MAX_PHRASE_CHARS], "an option is rejected, not chosen")
    if not chosen:
        return Verdict.unparsed(f"no letter of {letters} in {(found.text or '')[:80]!r}")
    extracted = ", ".join(sorted(chosen))
    if len(chosen) > 1:
        return Verdict.incorrect(extracted, "several letters")
    return Verdict.correct(extracted) if chosen == {gold} else Verdict.incorrect(extracted, "another letter")


def letters_in(phrase: str, letters: str) -> set[str]:
    """The letters that an answer phrase names: "(B)", "b", "B) 600", "Option B." give B; "A or B" gives both.

    >>> letters_in("B) 600 km", "ABCDE")
    {'B'}
    """
    phrase = _WRAPPING.sub(r"\1", phrase[:MAX_PHRASE_CHARS]).strip()
    if len(phrase.strip("()[].*$ ")) == 1:
        only = phrase.strip("()[].*$ ").upper()
        return {only} if only in letters else set()
    named = {match[1] for match in _LETTER.finditer(phrase) if match[1] in letters}
    leading = _LEADING.match(phrase)
    if leading is None or leading[1] not in letters:
        return named
    # After "B)" or "B." comes the text of the option, which may well hold other capitals.
    rest = phrase[leading.end() :]
    if _OPTION_TEXT.match(rest) and not _FURTHER_OPTION.search(rest):
        return {leading[1]}
    return named | {leading[1]}


def _last_marked(response: str, letters: str) -> str | None:
    last = None
    for match in _IN_BRACKETS.finditer(split_thinking(response).answer[-4_000:]):
        letter = match[1] or match[2]
        last = letter if letter in letters else last
    return last
