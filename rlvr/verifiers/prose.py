"""Prose without its code and mathematics. Linear in the text."""

from __future__ import annotations

import re

_FENCE = "```"
_CLOSING = {_FENCE: _FENCE, "$$": "$$", "\\[": "\\]", "\\(": "\\)", "$": "$", "`": "`"}
# A mark without its partner must not swallow the prose behind it, nor make the search quadratic.
MAX_SPAN_CHARS = {_FENCE: 10**9, "$$": 4_000, "\\[": 4_000, "\\(": 1_000, "$": 400, "`": 400}
_OPENING = re.compile(r"```|\$\$|\$|\\\[|\\\(|`")
_COMMAND = re.compile(r"\\[A-Za-z]+\*?")
_BRACED = re.compile(r"(\\[A-Za-z]+\*?)\s?\{([^{}]{0,200})\}")
_TAG = re.compile(r"</?[A-Za-z_][\w-]{0,30}>")
_URL = re.compile(r"https?://\S{1,2000}")


def without_code_and_math(text: str) -> str:
    """`text` without code blocks, inline code, mathematics, LaTeX commands, tags and addresses.

    >>> " ".join(without_code_and_math("So $x = 2$, and `f(x)` is \\\\boxed{4}.").split())
    'So , and is .'
    """
    kept: list[str] = []
    position = 0
    while (opening := _OPENING.search(text, position)) is not None:
        kept += (text[position : opening.start()], " ")
        position = _end_of_span(text, opening[0], opening.end())
    kept.append(text[position:])
    prose = "".join(kept)
    for pattern in (_BRACED, _COMMAND, _TAG, _URL):
        prose = pattern.sub(" ", prose)
    return prose


def _end_of_span(text: str, mark: str, begin: int) -> int:
    """Where the span that `mark` opened ends; `begin` where nothing closes it."""
    limit = min(len(text), begin + MAX_SPAN_CHARS[mark])
    end = text.find(_CLOSING[mark], begin, limit)
    if end >= 0:
        return end + len(_CLOSING[mark])
    return len(text) if mark == _FENCE else begin  # a code block that never ends is code to the end
