"""`format`: did the response keep to the layout that was asked for? Says nothing about its content."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from typing import Literal, TypeAlias

from rlvr.types import Problem, Rollout, Verdict
from rlvr.verifiers.base import verifier
from rlvr.verifiers.extract import MAX_TAIL_CHARS, Mode, boxes, find_answer, split_thinking

Family: TypeAlias = Literal["think_answer", "thinking_answer", "reasoning_final_answer", "boxed", "code_block"]

MAX_EXTRACTED_CHARS = 2_000
ANY_LANGUAGE = "any"

_TAGS = {
    "think_answer": ("think", "answer"),
    "thinking_answer": ("thinking", "answer"),
    "reasoning_final_answer": ("reasoning", "final_answer"),
}
# Whatever a reader might take for one of the families' tags: other case, white space, attributes.
_ANY_TAG = re.compile(r"<\s{0,8}/?\s{0,8}(?:think|thinking|reasoning|answer|final_answer)\b[^<>]{0,80}>", re.IGNORECASE)
_FENCE_LINE = re.compile(r"^[ \t]{0,3}```(?!`)([^\n`]{0,200})$", re.MULTILINE)
_AFTER_BOX = re.compile(r"[\s$.。)*\\\]]*")
_LATEX_SPACE = re.compile(r"\\(?:text|mbox|mathrm|mathbf|textbf|phantom|hspace|quad|qquad|[,;:!> ])|[{}~$]")
_COMMENT = re.compile(r"\s*(?:#|//|--|%|/\*|\*)")
# Letters and symbols that print nothing: fillers, the empty braille cell.
_BLANKS = frozenset("\u115f\u1160\u3164\uffa0\u2800")


@dataclass(frozen=True, slots=True)
class Layout:
    """What `check_layout` found: the answer part, or why there is none."""

    answer: str | None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class CodeBlock:
    """A fenced block: its language tag in lower case, its content, and where it begins and ends in the text."""

    language: str
    content: str
    start: int
    end: int


@verifier("format", isolated=False, grades="form")
def format(
    problem: Problem,
    rollout: Rollout,
    *,
    family: Family = "think_answer",
    mode: Mode = "strict",
    prefilled: bool = False,
    code: str | None = None,
) -> Verdict:
    """Score 1 when the response has the layout of `family`, else 0.

    `strict`: the two tags of the family, each opened and closed exactly once, in order, with visible text inside both,
    only white space between and around them, and no tag of another family or spelling; for `boxed`, exactly one box,
    filled, and nothing after it but closing punctuation; for `code_block`, exactly one fenced block after the thinking,
    with code in it and nothing behind it. `lenient`: the answer part can be found. `prefilled` says that the prompt
    already opened the thinking tag.

    `code` names the language of the one fenced block that the answer part must hold, under the same rule ("any": whichever);
    open-r1's `code_format_reward` is `family="think_answer", code="python"`. A response that repeats the example of a layout
    from its prompt is incorrect.
    """
    layout = check_layout(rollout.response, family, mode, prefilled=prefilled)
    if layout.answer is not None and (code is not None or family == "code_block"):
        layout = _check_code(layout.answer, code or ANY_LANGUAGE, mode)
    if layout.answer is None:
        return Verdict.incorrect(reason=layout.reason)
    if _is_example(rollout.response, problem):
        return Verdict.incorrect(reason="repeats the prompt's example of the layout")
    return Verdict.correct(layout.answer.strip()[:MAX_EXTRACTED_CHARS])


def check_layout(response: str, family: Family, mode: Mode = "strict", *, prefilled: bool = False) -> Layout:
    """The answer part of `response`, if its layout is right. Linear in the response."""
    if family == "boxed":
        return _check_box(response, mode)
    if family == "code_block":
        parts = split_thinking(response)
        return Layout(None, "the thinking never ends") if parts.is_open and mode == "strict" else Layout(parts.answer)
    thinking, answer = _TAGS[family]
    if mode == "lenient":
        return _find_tag(response, answer)
    text = f"<{thinking}>{response}" if prefilled and not response.lstrip().startswith(f"<{thinking}>") else response
    return _check_tags(text, thinking, answer)


def code_blocks(text: str) -> list[CodeBlock]:
    """The complete fenced blocks of `text`, in order. A fence is a line that begins with three backticks."""
    found: list[CodeBlock] = []
    opening: re.Match[str] | None = None
    for fence in _FENCE_LINE.finditer(text):
        if opening is None:
            opening = fence
        elif not fence[1].strip():
            language = opening[1].strip().split(" ")[0].lower()
            found.append(CodeBlock(language, text[opening.end() + 1 : fence.start()], opening.start(), fence.end()))
            opening = None
    return found


def _check_tags(text: str, thinking: str, answer: str) -> Layout:
    tags = (f"<{thinking}>", f"</{thinking}>", f"<{answer}>", f"</{answer}>")
    for tag in tags:
        if (count := text.count(tag)) != 1:
            return Layout(None, f"{tag} occurs {count} times; it must occur once")
    if (count := sum(1 for _ in _ANY_TAG.finditer(text))) != len(tags):
        return Layout(None, f"{count} tags; only {' '.join(tags)} may occur")
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
    if not any(char.isalnum() and char not in _BLANKS for char in text[ends[0] : starts[1]]):
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
    if not _is_visible(_LATEX_SPACE.sub("", content)):
        return Layout(None, "\\boxed{} is empty")
    if mode == "strict":
        if (count := response.count("\\boxed") + response.count("\\fbox")) != 1:
            return Layout(None, f"\\boxed occurs {count} times; it must occur once")
        if not _AFTER_BOX.fullmatch(tail[end:]):
            return Layout(None, "text after \\boxed{}")
    return Layout(content)


def _check_code(answer: str, language: str, mode: Mode) -> Layout:
    blocks = [block for block in code_blocks(answer) if language in (ANY_LANGUAGE, block.language)]
    if not blocks:
        return Layout(None, "no code block" if language == ANY_LANGUAGE else f"no code block marked {language!r}")
    if mode == "strict":
        if answer.count("```") != 2:
            return Layout(None, f"{answer.count('```')} code fences; one block has two")
        if answer[blocks[0].end :].strip():
            return Layout(None, "text after the code block")
    lines = blocks[-1].content.splitlines()
    if not any(_is_visible(line) and not _COMMENT.match(line) for line in lines):
        return Layout(None, "the code block holds no code")
    return Layout(blocks[-1].content)


def _is_example(response: str, problem: Problem) -> bool:
    """Whether the whole response stands in the prompt, white space aside."""
    text = " ".join(response[:MAX_TAIL_CHARS].split())
    return any(text in " ".join(message.content[:MAX_TAIL_CHARS].split()) for message in problem.prompt)


def _is_visible(text: str) -> bool:
    return any(unicodedata.category(char)[0] not in "ZCM" and char not in _BLANKS for char in text)
