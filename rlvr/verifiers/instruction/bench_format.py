"""IFBench: formats."""

from __future__ import annotations

import functools
import re
import string
import threading
from typing import Any

from rlvr.errors import ConfigError
from rlvr.verifiers.instruction.base import ifbench, reference
from rlvr.verifiers.instruction.english import MINOR_WORDS
from rlvr.verifiers.instruction.text import PUNCTUATION, sentences, tokens, without_punctuation

_EDGES = PUNCTUATION + " "
_CLOSING = {"(": ")", "[": "]", "{": "}"}
_APOSTROPHE = re.compile(r"(?<=[^\W\d_])['’](?=[^\W\d_])")
_CURLY = str.maketrans({"“": '"', "”": '"', "„": '"', "‘": "'", "’": "'"})
_LETTERED = re.compile(r"\W*[aA]\W*[bB]\W*[cC]")
_THESIS = re.compile(r"<(i|em)>([^<]*)</\1>")
_TEMPLATE = ("My Answer:", "My Conclusion:", "Future Outlook:")
_FINISHED = 64  # characters of a sentence's edge that are searched for an emoji
_lock = threading.Lock()  # emoji is imported by one thread


@ifbench("format:parentheses", "Nest parentheses (and [brackets {{and braces}}]) at least 5 levels deep.")
def parentheses(response: str) -> bool:
    """Five brackets of the kinds (), [], {} are open at once, and the innermost is closed; a wrong closing mark starts over."""
    opened: list[str] = []
    deepest = 0
    for char in response:
        if char in _CLOSING:
            opened.append(char)
            deepest = max(deepest, len(opened))
        elif char in ")]}":
            if not opened or _CLOSING[opened[-1]] != char:
                opened, deepest = [], 0
            elif deepest >= 5:
                return True
            else:
                opened.pop()
    return False


@ifbench(
    "format:quotes",
    "Include quotes within quotes within quotes, at least 3 levels deep, alternating between double quotes and single quotes.",
)
def quotes(response: str) -> bool:
    """Three levels of quotation marks, double and single in turn, all closed.

    Fixed: the reference takes an apostrophe ("don't") for a quotation mark, and does not know the curly marks.
    """
    return reference_quotes(_APOSTROPHE.sub("", response).translate(_CURLY))


@reference("format:quotes")
def reference_quotes(response: str) -> bool:
    opened: list[str] = []
    deepest = 0
    for char in response:
        if opened and char == opened[-1]:
            opened.pop()
            if deepest - len(opened) >= 3:
                return True
        elif char in "\"'":
            opened.append(char)
            deepest = max(deepest, len(opened))
    return False


@ifbench("format:options", "Answer with one of the following options: {options}. Do not give any explanation.")
def options(response: str, *, options: str) -> bool:
    """The response is one of the options (separated by "/", else "or", else ","), in any case and without marks around it;
    of lettered options, "a), b), c)", exactly one as it is written.

    Fixed: the reference splits at any "or", so that "morning, evening" becomes "m" and "ning, evening".
    """
    separator = r"/" if "/" in options else r"\bor\b" if re.search(r"\bor\b", options) else r","
    return _is_option(response, options, re.split(separator, options))


@reference("format:options")
def reference_options(response: str, *, options: str) -> bool:
    return _is_option(response, options, options.split("/" if "/" in options else "or" if "or" in options else ","))


@ifbench("format:newline", "Write each word on a new line.")
def newline(response: str) -> bool:
    """Every line that is not blank holds one word; marks do not count.

    Fixed: the reference compares the numbers of words and lines, so that a blank line makes up for two words on another.
    """
    counts = [len(line.split()) for line in without_punctuation(response).split("\n")]
    return max(counts) == 1


@reference("format:newline")
def reference_newline(response: str) -> bool:
    text = without_punctuation(response).strip()
    return sum(line != "" for line in text.split("\n")) == len(text.split())


