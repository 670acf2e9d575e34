"""Find the program in a response, and make it one that can run: linear in the response, nothing is parsed or executed.

Code is text until it is in the sandbox: Python's own parser can be made to use all memory, or to crash, by what it reads.
"""

from __future__ import annotations

import re
import textwrap
from dataclasses import dataclass
from typing import Literal, TypeAlias

from rlvr.types import Problem
from rlvr.verifiers.code_syntax import parse_python
from rlvr.verifiers.extract import split_thinking, tagged

Extract: TypeAlias = Literal["last_block", "first_block", "all_blocks", "answer_tag", "whole"]
Language: TypeAlias = Literal["python", "cpp"]

MAX_CODE_BYTES = 1_000_000

_TAGS = {
    "python": frozenset({"", "python", "python3", "python2", "py", "py3", "pycon", "ipython"}),
    "cpp": frozenset({"", "cpp", "c++", "cc", "cxx", "c++17", "c++14", "c++20", "c"}),
}
_FENCE = re.compile(r"^([ \t]{0,12})(`{3,}|~{3,})([^\n`]*)$", re.MULTILINE)
_LOOKS_LIKE_PYTHON = re.compile(
    r"^[ \t]{0,32}(?:(?:async[ \t]{1,4})?def[ \t]|class[ \t]|import[ \t]|from[ \t]{1,4}[\w.]{1,200}[ \t]{1,4}import[ \t]|return\b"
    r"|print[ \t]?\(|(?:if|for|while|with|try|else|elif)\b[^\n]{0,400}:[ \t]*$|\w{1,80}[ \t]{0,4}(?:[-+*/]?=)[^=])",
    re.MULTILINE,
)
_LOOKS_LIKE_CPP = re.compile(r"^[ \t]{0,32}(?:#include\b|using[ \t]{1,4}namespace\b|int[ \t]{1,4}main\b)", re.MULTILINE)
_FUTURE_IMPORT = re.compile(r"^from __future__ import [\w ,]{1,200}$", re.MULTILINE)
# Where a completion of one function ends: Chen et al. 2021 (HumanEval, arXiv 2107.03374), section 2.
_AFTER_FUNCTION = re.compile(r"^(?:class\b|def\b|#|if\b|print\b|@|```)", re.MULTILINE)

# What LeetCode and LiveCodeBench have imported before a submission begins. One line, so that line numbers move by one only.
_STARRED = ("string", "re", "collections", "heapq", "bisect", "copy", "math", "random", "statistics", "itertools", "functools")
_PREAMBLE = "; ".join(
    [f"from {name} import *" for name in (*_STARRED, "operator", "typing", "builtins")]
    + ["import string, re, collections, heapq, bisect, copy, math, random, statistics, itertools, functools, operator, sys, json"]
)


