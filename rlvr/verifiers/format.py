"""`format`: did the response keep to the layout that was asked for? Says nothing about its content."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from typing import Literal, TypeAlias

from rlvr.types import Problem, Rollout, Verdict
from rlvr.verifiers.base import verifier
from rlvr.verifiers.extract import MAX_TAIL_CHARS, Mode, boxes, find_answer

Family: TypeAlias = Literal["think_answer", "thinking_answer", "reasoning_final_answer", "boxed"]

MAX_EXTRACTED_CHARS = 2_000
_TAGS = {
    "think_answer": ("think", "answer"),
    "thinking_answer": ("thinking", "answer"),
    "reasoning_final_answer": ("reasoning", "final_answer"),
}
_AFTER_BOX = re.compile(r"[\s$.。)*\\\]]*")


@dataclass(frozen=True, slots=True)
class Layout:
    """What `check_layout` found: the answer part, or why there is none."""

    answer: str | None
    reason: str = ""


@verifier("format", isolated=False)
def format(
    problem: Problem, rollout: Rollout, *, family: Family = "think_answer", mode: Mode = "strict", prefilled: bool = False
) -> Verdict:
    """Score 1 when the response has the layout of `family`, else 0.

    `strict`: the two tags of the family, each opened and closed exactly once, in order, with visible text inside both,
    only white space between and around them; for `boxed`, exactly one box, filled, and nothing after it but closing
    punctuation. `lenient`: the answer part can be found. `prefilled` says that the prompt already
    opened the thinking tag.
    """
    layout = check_layout(rollout.response, family, mode, prefilled=prefilled)
    if layout.answer is None:
        return Verdict.incorrect(reason=layout.reason)
    return Verdict.correct(layout.answer.strip()[:MAX_EXTRACTED_CHARS])


def check_layout(response: str, family: Family, mode: Mode = "strict", *, prefilled: bool = False) -> Layout:
    """The answer part of `response`, if its layout is right. Linear in the response."""
    if family == "boxed":
        return _check_box(response, mode)
    thinking, answer = _TAGS[family]
    if mode == "lenient":
        return _find_tag(response, answer)
    text = f"<{thinking}>{response}" if prefilled and not response.lstrip().startswith(f"<{thinking}>") else response
    return _check_tags(text, thinking, answer)


def _check_tags(text: str, thinking: str, answer: str) -> Layout:
    tags = (f"<{thinking}>", f"</{thinking}>", f"<{answer}>", f"</{answer}>")
    for tag in tags:
        if (count := text.count(tag)) != 1:
            return Layout(None, f"{tag} occurs {count} times; it must occur once")
    starts = [text.index(tag) for tag in tags]
    if starts != sorted(starts):
        return Layout(None, f"the tags are out of order; it must be {' '.join(tags)}")
    ends = [start + len(tag) for start, tag in zip(starts, tags, strict=True)]
    if text[: starts[0]].strip():
        return Layout(None, f"text before {tags[0]}")
    if text[ends[1] : starts[2]].strip():
        return Layout(None, f"text between {tags[1]} and {tags[2]}")
    if text[ends[3] :].strip():
        return Layout(None, f"text after {tags[3]}")
    for name, body in ((thinking, text[ends[0] : starts[1]]), (answer, text[ends[2] : starts[3]])):
        if not _is_visible(body):
            return Layout(None, f"<{name}> is empty")
    if not any(char.isalnum() for char in text[ends[0] : starts[1]]):
        return Layout(None, f"<{thinking}> holds no words")
    return Layout(text[ends[2] : starts[3]])


def _find_tag(response: str, answer: str) -> Layout:
    # A tag in the thinking is not the answer, so look after the last closing thinking tag first.
    found = find_answer(response, "answer_tag")
    if found.text is not None and f"<{answer}>" in response and _is_visible(found.text):
        return Layout(found.text)
    return Layout(None, f"no filled <{answer}> tag")


def _check_box(response: str, mode: Mode) -> Layout:
    tail = response[-MAX_TAIL_CHARS:]
    found = boxes(tail)
    if not found:
        return Layout(None, "no complete \\boxed{}")
    *_, end, content = found[-1]
    if not _is_visible(content):
        return Layout(None, "\\boxed{} is empty")
    if mode == "strict":
        if (count := response.count("\\boxed")) != 1:
            return Layout(None, f"\\boxed occurs {count} times; it must occur once")
        if not _AFTER_BOX.fullmatch(tail[end:]):
            return Layout(None, "text after \\boxed{}")
    return Layout(content)


def _is_visible(text: str) -> bool:
    return any(not char.isspace() and unicodedata.category(char) not in ("Cf", "Cc", "Cn", "Cs") for char in text)