@ifbench("format:emoji", "Please use an emoji at the end of every sentence.")
def emoji(response: str) -> bool:
    """Every sentence ends with an emoji, before or behind its final mark.

    Fixed: the reference looks at the last two characters, which finds no flag, keycap or other emoji of several characters.
    """
    found = [without_punctuation(sentence).strip() for sentence in sentences(response)]
    for index, sentence in enumerate(found):
        following = found[index + 1] if index + 1 < len(found) else ""
        if not _ends_with_emoji(sentence) and not _begins_with_emoji(following):
            return False
    return True


@reference("format:emoji")
def reference_emoji(response: str) -> bool:
    is_emoji = _emoji().is_emoji
    found = [without_punctuation(sentence).strip() for sentence in sentences(response)]
    for index, sentence in enumerate(found):
        following = found[index + 1][:1] if index + 1 < len(found) else ""
        if not sentence or not any(map(is_emoji, (*sentence[-2:], *following))):
            return False
    return True


@ifbench("format:line_indent", "Create stairs by incrementally indenting each new line.")
def line_indent(response: str) -> bool:
    """Two or more lines, each with more spaces before it than the one above; blank lines do not count.

    Fixed: the reference accepts a single line, and takes every second of several blank lines for a step.
    """
    steps = [_indent(line) for line in response.split("\n") if line.strip()]
    return len(steps) > 1 and steps == sorted(set(steps))


@reference("format:line_indent")
def reference_line_indent(response: str) -> bool:
    lines = response.split("\n")
    kept, index = [], 0
    while index < len(lines):
        # The reference removes a blank line from the list that it walks: it also skips the line behind.
        if lines[index].strip():
            kept.append(lines[index])
            index += 1
        else:
            kept += lines[index + 1 : index + 2]
            index += 2
    steps = [_indent(line) for line in kept]
    return steps == sorted(set(steps))


@ifbench("format:quote_unquote", "Every quoted phrase must be followed by an unquoted explanation.")
def quote_unquote(response: str) -> bool:
    """No quotation follows another, and the response does not end with one; marks and digits are no explanation.

    Fixed: the reference does not know the curly quotation marks.
    """
    return reference_quote_unquote(response.translate(_CURLY))


@reference("format:quote_unquote")
def reference_quote_unquote(response: str) -> bool:
    text = "".join(response.replace("'\"'", "").split())
    return '""' not in text and not text.rstrip(string.digits + PUNCTUATION.replace('"', "")).endswith('"')


@ifbench("format:list", "Answer with a list of items, instead of bullet points use {sep}.")
def bullet_list(response: str, *, sep: str) -> bool:
    """The mark occurs at least twice, anywhere."""
    return response.count(sep) >= 2


@ifbench("format:thesis", "Each section must begin with a thesis statement in italics, use HTML to indicate the italics.")
def thesis(response: str) -> bool:
    """There is <i>a thesis</i> or <em>a thesis</em> that is not blank, and text behind it.

    Fixed: with <em> the reference takes a bracket of the tags for the thesis or for the text behind it.
    """
    return any(found[2].strip() and response[found.end() :].strip() for found in _THESIS.finditer(response))


@reference("format:thesis")
def reference_thesis(response: str) -> bool:
    start = response.find("<i>") if "<i>" in response else response.find("<em>")
    if start < 0:
        return False
    text = response[start:]
    stop = text.find("</i>") if "</i>" in text else text.find("</em>")
    return stop >= 0 and text[3:stop].strip() != "" and text[stop + 4 :].strip() != ""


@ifbench(
    "format:sub-bullets",
    "Your response must include bullet points denoted by * and at least one sub-bullet point denoted by - for each bullet point.",
)
def sub_bullets(response: str) -> bool:
    """There are lines that begin with "*", and each has one that begins with "-" below it, before the next.

    Fixed: the reference accepts a response without bullets, and takes *emphasis* for bullets and hyphens for sub-bullets.
    """
    has_sub: list[bool] = []
    for line in map(str.strip, response.split("\n")):
        if line.startswith("*") and not line.startswith("**"):
            has_sub.append(False)
        elif line.startswith("-") and has_sub:
            has_sub[-1] = True
    return bool(has_sub) and all(has_sub)