@dataclass(frozen=True, slots=True)
class Extraction:
    """The program's text; None, with a reason, where there is none."""

    code: str | None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block. `is_closed` is False where the response ends inside it."""

    language: str
    code: str
    is_closed: bool


def extract_code(
    response: str, policy: Extract, language: Language, *, is_strict: bool = False, entry_point: str = ""
) -> Extraction:
    """The program that a response answers with. Only what follows the thinking is read.

    `last_block` takes the last fenced block in the language (or without one); of several, the last that defines
    `entry_point`, because examples of use often follow. Outside strict mode a block may lack its end, and a response without any
    fence is taken as a whole where it looks like code. `is_strict` wants thinking that ended and a block that is closed.
    """
    parts = split_thinking(response)
    if is_strict and parts.is_open:
        return Extraction(None, "the thinking never ends")
    answer = parts.answer
    if not answer.strip():
        return Extraction(None, "nothing after the thinking" if parts.thinking is not None else "the response is empty")
    if policy == "whole":
        return Extraction(answer)
    if policy == "answer_tag":
        contents = [content for content in tagged(answer) if content.strip()]
        if not contents:
            return Extraction(None, "no answer tag with code in it")
        answer, is_strict = contents[-1], False  # a fence inside the tag is welcome, and not needed
        policy = "last_block"
        if not any(block.language in _TAGS[language] for block in fenced_blocks(answer)):
            return Extraction(answer.strip("\n"))
    blocks = fenced_blocks(answer)
    wanted = [block for block in blocks if block.language in _TAGS[language] and block.code.strip()]
    if any(block.language for block in wanted):
        wanted = [block for block in wanted if block.language]  # what is marked comes before what is not: examples of output
    if is_strict:
        wanted = [block for block in wanted if block.is_closed]
    if wanted:
        return Extraction(_chosen(wanted, policy, entry_point))
    if not blocks and not is_strict and _looks_like(answer, language):
        return Extraction(answer)
    return Extraction(None, f"no {'closed ' if is_strict else ''}code block in {language}" + _other_languages(blocks))


def fenced_blocks(text: str) -> list[Block]:
    """The fenced blocks (``` or ~~~) of Markdown, in order. One inside a list is moved back to the left."""
    found: list[Block] = []
    opening: re.Match[str] | None = None
    for fence in _FENCE.finditer(text):
        if opening is None:
            opening = fence
        elif fence[2][0] == opening[2][0] and len(fence[2]) >= len(opening[2]) and not fence[3].strip():
            found.append(_block(opening, text[opening.end() + 1 : fence.start()], is_closed=True))
            opening = None
    if opening is not None:
        rest = text[opening.end() + 1 :].rstrip()
        is_closed = rest.endswith(opening[2])  # behind the last line of the code
        found.append(_block(opening, rest.removesuffix(opening[2]), is_closed=is_closed))
    return found


def defines(code: str, name: str) -> bool:
    """Whether the text has a line that defines or imports `name` (a function, or `Class.method`)."""
    last = re.escape(name.rpartition(".")[2])
    pattern = (
        rf"^[ \t]{{0,64}}(?:(?:async[ \t]{{1,4}})?(?:def|class)[ \t]{{1,8}}{last}\b"
        rf"|{last}[ \t]{{0,8}}(?::[^=\n]{{0,200}})?=[^=]|(?:from|import)[ \t][^\n]{{0,400}}\b{last}\b)"
    )
    return re.search(pattern, code, re.MULTILINE) is not None


def unrunnable(code: str) -> str | None:
    """Why a text is no program in any language; None where only running it can tell."""
    if not code.strip():
        return "the program is empty"
    if "\0" in code:
        return "the program holds a NUL character"
    try:
        size = len(code.encode("utf-8"))
    except UnicodeEncodeError:
        return "the program holds half of a surrogate pair, which no text file can"
    return None if size <= MAX_CODE_BYTES else f"the program has {size} bytes; at most {MAX_CODE_BYTES} are run"


def with_imports(code: str) -> str:
    """A submission behind the imports that LeetCode's problems take for granted."""
    return _behind(_PREAMBLE, code)


def completed(code: str, before: str, signature: str, entry_point: str) -> str:
    """A HumanEval submission as a program: behind what the prompt defines `before` its function, and, where it does not define
    the function itself, as the body of the prompt's `signature`.
    """
    if defines(code, entry_point):
        return _behind(before, code)
    body = code.expandtabs(4) if "\t" in code else code
    if (after := _AFTER_FUNCTION.search(body, body.find("\n") + 1)) is not None:
        body = body[: after.start()]
    return f"{before}\n{signature.rstrip()}\n{_indented(body)}\n"


def prompt_source(problem: Problem, entry_point: str) -> str | None:
    """The Python in a prompt that begins the function `entry_point`: a fenced block of it, or a whole message."""
    for message in reversed(problem.prompt):
        blocks = [block.code for block in fenced_blocks(message.content) if defines(block.code, entry_point)]
        if blocks:
            return blocks[-1]
        if defines(message.content, entry_point) and not isinstance(parse_python(message.content), str):
            return message.content
    return None


def split_prompt(source: str, entry_point: str) -> tuple[str, str]:
    """A HumanEval prompt as (imports and helpers, the function's signature and docstring)."""
    pattern = rf"^(?:async[ \t]{{1,4}})?def[ \t]{{1,8}}{re.escape(entry_point)}\b"
    found = re.search(pattern, source, re.MULTILINE)
    return (source, "") if found is None else (source[: found.start()], source[found.start() :])


def _chosen(blocks: list[Block], policy: Extract, entry_point: str) -> str:
    if policy == "first_block":
        return blocks[0].code
    if policy == "all_blocks":
        return "\n\n".join(block.code for block in blocks)
    defining = [block for block in blocks if entry_point and defines(block.code, entry_point)]
    return (defining or blocks)[-1].code


def _block(opening: re.Match[str], code: str, *, is_closed: bool) -> Block:
    words = opening[3].strip().lower().split()
    language = words[0].strip("{}.") if words else ""
    if opening[1]:
        code = textwrap.dedent(code)
    return Block(language, code, is_closed)


def _looks_like(text: str, language: Language) -> bool:
    pattern = _LOOKS_LIKE_PYTHON if language == "python" else _LOOKS_LIKE_CPP
    return pattern.search(text) is not None


def _other_languages(blocks: list[Block]) -> str:
    others = list(dict.fromkeys(block.language[:20] for block in blocks if block.language))
    return f"; those that there are say {', '.join(others[:5])}" if others else ""


def _behind(before: str, code: str) -> str:
    """`before` and then `code`; only future imports must stay in front of everything."""
    futures = _FUTURE_IMPORT.findall(code)
    rest = _FUTURE_IMPORT.sub("", code) if futures else code
    return "\n".join([*dict.fromkeys(futures), before.rstrip(), rest])


def _indented(body: str) -> str:
    """A function's body, whose first line, or all of it, may have lost its indentation."""
    lines = body.strip("\n").split("\n")
    first, *rest = [line for line in lines if line.strip()] or [""]
    if first[:1] in (" ", "\t"):
        return "\n".join(lines)
    if rest and not first.rstrip().endswith(":") and all(line[:1] in (" ", "\t") for line in rest):
        return "\n".join(["    " + lines[0], *lines[1:]])
    return textwrap.indent("\n".join(lines), "    ")
