"""Find the final answer in a model's text: linear time, capped length, one rule at a time.

Nothing here evaluates or parses mathematics. Patterns are literal tokens or runs of one character class, so that no
input makes them backtrack; only the last `MAX_TAIL_CHARS` characters of the answer part are searched.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, TypeAlias

MAX_TAIL_CHARS = 200_000
MAX_SENTENCE_CHARS = 500
MAX_BARE_CHARS = 400
MAX_BARE_WORDS = 3
MAX_SHORT_FORMULA_CHARS = 40
MAX_BETWEEN_BOXES = 80

Rule: TypeAlias = Literal["answer_tag", "boxed", "hash", "sentence", "bare", "last_math", "last_number", "whole"]
Extract: TypeAlias = Literal["auto", "answer_tag", "boxed", "hash", "sentence", "bare", "last_math", "last_number", "whole"]
Mode: TypeAlias = Literal["lenient", "strict"]

# What the model marked on purpose comes before what only looks like an answer.
MARKED: tuple[Rule, ...] = ("answer_tag", "boxed", "hash")
NUMBER_RULES: tuple[Rule, ...] = (*MARKED, "sentence", "last_number")
MATH_RULES: tuple[Rule, ...] = (*MARKED, "sentence", "bare", "last_math", "last_number")
TEXT_RULES: tuple[Rule, ...] = (*MARKED, "sentence", "whole")
CHOICE_RULES: tuple[Rule, ...] = ("answer_tag", "boxed", "sentence")

_THINK_TAG = re.compile(r"<(/?)(think|thinking|reasoning)>", re.IGNORECASE)
_ANSWER_TAG = re.compile(r"<(/?)(answer|final_answer)>", re.IGNORECASE)
_BRACES = re.compile(r"\\(?:boxed|fbox)[ \t\n]{0,8}\{|\\.|[{}]", re.DOTALL)
_BARE_BOX = re.compile(r"\\boxed[ \t]{1,8}([^\s{}$\\]{1,64})")
_SENTENCE = re.compile(r"(?:answer[*_ \t]{0,8}(?:is|:|=)|答案(?:是|为|：|:))", re.IGNORECASE)
_SENTENCE_END = re.compile(r"\n|。|\.(?=\s|$)|(?<!\\)[!;](?=\s|$)")
_MATH_SPAN = re.compile(r"\$\$|\$|\\\(|\\\)|\\\[|\\\]")
_NUMBER = re.compile(
    r"(?<![\w.])[-+−]?(?:"
    r"\d{1,3}(?:[ \u00a0\u2009\u202f]\d{3})+(?!\d)(?:\.\d+)?"  # 12 586 269 025
    r"|\d{1,3}(?:,\d{3})+(?![\d])(?:\.\d+)?"  # 1,234.5
    r"|\d+(?!\d)(?:\.\d+(?!\d))?(?:[eE][-+]?\d{1,4}(?!\d)|(?![eE][-+]?\d))(?:/\d+(?:\.\d+)?)?"  # 12, 1.5, 1e-3, 3/4
    r"|\.\d+"
    r")(?:\s?\\?%)?"
)
_CONNECTOR = re.compile(
    r"[\s$.,;&*()]*(?:\\?[,;]|\\quad|\\qquad|\\text\{|\}|and|or|和|或)?[\s$.,;&*()\\]*(?:or|and)?[\s$*(]*", re.IGNORECASE
)
_WORD = re.compile(r"(?<![\\\w{])[^\W\d_]{2,}")
_SENTENCE_VERB = re.compile(r"\b(?:is|are|was|not|because|so|we|have|get|the|and|or)\b", re.IGNORECASE)
_ANNOUNCEMENTS = frozenset(
    {
        "answer",
        "result",
        "solution",
        "ans",
        "final",
        "so",
        "thus",
        "therefore",
        "hence",
        "get",
        "have",
        "is",
        "are",
        "we",
        "it",
        "the",
    }
)
_JOINT = re.compile(r"\b(?:and|or)\b|[,;和或与、]", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Extraction:
    """The final answer's `text` and the `rule` that found it; `text` is None, with a `reason`, if there is none.

    `is_ambiguous` says that the response commits to several different final answers: `text` lists them.
    """

    text: str | None
    rule: Rule | None = None
    reason: str = ""
    is_ambiguous: bool = False


@dataclass(frozen=True, slots=True)
class Parts:
    """A response split at its thinking: `answer` is what follows the last closing tag.

    `is_open` says that thinking began and never ended; `answer` is then the whole response.
    """

    thinking: str | None
    answer: str
    is_open: bool = False


def split_thinking(response: str) -> Parts:
    """Separate `<think>`, `<thinking>` or `<reasoning>` from what follows. The opening tag may be missing (it was prefilled).

    >>> split_thinking("<think>2 + 2</think>4").answer
    '4'
    """
    opened: int | None = None
    first_open: int | None = None
    close: re.Match[str] | None = None
    for tag in _THINK_TAG.finditer(response):
        if tag[1]:
            close, opened = tag, None
        else:
            opened = tag.start()
            first_open = tag.end() if first_open is None else first_open
    if opened is not None:
        return Parts(response[opened:], response, is_open=True)
    if close is None:
        return Parts(None, response)
    begin = first_open if first_open is not None and first_open <= close.start() else 0
    return Parts(response[begin : close.start()], response[close.end() :])


def find_answer(
    response: str, how: Extract = "auto", *, strict: bool = False, auto: tuple[Rule, ...] = NUMBER_RULES
) -> Extraction:
    """The final answer of `response`.

    `how="auto"` tries the rules of `auto` in order. Both modes read only what follows the thinking. `strict` also asks
    that thinking which began has ended, that the answer is marked (tag, box or `####`), and that an answer tag
    occurs once.
    """
    parts = split_thinking(response)
    if strict and parts.is_open:
        return Extraction(None, reason="the thinking never ends")
    tail = parts.answer[-MAX_TAIL_CHARS:]
    rules: tuple[Rule, ...] = auto if how == "auto" else (how,)
    if strict and how == "auto":
        rules = tuple(rule for rule in rules if rule in MARKED)
    for rule in rules:
        found = _RULES[rule](tail, is_strict=strict)
        if found is not None:
            return _without_inner_box(found)
    if not parts.answer.strip():
        where = "after the thinking" if parts.thinking is not None else "in the response"
        return Extraction(None, reason=f"nothing {where}")
    return Extraction(None, reason=f"no final answer found by {', '.join(rules)}")


def boxes(text: str) -> list[tuple[int, int, int, str]]:
    r"""Every complete outermost `\boxed{...}` of `text` as (start, content start, end, content), in order."""
    found: list[tuple[int, int, int, str]] = []
    open_braces: list[tuple[int, int] | None] = []
    for token in _BRACES.finditer(text):
        if token[0] == "}":
            if open_braces and (box := open_braces.pop()) is not None:
                start, inner = box
                while found and found[-1][0] > start:
                    found.pop()
                found.append((start, inner, token.end(), text[inner : token.start()]))
        elif token[0] == "{":
            open_braces.append(None)
        elif token[0].endswith("{") and len(token[0]) > 2:
            open_braces.append((token.start(), token.end()))
    return found


def joined_boxes(response: str) -> str | None:
    r"""The contents of several boxes that words such as "and" join into one answer, as a list; None if there is none.

    >>> joined_boxes("$a = \\boxed{1}$ and $b = \\boxed{2}$")
    '1, 2'
    """
    tail = split_thinking(response).answer[-MAX_TAIL_CHARS:]
    found = boxes(tail)
    if len(found) < 2:
        return None
    parts = [found[-1]]
    for box in reversed(found[:-1]):
        between = tail[box[2] : parts[-1][0]]
        if len(between) > MAX_BETWEEN_BOXES or "\n\n" in between or ". " in between or not _JOINT.search(between):
            break
        parts.append(box)
    contents = list(dict.fromkeys(content.strip() for *_, content in reversed(parts)))
    return ", ".join(contents) if len(contents) > 1 else None


def math_spans(text: str) -> list[str]:
    """The contents of `$...$` and its kin, in order."""
    closing = {"$$": "$$", "$": "$", "\\(": "\\)", "\\[": "\\]"}
    begin: re.Match[str] | None = None
    found: list[str] = []
    for mark in _MATH_SPAN.finditer(text):
        if begin is not None and mark[0] == closing[begin[0]]:
            if inner := text[begin.end() : mark.start()].strip():
                found.append(inner)
            begin = None
        elif mark[0] in closing:
            begin = mark
    return found


def numbers_in(text: str) -> Iterator[re.Match[str]]:
    """Numbers as people write them: signs, thousands separators, decimals, exponents, simple fractions, a percent sign."""
    return _NUMBER.finditer(text)


def tagged(text: str) -> list[str]:
    """The contents of all complete `<answer>` and `<final_answer>` tags, in order."""
    contents: list[str] = []
    begin: re.Match[str] | None = None
    for tag in _ANSWER_TAG.finditer(text):
        if not tag[1]:
            begin = tag
        elif begin is not None and begin[2].lower() == tag[2].lower():
            contents.append(text[begin.end() : tag.start()])
            begin = None
    return contents


def _answer_tag(text: str, *, is_strict: bool) -> Extraction | None:
    contents = [content.strip() for content in tagged(text)]
    filled = [content for content in contents if content]
    if not filled:
        return None
    if is_strict and len(contents) > 1:
        return Extraction(None, "answer_tag", f"{len(contents)} answer tags, but strict mode wants one")
    return _one_of(filled, "answer_tag")


def _boxed(text: str, *, is_strict: bool) -> Extraction | None:
    found = boxes(text) or boxes(text.replace("\\\\boxed", "\\boxed"))  # escaped twice on its way here
    if not found:
        bare = None
        for bare in _BARE_BOX.finditer(text):  # noqa: B007
            pass
        return Extraction(bare[1].rstrip(".,;"), "boxed") if bare else None
    # Boxes side by side ("\boxed{1} and \boxed{2}") are one answer; a box further back was superseded.
    last = [found[-1]]
    for box in reversed(found[:-1]):
        between = text[box[2] : last[-1][0]]
        if len(between) > 40 or not _CONNECTOR.fullmatch(between):
            break
        last.append(box)
    contents = [content.strip() for *_, content in reversed(last) if content.strip()]
    if not contents:
        return None
    return _one_of(contents, "boxed")


def _hash(text: str, *, is_strict: bool) -> Extraction | None:
    at = text.rfind("####")
    if at < 0:
        return None
    line = text[at + 4 :].lstrip("# \t").split("\n", 1)[0].strip()
    # "#### Final answer" is a heading, not an answer.
    return Extraction(line, "hash") if any(char.isdigit() for char in line) or (is_strict and line) else None


def _sentence(text: str, *, is_strict: bool) -> Extraction | None:
    last = None
    for last in _SENTENCE.finditer(text):  # noqa: B007
        pass
    if last is None:
        return None
    rest = text[last.end() : last.end() + MAX_SENTENCE_CHARS].lstrip("*_:： \t\n")
    # What ends a sentence does not end it inside a formula.
    end = next((end for end in _SENTENCE_END.finditer(rest) if rest.count("$", 0, end.start()) % 2 == 0), None)
    sentence = rest[: end.start()] if end else rest
    sentence = sentence.strip().strip("*_").strip()
    return Extraction(sentence, "sentence") if sentence else None


def _bare(text: str, *, is_strict: bool) -> Extraction | None:
    """A response that is nothing but an answer: a formula, or formulas joined by "and"."""
    text = text.strip()
    if not text or len(text) > MAX_BARE_CHARS or "\n\n" in text or "boxed" in text:
        return None
    if not _MATH_SPAN.search(text):
        words = [word for word in _WORD.findall(text) if word.lower() not in ("and", "or")]
        is_answer = any(char.isdigit() or char in "=<>\\^" for char in text) or len(words) <= 1
        is_phrase = len(words) > MAX_BARE_WORDS or (words and _SENTENCE_VERB.search(text) and not _is_short_formula(text))
        return Extraction(text, "bare") if is_answer and not is_phrase else None
    outside = _outside_math(text)
    words = [word.lower() for word in _WORD.findall(outside) if word.lower() not in ("and", "or")]
    is_announced = any(word in _ANNOUNCEMENTS for word in words)
    return Extraction(text, "bare") if len(words) <= 2 and not is_announced else None


def _is_short_formula(text: str) -> bool:
    """LaTeX with words in it, such as `6 \\text{ or more}`: read as a whole or not at all."""
    return len(text) <= MAX_SHORT_FORMULA_CHARS and "\\" in text


def _outside_math(text: str) -> str:
    closing = {"$$": "$$", "$": "$", "\\(": "\\)", "\\[": "\\]"}
    begin: re.Match[str] | None = None
    outside, at = "", 0
    for mark in _MATH_SPAN.finditer(text):
        if begin is not None and mark[0] == closing[begin[0]]:
            at, begin = mark.end(), None
        elif begin is None and mark[0] in closing:
            outside, begin = outside + " " + text[at : mark.start()], mark
    return outside + " " + text[at:]


def _last_math(text: str, *, is_strict: bool) -> Extraction | None:
    spans = math_spans(text[-4000:])
    return Extraction(spans[-1], "last_math") if spans else None


def _last_number(text: str, *, is_strict: bool) -> Extraction | None:
    previous = last = None
    for match in numbers_in(text):
        previous, last = last, match
    if last is None:
        return None
    value = last[0].strip()
    if previous is not None and re.fullmatch(r"\s*,?\s*or\s*", text[previous.end() : last.start()][:16], re.IGNORECASE):
        return _one_of([previous[0].strip(), value], "last_number")
    return Extraction(value, "last_number")


def _whole(text: str, *, is_strict: bool) -> Extraction | None:
    return Extraction(text.strip(), "whole") if text.strip() else None


def _one_of(contents: list[str], rule: Rule) -> Extraction:
    different = list({"".join(content.split()).casefold(): content for content in contents}.values())
    if len(different) == 1:
        return Extraction(contents[-1], rule)
    return Extraction(", ".join(different)[:MAX_TAIL_CHARS], rule, f"{len(different)} different final answers", is_ambiguous=True)


def _without_inner_box(found: Extraction) -> Extraction:
    if found.text is None or "boxed" not in found.text or found.is_ambiguous:
        return found
    inner = _boxed(found.text, is_strict=False)
    return found if inner is None else Extraction(inner.text, found.rule, inner.reason, inner.is_ambiguous)


_RULES: dict[Rule, Callable[..., Extraction | None]] = {
    "answer_tag": _answer_tag,
    "boxed": _boxed,
    "hash": _hash,
    "sentence": _sentence,
    "bare": _bare,
    "last_math": _last_math,
    "last_number": _last_number,
    "whole": _whole,
}