@reference("format:sub-bullets")
def reference_sub_bullets(response: str) -> bool:
    return all("-" in part for part in response.split("*")[1:])


@ifbench(
    "format:no_bullets_bullets",
    "Your answer must contain at least two sentences ending in a period followed by at least two bullet points denoted by *.",
)
def no_bullets_bullets(response: str) -> bool:
    """Two or more sentences that end in ".", then two or more lines that begin with "*", and nothing else behind them.

    Fixed: the reference fails on blank lines between the sentences or behind the bullets, and counts sentences that end
    in no full stop.
    """
    lines = [line for line in map(str.strip, response.split("\n")) if line]
    first = next((index for index, line in enumerate(lines) if line.startswith("*")), len(lines))
    stops = sum(sentence.endswith(".") for line in lines[:first] for sentence in sentences(line))
    bullets = lines[first:]
    return stops >= 2 and len(bullets) >= 2 and all(line.startswith("*") for line in bullets)


@reference("format:no_bullets_bullets")
def reference_no_bullets_bullets(response: str) -> bool:
    is_prose = True
    count = bullets = 0
    for line in map(str.strip, response.split("\n")):
        if line.startswith("*"):
            is_prose = False
            if count < 2:
                return False
            bullets += 1
        elif is_prose:
            found = sentences(line)
            count, is_prose = count + len(found), bool(found)
        else:
            return False
    return bullets >= 2


@ifbench("format:title_case", "Write the entire response in title case (capitalize the first letter of every major word).")
def title_case(response: str) -> bool:
    """Every word begins with a capital, except articles, conjunctions and short prepositions behind the first word.

    Fixed: the reference asks a capital of "of" and "the" too, and of the "n't" in "Don't".
    """
    found = [word for word in (word.strip(_EDGES) for word in response.split()) if word[:1].isalpha()]
    return all(not word[0].islower() or (index > 0 and word in MINOR_WORDS) for index, word in enumerate(found))


@reference("format:title_case")
def reference_title_case(response: str) -> bool:
    for token in tokens(response):
        if token[0].isalpha() and token[0].islower() and (len(token) == 1 or token[1:].isupper() or token[1:].islower()):
            return False
    return True


@ifbench(
    "format:output_template",
    "Use this exact template for your response: My Answer: [answer] My Conclusion: [conclusion] Future Outlook: [outlook]",
)
def output_template(response: str) -> bool:
    """The three labels of the template occur, in its order.

    Fixed: the reference accepts any order.
    """
    positions = [response.find(label) for label in _TEMPLATE]
    return min(positions) >= 0 and positions == sorted(positions)


@reference("format:output_template")
def reference_output_template(response: str) -> bool:
    return all(label in response for label in _TEMPLATE)


@ifbench("format:no_whitespace", "The output should not contain any whitespace.")
def no_whitespace(response: str) -> bool:
    """No white space at all, not even at the end."""
    return not any(char.isspace() for char in response)


def _is_option(response: str, text: str, found: list[str]) -> bool:
    choices = [option.strip() for option in found]
    if _LETTERED.match(text):
        return response in choices
    return response.strip(_EDGES).lower() in [option.strip(_EDGES).lower() for option in choices]


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip(" "))


def _ends_with_emoji(text: str) -> bool:
    tail = text[-_FINISHED:]
    found = _emoji().emoji_list(tail)
    return bool(found) and found[-1]["match_end"] >= len(tail.rstrip("\ufe0f"))


def _begins_with_emoji(text: str) -> bool:
    found = _emoji().emoji_list(text[:_FINISHED])
    return bool(found) and found[0]["match_start"] == 0


@functools.cache
def _emoji() -> Any:
    try:
        with _lock:
            import emoji
    except ImportError as error:
        raise ConfigError("format:emoji needs emoji: pip install 'rlvr[instruction]'") from error
    return emoji
