"""IFEval: detectable formats. Patterns that could backtrack are walked line by line instead, with the same result."""

from __future__ import annotations

import json
import re
from typing import NoReturn

from rlvr.verifiers.instruction.base import Count, ifeval, reference

CONSTRAINED_RESPONSES = ("My answer is yes.", "My answer is no.", "My answer is maybe.")
_HIGHLIGHT = re.compile(r"\*[^\n*]*\*")
_DOUBLE_HIGHLIGHT = re.compile(r"\*\*[^\n*]*\*\*")
_FENCES = ("```json", "```Json", "```JSON", "```")


@ifeval(
    "detectable_format:number_bullet_lists",
    "Your answer must contain exactly {num_bullets} bullet points. Use the markdown bullet points such as:\n"
    "* This is point 1.\n* This is point 2.",
)
def number_bullet_lists(response: str, *, num_bullets: Count) -> bool:
    """Exactly so many lines begin with a bullet, "*" (but not "**") or "-"."""
    return _bullets(response) == num_bullets


@ifeval(
    "detectable_format:constrained_response",
    'Answer with one of the following options: "My answer is yes.", "My answer is no.", "My answer is maybe."',
)
def constrained_response(response: str) -> bool:
    """One of the three answers occurs, to the letter."""
    return any(option in response for option in CONSTRAINED_RESPONSES)


@ifeval(
    "detectable_format:number_highlighted_sections",
    "Highlight at least {num_highlights} sections in your answer with markdown, i.e. *highlighted section*.",
)
def number_highlighted_sections(response: str, *, num_highlights: Count) -> bool:
    """At least so many *highlights* or **highlights** that are not blank, each within one line."""
    single = sum(1 for found in _HIGHLIGHT.findall(response) if found.strip("*").strip())
    double = sum(1 for found in _DOUBLE_HIGHLIGHT.findall(response) if found[2:-2].strip())
    return single + double >= num_highlights


@ifeval(
    "detectable_format:multiple_sections",
    "Your response must have {num_sections} sections. Mark the beginning of each section with {section_spliter} X, such as:\n"
    "{section_spliter} 1\n[content of section 1]\n{section_spliter} 2\n[content of section 2]",
)
def multiple_sections(response: str, *, section_spliter: str, num_sections: Count) -> bool:
    """The section mark with a number behind it occurs at least so many times.

    Fixed: the reference reads the mark as a regular expression.
    """
    return len(re.findall(rf"{re.escape(section_spliter.strip())}\s?\d+", response)) >= num_sections


@reference("detectable_format:multiple_sections")
def reference_multiple_sections(response: str, *, section_spliter: str, num_sections: Count) -> bool:
    try:
        return len(re.findall(rf"(?:\s?){section_spliter.strip()}\s?\d+", response)) >= num_sections
    except re.error:
        return False  # where the reference raises


@ifeval(
    "detectable_format:json_format", "Entire output should be wrapped in JSON format. You can use markdown ticks such as ```."
)
def json_format(response: str) -> bool:
    """The response, or what its one code fence holds, is JSON.

    Fixed: the reference takes NaN and Infinity for JSON, and crashes on thousands of open brackets.
    """
    return _is_json(response, strict=True)


@reference("detectable_format:json_format")
def reference_json_format(response: str) -> bool:
    return _is_json(response, strict=False)


@ifeval(
    "detectable_format:title", "Your answer must contain a title, wrapped in double angular brackets, such as <<poem of joy>>."
)
def title(response: str) -> bool:
    """A line holds <<a title>> that is not blank."""
    for line in response.split("\n"):
        start, stop = line.find("<<"), line.rfind(">>")
        if 0 <= start < stop - 2 and line[start : stop + 2].lstrip("<").rstrip(">").strip():
            return True
    return False


def _bullets(response: str) -> int:
    """Lines that begin with "-", or with "*" and something else than "*"; a "*" alone takes the line below with it."""
    count = 0
    takes_next = False
    lines = response.split("\n")
    for index, line in enumerate(lines):
        text = line.lstrip()
        if text.startswith("-"):
            count += 1
        if takes_next:
            takes_next = False
        elif text.startswith("*"):
            is_alone = len(text) == 1
            if (is_alone and index + 1 < len(lines)) or (not is_alone and text[1] != "*"):
                count += 1
                takes_next = is_alone
    return count


def _is_json(response: str, *, strict: bool) -> bool:
    text = response.strip()
    for fence in _FENCES:
        text = text.removeprefix(fence)
    text = text.removesuffix("```").strip()
    try:
        json.loads(text, parse_constant=_refuse if strict else None)
    except (ValueError, RecursionError):
        return False
    return True


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")
