"""IFBench: counts and ratios."""

from __future__ import annotations

import re

from rlvr.verifiers.instruction.base import Count, Position, ifbench, reference
from rlvr.verifiers.instruction.english import CONJUNCTIONS, PERSON_NAMES, PRONOUNS, STOP_WORDS
from rlvr.verifiers.instruction.text import PUNCTUATION, sentences, tokens, without_punctuation, words

_EDGES = PUNCTUATION + " "
_NAMES = re.compile(rf"\b({'|'.join(PERSON_NAMES)})\b")
_JAPANESE = re.compile(r"[\u3040-\u30ff\u4e00-\u9fff]")
MARKS = frozenset(".,!?;:")


def _is_range(min_words: int, max_words: int) -> str:
    return "" if min_words <= max_words else f"min_words = {min_words}, but max_words = {max_words}"


@ifbench("count:word_count_range", "The response must contain between {min_words} and {max_words} words.", _is_range)
def word_count_range(response: str, *, min_words: Count, max_words: Count) -> bool:
    """So many words; "don't" counts as two."""
    return min_words <= len(words(response)) <= max_words


@ifbench("count:unique_word_count", "Use at least {N} unique words in the response.")
def unique_word_count(response: str, *, N: Count) -> bool:
    """At least N different words, in any case, without the punctuation around them.

    Fixed: the reference counts a mark that stands alone ("-") as a word.
    """
    return len(_stripped_words(response) - {""}) >= N


@reference("count:unique_word_count")
def reference_unique_word_count(response: str, *, N: Count) -> bool:
    return len(_stripped_words(response)) >= N


@ifbench("ratio:stop_words", "Ensure that stop words constitute no more than {percentage}% of the total words in your response.")
def stop_words(response: str, *, percentage: Count) -> bool:
    """At most this percentage of the words are English stop words (NLTK's list)."""
    found = words(response)
    return bool(found) and sum(word.lower() in STOP_WORDS for word in found) * 100 / len(found) <= percentage


@ifbench("ratio:sentence_type", "Maintain a 2:1 ratio of declarative to interrogative sentences.")
def sentence_type(response: str) -> bool:
    """Twice as many sentences end in "." as in "?", and there is one that ends in "?".

    Fixed: the reference accepts a response that has neither.
    """
    stops, questions, _ = _endings(response)
    return stops == 2 * questions > 0


@reference("ratio:sentence_type")
def reference_sentence_type(response: str) -> bool:
    stops, questions, _ = _endings(response)
    return stops == 2 * questions


@ifbench(
    "ratio:sentence_balance", "Ensure that the ratio of sentence types (declarative, interrogative, exclamatory) is balanced."
)
def sentence_balance(response: str) -> bool:
    """As many sentences end in "." as in "?" and in "!", and there are some.

    Fixed: the reference accepts a response that has none of them.
    """
    stops, questions, exclamations = _endings(response)
    return stops == questions == exclamations > 0


@reference("ratio:sentence_balance")
def reference_sentence_balance(response: str) -> bool:
    stops, questions, exclamations = _endings(response)
    return stops == questions == exclamations


@ifbench(
    "ratio:sentence_words",
    "Respond with three sentences, all containing the same number of characters but using all different words.",
)
def sentence_words(response: str) -> bool:
    """Three sentences of one length in characters, in which no word occurs twice.

    Fixed: the reference does not look at the words.
    """
    found = [word.lower() for word in words(response)]
    return reference_sentence_words(response) and len(set(found)) == len(found)


@reference("ratio:sentence_words")
def reference_sentence_words(response: str) -> bool:
    found = sentences(response)
    return len(found) == 3 and len({len(sentence) for sentence in found}) == 1


@ifbench("ratio:overlap", "Maintain a trigram overlap of {percentage}% (±2%) with the provided reference text: {reference_text}")
def overlap(response: str, *, reference_text: str, percentage: Count) -> bool:
    """Of the response's different three-character sequences, this share (within 2 points) occurs in the reference text."""
    found = _trigrams(response)
    if not found:
        return False
    share = 100 * (len(found & _trigrams(reference_text)) / len(found))
    return percentage - 2 <= share <= percentage + 2


