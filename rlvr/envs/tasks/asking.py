"""Tasks around a task: the same problems, whose prompts also say how long to think, or whether to.

`length_target:gsm8k` asks for a number of tokens, `thinking:gsm8k` switches reasoning on and off or gives it a budget. What is
asked is drawn for each problem from its id and a seed, so the rollouts of a group, a resumed run and every process see the same;
`Problem.metadata` records it, as `target_tokens` and `thinking`, for shapes, verifiers and reports. Arguments that are not ours
belong to the task inside.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from rlvr.config import VerifierConfig
from rlvr.envs.tasks.spec import explain
from rlvr.envs.tasks.task import ProblemSource, Task
from rlvr.errors import TaskError
from rlvr.seeding import rng
from rlvr.types import JSON, Message, Problem
from rlvr.verifiers.thinking import ThinkingMode

Tokens = Annotated[int, Field(gt=0)]
DEFAULT = "chains"  # the task inside where none is named
# L1's published data has both wordings, the second for LCPO-Max.
LENGTH_TEXTS = {"exact": " Think for {n} tokens.", "max": " Think for maximum {n} tokens."}
MODE_TEXTS = {
    ThinkingMode.ON: "/think",
    ThinkingMode.OFF: "/no_think",
    ThinkingMode.BUDGET: "/think Think for at most {n} tokens.",
}


class _Lengths(BaseModel):
    model_config = ConfigDict(frozen=True, extra="allow")
    dataset: str = DEFAULT
    target_range: tuple[Tokens, Tokens] = (100, 4000)  # L1's
    targets: tuple[Tokens, ...] = ()  # to draw from instead of the range, as INTELLECT-2 does
    target_seed: int = 0

    @model_validator(mode="after")
    def _range_is_ordered(self) -> _Lengths:
        if self.target_range[0] > self.target_range[1]:
            raise ValueError(f"target_range = {list(self.target_range)}, but the fewest tokens come first")
        return self

    def tokens(self, draw: random.Random) -> int:
        return draw.choice(self.targets) if self.targets else draw.randint(*self.target_range)

    @property
    def own(self) -> dict[str, JSON]:
        """Our arguments, without the task's name and those of the task inside."""
        given: dict[str, JSON] = self.model_dump(mode="json", exclude={"dataset", *(self.model_extra or {})})
        return given


class LengthTarget(_Lengths):
    """Arguments of `length_target`. `target_text`: exact or max (L1's words), or words of your own with {n}, after the prompt."""

    target_text: str = "exact"

    @property
    def words(self) -> str:
        return LENGTH_TEXTS.get(self.target_text, self.target_text)

    @model_validator(mode="after")
    def _says_how_many(self) -> LengthTarget:
        if "{n}" not in self.words:
            raise ValueError(f"target_text = {self.target_text!r}; give {', '.join(LENGTH_TEXTS)}, or a text with {{n}} in it")
        return self

    def ask(self, problem: Problem) -> Problem:
        target = self.tokens(rng("length target", self.target_seed, problem.id))
        prompt = _after(problem.prompt, self.words.replace("{n}", str(target)))
        return replace(problem, prompt=prompt, metadata={**problem.metadata, "target_tokens": target})


class Thinking(_Lengths):
    """Arguments of `thinking`. `modes`: how often each is asked for, as weights; `mode_texts` replaces their words.

    `mode_place`: a system message of its own (before the task's, if there is one), or behind the prompt. The verifier `thinking`
    joins the task's with `mode_weight`, and `mode_bare` as its `bare`; what evaluation counts stays the task's first.
    """

    modes: dict[ThinkingMode, Annotated[float, Field(ge=0.0)]] = {ThinkingMode.ON: 1.0, ThinkingMode.OFF: 1.0}
    mode_texts: dict[ThinkingMode, str] = {}
    mode_place: Literal["system", "user"] = "system"
    mode_weight: Annotated[float, Field(ge=0.0)] = 0.5
    mode_bare: bool = False

    @model_validator(mode="after")
    def _modes_can_be_drawn(self) -> Thinking:
        if not sum(self.modes.values()) > 0:
            raise ValueError(f"modes = {self.modes}; give at least one mode a weight above 0, e.g. {{on = 1, off = 1}}")
        if self.modes.get(ThinkingMode.BUDGET) and "{n}" not in self.words(ThinkingMode.BUDGET):
            raise ValueError(f"mode_texts.budget = {self.words(ThinkingMode.BUDGET)!r}; it must say {{n}}, the number of tokens")
        return self

    def words(self, mode: ThinkingMode) -> str:
        return self.mode_texts.get(mode, MODE_TEXTS[mode])

    def ask(self, problem: Problem) -> Problem:
        draw = rng("thinking mode", self.target_seed, problem.id)
        mode = draw.choices(tuple(ThinkingMode), [self.modes.get(one, 0.0) for one in ThinkingMode])[0]
        metadata: dict[str, JSON] = {**problem.metadata, "thinking": str(mode)}
        text = self.words(mode)
        if mode is ThinkingMode.BUDGET:
            metadata["target_tokens"] = self.tokens(draw)
            text = text.replace("{n}", str(metadata["target_tokens"]))
        place = _after(problem.prompt, f" {text}") if self.mode_place == "user" else _before(problem.prompt, text)
        return replace(problem, prompt=place, metadata=metadata)


