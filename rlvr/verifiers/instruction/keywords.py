"""IFEval: keywords and letters."""

from __future__ import annotations

import re

from rlvr.verifiers.instruction.base import Count, Relation, compare, ifeval, reference


@ifeval("keywords:existence", "Include the keywords {keywords} in the response.")
def existence(response: str, *, keywords: list[str]) -> bool:
    """Every keyword occurs, in any case, also inside a longer word.

    Fixed: the reference reads keywords as regular expressions: "C++" finds "C", "U.S" finds "UPS", and "(c" crashes it.
    """
    lower = response.lower()
    return all(_occurs(keyword, response, lower) for keyword in keywords)


@reference("keywords:existence")
def reference_existence(response: str, *, keywords: list[str]) -> bool:
    return all(_search(keyword, response) for keyword in keywords)


@ifeval("keywords:frequency", "In your response, the word {keyword} should appear {relation} {frequency} times.")
def frequency(response: str, *, keyword: str, frequency: Count, relation: Relation) -> bool:
    """The keyword occurs less than, or at least, so many times, in any case, also inside a longer word.

    Fixed: the reference reads the keyword as a regular expression.
    """
    found = re.findall(re.escape(keyword.strip()), response, flags=re.IGNORECASE)
    return compare(len(found), relation, frequency)


@reference("keywords:frequency")
def reference_frequency(response: str, *, keyword: str, frequency: Count, relation: Relation) -> bool:
    try:
        found = re.findall(keyword.strip(), response, flags=re.IGNORECASE)
    except re.error:
        return False
    return compare(len(found), relation, frequency)


@ifeval("keywords:forbidden_words", "Do not include the keywords {forbidden_words} in the response.")
def forbidden_words(response: str, *, forbidden_words: list[str]) -> bool:
    """None of the words occurs as a whole word, in any case.

    Fixed: the reference reads the words as regular expressions, so that "C++" forbids "C", and "U.S" forbids "UPS".
    """
    return not any(
        re.search(rf"(?<!\w){re.escape(word)}(?!\w)", response, flags=re.IGNORECASE) for word in map(str.strip, forbidden_words)
    )


@reference("keywords:forbidden_words")
def reference_forbidden_words(response: str, *, forbidden_words: list[str]) -> bool:
    return not any(_search(rf"\b{word}\b", response) for word in forbidden_words)


@ifeval("keywords:letter_frequency", "In your response, the letter {letter} should appear {let_relation} {let_frequency} times.")
def letter_frequency(response: str, *, letter: str, let_frequency: Count, let_relation: Relation) -> bool:
    """The letter, in either case, occurs less than, or at least, so many times.

    Fixed: for anything but one letter from a to z ("#", "ä", "ing") the reference counts a letter that it draws at random; here
    what was asked for is counted. `compat = "reference"` does the same, because a random verdict cannot be reproduced.
    """
    return compare(response.lower().count(letter.strip().lower()), let_relation, let_frequency)


def _occurs(keyword: str, response: str, lower: str) -> bool:
    # Lower case alone would miss pairs such as "ſ" and "s", which a pattern without case takes as equal.
    return keyword.lower() in lower or re.search(re.escape(keyword), response, flags=re.IGNORECASE) is not None


def _search(pattern: str, response: str) -> bool:
    try:
        return re.search(pattern, response, flags=re.IGNORECASE) is not None
    except re.error:
        return False  # where the reference raises
