"""IFBench: sentences."""

from __future__ import annotations

import re
from itertools import pairwise

from rlvr.verifiers.instruction.base import Count, Position, ifbench
from rlvr.verifiers.instruction.text import PUNCTUATION, sentences, without_punctuation

_EDGES = PUNCTUATION + " "


@ifbench(
    "sentence:alliteration_increment",
    "Each sentence must have a longer sequence of consecutive alliterative words than the previous one.",
)
def alliteration_increment(response: str) -> bool:
    """Each sentence has more words with an alliterating neighbour (the same first character) than the one before."""
    counts = [-1, *map(_alliterating, sentences(response))]
    return all(left < right for left, right in pairwise(counts))


@ifbench("sentence:increment", "Each sentence must contain exactly {small_n} more words than the previous one.")
def increment(response: str, *, small_n: Count) -> bool:
    """Each sentence has exactly so many more words, without punctuation, than the one before."""
    counts = [len(without_punctuation(sentence).split()) for sentence in sentences(response)]
    return all(right == left + small_n for left, right in pairwise(counts))


@ifbench("sentence:keyword", 'The response must include keyword "{word}" in the {N}-th sentence.')
def keyword(response: str, *, word: str, N: Position) -> bool:
    """The N-th sentence holds the keyword as a whole word, in any case."""
    found = sentences(response)
    return len(found) >= N and re.search(rf"(?<!\w){re.escape(word)}(?!\w)", found[N - 1], flags=re.IGNORECASE) is not None


def _alliterating(sentence: str) -> int:
    """How many words begin like the word before or behind them."""
    initials = [word[0] for word in (word.lstrip(_EDGES) for word in sentence.lower().split()) if word]
    same = [left == right for left, right in pairwise(initials)]
    # A run of k equal pairs has k + 1 words.
    return sum(same) + sum(now and not before for before, now in pairwise([False, *same]))
