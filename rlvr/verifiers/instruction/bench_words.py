"""IFBench: words."""

from __future__ import annotations

import functools
import string
import threading
from collections import Counter
from collections.abc import Callable
from itertools import pairwise

from rlvr.errors import ConfigError
from rlvr.verifiers.instruction.base import Count, Position, ifbench, reference
from rlvr.verifiers.instruction.english import NOUN_BEFORE, VERBS
from rlvr.verifiers.instruction.text import PUNCTUATION, sentences, tokens, without_punctuation, word_tokens

_EDGES = PUNCTUATION + " "
_CONSONANTS = frozenset("bcdfghjklmnpqrstvwxyz")
_PRIMES = frozenset(n for n in range(2, 100) if all(n % divisor for divisor in range(2, n)))
_lock = threading.Lock()  # syllapy is imported by one thread


@ifbench("words:alphabet", "Each word must start with the next letter of the alphabet, looping back to 'A' after 'Z'.")
def alphabet(response: str) -> bool:
    """Each word begins with the letter that follows the one before; the first word may begin with any of a to z."""
    initials = [word[0] for word in without_punctuation(response).lower().split()]
    if not initials or initials[0] not in string.ascii_lowercase:
        return False
    start = ord(initials[0]) - ord("a")
    return all(char == string.ascii_lowercase[(start + index) % 26] for index, char in enumerate(initials))


@ifbench("words:vowel", "Write a paragraph using words that contain only three types of vowels.")
def vowel(response: str) -> bool:
    """One line, with at most three of a, e, i, o, u."""
    text = response.strip().lower()
    return "\n" not in text and sum(letter in text for letter in "aeiou") <= 3


@ifbench(
    "words:consonants",
    "Ensure each word in your response has at least one consonant cluster (two or more consonants together).",
)
def consonants(response: str) -> bool:
    """Each word with letters has two consonants side by side (y is one), and there are such words.

    Fixed: the reference asks it of marks and numbers that stand alone, too.
    """
    found = [word for word in response.lower().split() if any(char.isalpha() for char in word)]
    return bool(found) and all(map(_has_cluster, found))


@reference("words:consonants")
def reference_consonants(response: str) -> bool:
    return all(map(_has_cluster, response.lower().split()))


@ifbench("words:palindrome", "Include at least 10 single-word palindromes, each at least 5 characters long.")
def palindrome(response: str) -> bool:
    """At least 10 words of 5 or more characters read the same backwards; the same word may occur again."""
    found = without_punctuation(response).lower().split()
    return sum(len(word) >= 5 and word == word[::-1] for word in found) >= 10


@ifbench("words:prime_lengths", "Use only words with lengths that are prime numbers.")
def prime_lengths(response: str) -> bool:
    """The length of every word, without punctuation, is a prime below 100."""
    return all(len(word) in _PRIMES for word in without_punctuation(response).split())


@ifbench("words:start_verb", "The response must start with a verb.")
def start_verb(response: str) -> bool:
    """The first word is a form of one of 900 English verbs, and what follows does not make it a noun ("Water is").

    Fixed: the reference asks a statistical tagger of NLTK, which needs a download and errs on single words; a list is the
    same everywhere. `compat = "reference"` uses the list too.
    """
    found = [token.lower() for token in tokens(response[:2_000])]
    first = found[0] if found else ""
    return first in VERBS and not (found[1:2] and found[1] in NOUN_BEFORE and first.removesuffix("s") in VERBS)


@ifbench("words:repeats", "The response should not repeat any word more than {small_n} times.")
def repeats(response: str, *, small_n: Count) -> bool:
    """No word occurs more than so many times, in any case and without punctuation."""
    return max(Counter(without_punctuation(response.lower()).split()).values(), default=0) <= small_n


@ifbench("words:odd_even_syllables", "Alternate between words with odd and even numbers of syllables.")
def odd_even_syllables(response: str) -> bool:
    """The number of syllables (syllapy's dictionary and rules) is odd and even in turn from word to word."""
    count = _syllable_counter()
    parities = [count(word) % 2 for word in without_punctuation(response).lower().split()]
    return all(left != right for left, right in pairwise(parities))


@ifbench("words:last_first", "The last word of each sentence must become the first word of the next sentence.")
def last_first(response: str) -> bool:
    """Each sentence begins with the word that the one before ends with, in any case."""
    for left, right in pairwise(sentences(response)):
        last, first = left.rstrip(_EDGES).split()[-1:], right.lstrip(_EDGES).split()[:1]
        if not last or not first or last[0].lower() != first[0].lower():
            return False
    return True


@ifbench(
    "words:paragraph_last_first",
    "Each paragraph must end with the same word it started with, separate paragraphs with a newline.",
)
def paragraph_last_first(response: str) -> bool:
    """The first and the last word of every line are the same, in any case and without punctuation.

    Fixed: the reference keeps the punctuation between them, so that "Hope, there is hope." fails.
    """
    for line in response.lower().split("\n"):
        found = [word for word in map(without_edges, line.split()) if word]
        if found and found[0] != found[-1]:
            return False
    return True


@reference("words:paragraph_last_first")
def reference_paragraph_last_first(response: str) -> bool:
    for line in response.lower().split("\n"):
        found = line.strip().strip(_EDGES).split()
        if found and found[0] != found[-1]:
            return False
    return True


@ifbench("words:no_consecutive", "No two consecutive words can share the same first letter.")
def no_consecutive(response: str) -> bool:
    """No word, without punctuation, begins with the letter that the one before begins with."""
    found = without_punctuation(response.lower()).split()
    return all(left[0] != right[0] for left, right in pairwise(found))


@ifbench(
    "words:keywords_specific_position",
    "Include keyword {keyword} in the {n}-th sentence, as the {m}-th word of that sentence.",
)
def keywords_specific_position(response: str, *, keyword: str, n: Position, m: Position) -> bool:
    """The m-th word of the n-th sentence is the keyword, in any case; punctuation is no word."""
    found = sentences(response)
    if len(found) < n:
        return False
    return [word.lower() for word in word_tokens(found[n - 1])[m - 1 : m]] == [keyword.strip().lower()]


@ifbench(
    "words:words_position",
    "The second word in your response and the second to last word in your response should be the word {keyword}.",
)
def words_position(response: str, *, keyword: str) -> bool:
    """The second word and the last but one are the keyword, in any case; one mark at the end does not count.

    Fixed: the reference takes an opening quotation mark for the first word, and two marks at the end ("!”") for two words.
    """
    found = [token.lower() for token in word_tokens(response)]
    return len(found) > 1 and found[1] == found[-2] == keyword.strip().lower()


@reference("words:words_position")
def reference_words_position(response: str, *, keyword: str) -> bool:
    found = [token.lower() for token in tokens(response)]
    last = -3 if found and found[-1] in PUNCTUATION else -2
    return len(found) >= -last and found[1] == found[last] == keyword.strip().lower()


def without_edges(word: str) -> str:
    """A word in lower case without the punctuation around it."""
    return word.strip(_EDGES).lower()


def _has_cluster(word: str) -> bool:
    return any(left in _CONSONANTS and right in _CONSONANTS for left, right in pairwise(word))


@functools.cache
def _syllable_counter() -> Callable[[str], int]:
    try:
        with _lock:
            import syllapy
    except ImportError as error:
        raise ConfigError("words:odd_even_syllables needs syllapy: pip install 'rlvr[instruction]'") from error
    return syllapy.count  # type: ignore[no-any-return]
