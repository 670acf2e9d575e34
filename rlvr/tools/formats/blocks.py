"""Blocks of code inside the message, answered inside it: `<code>` by `<output>`, a python fence by an output fence.

Generation stops at the end of a block; the output is appended, and the model writes on.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from rlvr.tools.base import ToolSpec
from rlvr.tools.parse import Answer, Asked, Parsed
from rlvr.types import Message


@dataclass(frozen=True, slots=True)
class Blocks:
    """`opening` and `closing` surround the code, `before` and `after` the output.

    A block goes to the first tool that takes one text.
    """

    name: str
    opening: str
    closing: str
    before: str
    after: str
    stop: tuple[str, ...]
    marker: str = ""

    def parse(self, text: str, specs: Sequence[ToolSpec]) -> Parsed:
        end = text.rfind(self.closing)
        # Without a stop string behind it, the model ended its message there: an answer may be a block of code.
        if end < 0 or not any(text.find(one, end) >= 0 for one in self.stop):
            return Parsed(text=text)
        start = text.rfind(self.opening, 0, end)
        code = text[start + len(self.opening) : end]
        if start < 0 or self.closing in code:
            return Parsed(text=text, is_paused=True)  # the end of something else, or of nothing
        code = code.strip("\n")
        for spec in specs:
            if spec.text_argument is not None:
                return Parsed((Asked(spec.name, {spec.text_argument: code}),), text, is_paused=True)
        return Parsed((Asked(problem="no tool takes code"),), text, is_paused=True)

    def describe(self, specs: Sequence[ToolSpec]) -> str:
        tool = next((spec for spec in specs if spec.text_argument is not None), None)
        about = f"\n{tool.name}: {' '.join(tool.description.split())}" if tool is not None else ""
        return (
            f"While you think you may use a tool, as often as you need. Write\n{self.opening}\n...\n{self.closing}\n"
            f"and what it gives appears below as\n{self.before}\n...\n{self.after}{about}"
        )

    def reply(self, answers: Sequence[Answer], role: str) -> tuple[Message, ...]:
        return ()

    def inline(self, answers: Sequence[Answer], text: str) -> str:
        if not answers:
            return ""
        outputs = "\n".join(answer.text for answer in answers)
        newline = "" if text.endswith("\n") else "\n"
        return f"{newline}{self.before}\n{outputs}\n{self.after}\n"

    def outputs(self, text: str) -> tuple[tuple[int, int], ...]:
        """Where the outputs lie in a whole message, from the end of a block to the end of what it gave: [start, end) each."""
        pattern = f"{re.escape(self.closing)}(\n?{re.escape(self.before)}\n.*?\n{re.escape(self.after)}\n?)"
        return tuple(found.span(1) for found in re.finditer(pattern, text, flags=re.DOTALL))


CODE = Blocks("code", "<code>", "</code>", "<output>", "</output>", stop=("</code>",))
# A closing fence stands on a line of its own, so the opening one, which names a language, does not stop generation.
FENCED = Blocks("fenced", "```python\n", "\n```", "```output", "```", stop=("\n```\n",))
