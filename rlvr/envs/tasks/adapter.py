"""What a task's `adapter.py` defines: a class `Adapter` that makes problems, by drawing them or by reading rows.

The fields of an adapter are the task's arguments; their defaults stand in `task.toml` under `[args]`.
"""

from __future__ import annotations

import random
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field

from pydantic import BaseModel, ConfigDict, Field

from rlvr.envs.tasks.spec import PromptSpec
from rlvr.types import JSON, Message, Problem

MAX_VARIED = 2_000  # draws among which another problem of the same form is looked for


@dataclass(frozen=True, slots=True)
class Draft:
    """A problem before the task gave it an id, its system text and its suffix.

    `content` is what makes two drawn problems the same one: it decides id and split, so equal problems need equal content.
    `id` is set by row readers whose rows have one. A prompt of messages is kept as it is: system text and suffix
    belong to plain text.
    """

    prompt: str | tuple[Message, ...]
    answer: JSON
    content: str = ""
    id: str | None = None
    metadata: Mapping[str, JSON] = field(default_factory=dict)


class TaskAdapter(BaseModel, ABC):
    """What both kinds of adapter may define."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def demonstrate(self, problem: Problem, rng: random.Random) -> str | None:
        """A response to learn from in a supervised warm start; None where the task has no expert."""
        return None

    def gold_response(self, problem: Problem) -> str | None:
        """A response that must pass the task's verifiers; None: the gold answer in the form that the first verifier reads."""
        return None


class Generator(TaskAdapter):
    """Draws problems without end."""

    @abstractmethod
    def draw(self, rng: random.Random) -> Draft | None:
        """One problem that depends on `rng` and the arguments alone; None rejects the draw."""

    def vary(self, problem: Problem, rng: random.Random) -> Draft | None:
        """A problem of the same form with other numbers, for `rlvr eval --other-numbers`; None: there is none, or it is too rare.

        By default the first of so many draws whose text differs in digits alone.
        """
        wanted = _without_digits(problem.prompt[-1].content)
        for _ in range(MAX_VARIED):
            draft = self.draw(rng)
            if draft is None:
                continue
            form = _without_digits(str(draft.prompt))
            if "0" not in form:
                return None
            if wanted.startswith(form) and draft.answer != problem.answer:
                return draft
        return None


class RowReader(TaskAdapter):
    """Reads the rows of a data set."""

    @abstractmethod
    def read(self, row: Mapping[str, JSON]) -> Draft | None:
        """The problem in one row; None leaves the row out, and the task says how many were.

        Any exception becomes a `TaskError` that names task, split and row; an empty answer is refused by the task.
        """


class DrawnOrRead(Generator, RowReader):
    """Draws problems, or reads those of the local data set that `rows` names (a file or folder in RLVR_DATA)."""

    rows: str = Field(default="", repr=False)


def _without_digits(text: str) -> str:
    return re.sub(r"\d", "0", text)


def messages(prompt: str | tuple[Message, ...], around: PromptSpec) -> tuple[Message, ...]:
    """The opening messages: the system text, if any, and the problem with its suffix."""
    if isinstance(prompt, tuple):
        return prompt
    text = f"{prompt}\n\n{around.suffix}" if around.suffix else prompt
    user = Message("user", text)
    return (Message("system", around.system), user) if around.system else (user,)


def first_of(row: Mapping[str, JSON], *fields: str) -> JSON:
    """The value of the first of these fields that the row has and that is not empty; None if there is none."""
    return next((row[name] for name in fields if row.get(name) not in (None, "")), None)
