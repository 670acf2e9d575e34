"""IFEval: letter case, language, commas, quotation marks, first and last words."""

from __future__ import annotations

from rlvr.verifiers.instruction.base import Count, Relation, compare, ifeval, reference
from rlvr.verifiers.instruction.language import NAMES, detect
from rlvr.verifiers.instruction.text import tokens


def _is_known(language: str) -> str:
    return "" if language in NAMES else f"language {language!r} is none of {', '.join(NAMES)}"


@ifeval(
    "language:response_language", "Your ENTIRE response should be in the language with the code {language}, no other.", _is_known
)
def response_language(response: str, *, language: str) -> bool:
    """The response is in this language (ISO 639-1 code); a text without letters is in any.

    Fixed: the reference's detector is unseeded, so that the same text gets different verdicts, and not safe in threads.
    `compat = "reference"` takes the seeded verdict too.
    """
    return detect(response) in (language, None)


@ifeval("change_case:english_capital", "Your entire response should be in English, and in all capital letters.")
def english_capital(response: str) -> bool:
    """English, and no lower-case letter.

    Fixed: the reference gives the capitals to a language detector that knows lower-case text, which takes English for German,
    Swedish or Tagalog; here the detector reads the text in lower case.
    """
    return response.isupper() and detect(response.lower()) in ("en", None)


@reference("change_case:english_capital")
def reference_english_capital(response: str) -> bool:
    return response.isupper() and detect(response) in ("en", None)


@ifeval(
    "change_case:english_lowercase",
    "Your entire response should be in English, and in all lowercase letters. No capital letters are allowed.",
)
def english_lowercase(response: str) -> bool:
    """English, and no capital letter."""
    return response.islower() and detect(response) in ("en", None)


@ifeval(
    "change_case:capital_word_frequency",
    "In your response, words with all capital letters should appear {capital_relation} {capital_frequency} times.",
)
def capital_word_frequency(response: str, *, capital_frequency: Count, capital_relation: Relation) -> bool:
    """Less than, or at least, so many words are all capitals; "I" and "A" count."""
    return compare(sum(token.isupper() for token in tokens(response)), capital_relation, capital_frequency)


@ifeval("punctuation:no_comma", "In your entire response, refrain from the use of any commas.")
def no_comma(response: str) -> bool:
    """No comma."""
    return "," not in response


@ifeval("startend:quotation", "Wrap your entire response with double quotation marks.")
def quotation(response: str) -> bool:
    """The first and the last visible character are double quotation marks."""
    text = response.strip()
    return len(text) > 1 and text[0] == '"' and text[-1] == '"'


@ifeval(
    "startend:end_checker",
    "Finish your response with this exact phrase: {end_phrase} No other words should follow this phrase.",
)
def end_checker(response: str, *, end_phrase: str) -> bool:
    """The response ends with the phrase, in any case; quotation marks around the response do not count."""
    return response.strip().strip('"').lower().endswith(end_phrase.strip().lower())
