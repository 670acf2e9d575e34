"""IFEval: length constraints."""

from __future__ import annotations

import re
from itertools import takewhile

from rlvr.verifiers.instruction.base import Count, Position, Relation, compare, ifeval, reference
from rlvr.verifiers.instruction.text import PUNCTUATION, sentences, words


@ifeval("length_constraints:number_sentences", "Your response should contain {relation} {num_sentences} sentences.")
def number_sentences(response: str, *, num_sentences: Count, relation: Relation) -> bool:
    """Less than, or at least, so many sentences."""
    return compare(len(sentences(response)), relation, num_sentences)


@ifeval("length_constraints:number_words", "Answer with {relation} {num_words} words.")
def number_words(response: str, *, num_words: Count, relation: Relation) -> bool:
    """Less than, or at least, so many words; "don't" counts as two."""
    return compare(len(words(response)), relation, num_words)


@ifeval(
    "length_constraints:number_paragraphs",
    "There should be {num_paragraphs} paragraphs. Paragraphs are separated with the markdown divider: ***",
)
def number_paragraphs(response: str, *, num_paragraphs: Count) -> bool:
    """Exactly so many parts between "***" dividers; blank ones only at the start and the end."""
    parts = re.split(r"\s?\*\*\*\s?", response)
    inner = parts[1:-1]
    if any(not part.strip() for part in inner):
        return False
    return sum(1 for part in parts if part.strip()) == num_paragraphs


def _is_within(num_paragraphs: int, nth_paragraph: int, first_word: str) -> str:
    if nth_paragraph <= num_paragraphs:
        return ""
    return f"nth_paragraph = {nth_paragraph}, but num_paragraphs = {num_paragraphs}"


@ifeval(
    "length_constraints:nth_paragraph_first_word",
    "There should be {num_paragraphs} paragraphs. Paragraphs and only paragraphs are separated with each other by two new lines "
    "as if it was '\\n\\n' in python. Paragraph {nth_paragraph} must start with word {first_word}.",
    _is_within,
)
def nth_paragraph_first_word(response: str, *, num_paragraphs: Count, nth_paragraph: Position, first_word: str) -> bool:
    """Exactly so many paragraphs between blank lines, the n-th of which begins with the given word or words, in any case.

    Fixed: the reference counts the paragraphs that are not blank but then takes the n-th of all, blank ones included, and
    never finds a first word of several words, or with an apostrophe.
    """
    paragraphs = [part.split() for part in response.split("\n\n") if part.strip()]
    if len(paragraphs) != num_paragraphs:
        return False
    wanted = first_word.lower().split()
    begin = [word.lower() for word in paragraphs[nth_paragraph - 1][: len(wanted)]]
    if [word.strip(PUNCTUATION) for word in begin] == [word.strip(PUNCTUATION) for word in wanted]:
        return True
    return len(wanted) == 1 and _first_word(begin[0]) == wanted[0]


@reference("length_constraints:nth_paragraph_first_word")
def reference_nth_paragraph_first_word(response: str, *, num_paragraphs: Count, nth_paragraph: Position, first_word: str) -> bool:
    paragraphs = response.split("\n\n")
    count = sum(1 for part in paragraphs if part.strip())
    if nth_paragraph > count or not paragraphs[nth_paragraph - 1].strip():
        return False
    return count == num_paragraphs and _first_word(paragraphs[nth_paragraph - 1].split()[0]) == first_word.lower()


def _first_word(word: str) -> str:
    """The word up to its first mark, without quotation marks before it."""
    return "".join(takewhile(lambda char: char not in ".,?!'\"", word.lstrip("'").lstrip('"'))).lower()