@dataclass(frozen=True, slots=True)
class AskedProblems:
    """The problems of another source, each with a wish in its prompt."""

    inner: ProblemSource
    ask: Callable[[Problem], Problem]

    @property
    def is_endless(self) -> bool:
        return self.inner.is_endless

    @property
    def splits(self) -> tuple[str, ...]:
        return self.inner.splits

    def problems(self, split: str, limit: int | None) -> Sequence[Problem]:
        return [self.ask(problem) for problem in self.inner.problems(split, limit)]

    def problem(self, split: str, index: int) -> Problem:
        return self.ask(self.inner.problem(split, index))

    def varied(self, problem: Problem, split: str, rng: random.Random) -> Problem | None:
        changed = self.inner.varied(problem, split, rng)
        return None if changed is None else self.ask(changed)

    def notes(self) -> tuple[str, ...]:
        return self.inner.notes()


def length_target(args: Mapping[str, JSON]) -> Task:
    """The task plugin `length_target`: prompts ask for a number of tokens, drawn from `target_range` or `targets`.

    Raises:
        TaskError: a wrong argument, ours or of the task inside.

    Source: L1, arXiv:2503.04697, section 3 (100 to 4000 tokens, "Think for N tokens."); "Think for maximum N tokens." is from the
    data that was published with it. INTELLECT-2, arXiv:2505.07291, draws from a few targets.
    """
    wish = _parsed(LengthTarget, args)
    return _around("length_target", wish, wish.ask, is_named="dataset" in args)


def thinking(args: Mapping[str, JSON]) -> Task:
    """The task plugin `thinking`: prompts switch reasoning on or off, or give it a budget of tokens.

    Raises:
        TaskError: a wrong argument, ours or of the task inside.

    Source: `/think` and `/no_think` are Qwen3's words, arXiv:2505.09388, which puts them into the user's or the system's message.
    """
    wish = _parsed(Thinking, args)
    task = _around("thinking", wish, wish.ask, is_named="dataset" in args)
    judge = VerifierConfig(name="thinking", weight=wish.mode_weight, args={"bare": wish.mode_bare})
    return replace(task, verifiers=(*task.verifiers, judge))


def _parsed(kind: type[Any], args: Mapping[str, JSON]) -> Any:
    try:
        return kind.model_validate(dict(args))
    except ValidationError as error:
        raise TaskError(f"task {kind.__name__}, arguments: {explain(error)}") from error


def _around(name: str, wish: _Lengths, ask: Callable[[Problem], Problem], *, is_named: bool) -> Task:
    from rlvr.envs.tasks.load import load_task  # it loads us

    inner = load_task(wish.dataset, wish.model_extra or {})
    return replace(
        inner,
        name=f"{name}:{inner.name}" if is_named else name,
        description=f"{inner.description} Prompts say how to think ({name}).",
        args={**inner.args, **wish.own},
        source=AskedProblems(inner.source, ask),
    )


def _after(prompt: tuple[Message, ...], text: str) -> tuple[Message, ...]:
    return (*prompt[:-1], replace(prompt[-1], content=prompt[-1].content + text))


def _before(prompt: tuple[Message, ...], text: str) -> tuple[Message, ...]:
    if prompt[0].role == "system":
        return (replace(prompt[0], content=f"{text}\n\n{prompt[0].content}"), *prompt[1:])
    return (Message("system", text), *prompt)