@ifbench("count:conjunctions", "Use at least {small_n} different coordinating conjunctions in the response.")
def conjunctions(response: str, *, small_n: Count) -> bool:
    """At least so many of and, but, for, nor, or, so, yet.

    Fixed: the reference counts "and", "And" and "and," as three.
    """
    return len({word.strip(_EDGES).lower() for word in response.split()} & CONJUNCTIONS) >= small_n


@reference("count:conjunctions")
def reference_conjunctions(response: str, *, small_n: Count) -> bool:
    return len({word for word in response.split() if word.strip(_EDGES).lower() in CONJUNCTIONS}) >= small_n


@ifbench(
    "count:person_names",
    "Mention at least {N} different person names in the response, from this list of person names: "
    + ", ".join(PERSON_NAMES)
    + ".",
)
def person_names(response: str, *, N: Count) -> bool:
    """At least N different names of the list, as whole words with a capital."""
    return len(set(_NAMES.findall(response))) >= N


@ifbench("count:numbers", "Include exactly {N} numbers in the response.")
def numbers(response: str, *, N: Count) -> bool:
    """Exactly N runs of digits once the punctuation is gone: "3.14", "1,000" and "2020-21" are one each."""
    return len(re.findall(r"\d+", without_punctuation(response))) == N


@ifbench(
    "count:punctuation",
    "Use every standard punctuation mark at least once, including semicolons, colons, and the interrobang (?!).",
)
def punctuation(response: str) -> bool:
    """Each of . , ! ? ; : occurs, and besides them ?!, !? or ‽."""
    rest = response.replace("?!", "", 1) if "?!" in response else response.replace("!?", "", 1)
    return (len(rest) < len(response) or "‽" in response) and set(rest) >= MARKS


@ifbench("count:words_japanese", "Every {N}th word of your response must be in Japanese.")
def words_japanese(response: str, *, N: Position) -> bool:
    """Every N-th word holds a kana or a kanji, unless it is a number or only punctuation."""
    every_nth = (word.strip(_EDGES) for word in response.split()[N - 1 :: N])
    return all(not word or word.isdigit() or _JAPANESE.search(word) for word in every_nth)


@ifbench("count:pronouns", "The response should include at least {N} pronouns.")
def pronouns(response: str, *, N: Count) -> bool:
    """At least N pronouns, of a list of 60: personal, possessive, reflexive, demonstrative, interrogative, indefinite."""
    return sum(token in PRONOUNS for token in tokens(response.replace("/", " ").lower())) >= N


@ifbench(
    "count:keywords_multiple",
    "Include keyword {keyword1} once in your response, keyword {keyword2} twice in your response, keyword {keyword3} three times "
    "in your response, keyword {keyword4} five times in your response, and keyword {keyword5} seven times in your response.",
)
def keywords_multiple(response: str, *, keyword1: str, keyword2: str, keyword3: str, keyword4: str, keyword5: str) -> bool:
    """The keywords occur exactly 1, 2, 3, 5 and 7 times, in any case, also inside longer words."""
    text = response.lower()
    wanted = zip((keyword1, keyword2, keyword3, keyword4, keyword5), (1, 2, 3, 5, 7), strict=True)
    return all(text.count(keyword.strip().lower()) == count for keyword, count in wanted)


def _stripped_words(text: str) -> set[str]:
    return {word.strip(_EDGES) for word in text.lower().split()}


def _endings(text: str) -> tuple[int, int, int]:
    """How many sentences end in a full stop, a question mark and an exclamation mark."""
    last = [sentence[-1] for sentence in sentences(text)]
    return last.count("."), last.count("?"), last.count("!")


def _trigrams(text: str) -> set[str]:
    return {text[index : index + 3] for index in range(len(text) - 2)}
