"""The same problems with other numbers: who has learned answers by heart does worse on them, and who can calculate does not.

Tasks that draw their problems draw others of the same form (`rlvr.envs.tasks.adapter.Generator.vary`). Of those with rows, two
kinds can be changed without a person: prompts that are an expression (`748*51?`), and word problems whose working
is known (`metadata["working"]`, as GSM8K has it). Of the latter a number is changed only where it stands in the question once,
and the working calculates with it, and it is none that also counts something else (7 days, 12 months, 100 percent). Then the
working is calculated again. Problems for which any of that fails are left out, so what is left is easier to read than the whole.
What the words decide ("whichever is faster") is not checked: read a few before a claim rests on them.

Source: the idea is GSM-Symbolic's (Mirzadeh et al. 2024, arXiv:2410.05229), whose templates were written by people.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

from rlvr.envs.tasks import Task
from rlvr.errors import ConfigError
from rlvr.seeding import rng
from rlvr.types import Message, Problem
from rlvr.verifiers.arithmetic import ExpressionError, evaluate

TRIES = 200
_EXPRESSION = re.compile(r"([\d+\-*/() ]+)(\s*(?:=\s*)?\??\s*)")
_CALCULATION = re.compile(r"(?<![\d.,])(\(?\d+(?:\s*[-+*/]\s*\(?\d+\)?)+)\s*=\s*\$?(\d+)(?![\d.,]*\d)")
_NUMBER = re.compile(r"(?<![\w.,/%-])\d+(?![\w%/]|[.,:]\d|-\w)")
_COUNTS_SOMETHING = frozenset({1, 2, 7, 10, 12, 24, 30, 31, 50, 52, 60, 100, 365, 1000})
_LARGEST_FACTOR = 3


def with_other_numbers(
    problems: Sequence[Problem], seed: int = 0, *, task: Task | None = None, split: str = "test"
) -> list[Problem]:
    """Those problems that can be changed, under their own ids, with other numbers and the answer that belongs to them.

    A `task` that draws its problems makes them itself, within the same `split`, so that none of them can have been trained on.

    Raises:
        ConfigError: none of them can be.
    """
    changes = (_changed(problem, seed, task, split) for problem in problems)
    found = [changed for changed in changes if changed is not None]
    if not found:
        raise ConfigError(
            "none of these problems can be put with other numbers: that takes a task that draws them, a prompt that is "
            "an expression, or a known working"
        )
    return found


def _changed(problem: Problem, seed: int, task: Task | None, split: str) -> Problem | None:
    if task is not None and (changed := task.with_other_numbers(problem, split, seed)) is not None:
        return changed
    return None if task is not None and task.is_endless else perturbed(problem, seed)


def perturbed(problem: Problem, seed: int = 0) -> Problem | None:
    """The problem with other numbers; None where that cannot be done safely."""
    draws = rng("other numbers", problem.id, seed)
    text = problem.prompt[-1].content
    if (match := _EXPRESSION.fullmatch(text)) is not None:
        return _expression(problem, match[1], match[2], draws)
    working = problem.metadata.get("working")
    return _word_problem(problem, text, working, draws) if isinstance(working, str) else None


def _expression(problem: Problem, expression: str, end: str, draws: random.Random) -> Problem | None:
    old = _values(expression)
    if old is None or str(problem.answer) != str(old[-1]):
        return None
    for _ in range(TRIES):
        changed = re.sub(r"\d+", lambda number: _as_long(number[0], draws), expression)
        new = _values(changed)
        if new is not None and new[-1] != old[-1] and _is_alike(old, new):
            return _with(problem, changed + end, str(new[-1]))
    return None


def _is_alike(old: Sequence[int], new: Sequence[int]) -> bool:
    """Within what the task asks already: nothing on the way much larger than before, and nothing negative unless it was."""
    return max(new) <= 2 * max(10, *old) and min(new) >= min(0, *old) and len(str(new[-1])) <= len(str(old[-1])) + 1


def _values(expression: str) -> list[int] | None:
    """The values of the expression's beginnings, as far as they are whole expressions, and its own last."""
    found = []
    for place in [*(match.start() for match in re.finditer(r"[-+*/]", expression)), len(expression)]:
        try:
            value = evaluate(expression[:place]).value
        except ExpressionError:
            continue
        if value.denominator != 1:
            return None
        found.append(int(value))
    return found or None


@dataclass(frozen=True, slots=True)
class _Calculation:
    expression: str
    result: int


def _word_problem(problem: Problem, text: str, working: str, draws: random.Random) -> Problem | None:
    steps = [_Calculation(expression, int(result)) for expression, result in _CALCULATION.findall(working)]
    answer = str(problem.answer).replace(",", "")
    if not steps or str(steps[-1].result) != answer or _again(steps, {}) != [step.result for step in steps]:
        return None
    names = _changeable(text, steps)
    if not names:
        return None
    for _ in range(TRIES):
        new = {name: draws.randint(max(3, name // 2), max(name + 2, name * 2)) for name in names}
        results = _again(steps, new)
        if results is None or results[-1] == steps[-1].result or len(set(new.values())) < len(new):
            continue
        if all(now <= _LARGEST_FACTOR * max(was.result, 3) for now, was in zip(results, steps, strict=True)):
            return _with(problem, _replaced(text, new), str(results[-1]))
    return None


def _replaced(text: str, new: dict[int, int]) -> str:
    return _NUMBER.sub(lambda found: str(new.get(int(found[0]), found[0])), text)


def _changeable(text: str, steps: Sequence[_Calculation]) -> list[int]:
    shown = [int(number) for number in _NUMBER.findall(text)]
    everywhere = [int(number) for number in re.findall(r"\d+", text)]
    used = {int(number) for step in steps for number in re.findall(r"\d+", step.expression)}
    results = {step.result for step in steps}
    return [
        number
        for number in shown
        if everywhere.count(number) == 1 and number in used and number not in results and number not in _COUNTS_SOMETHING
    ]


def _again(steps: Sequence[_Calculation], new: dict[int, int]) -> list[int] | None:
    """The results of the working with `new` numbers; None where one of them is not a positive whole number."""
    known = dict(new)
    results = []
    for step in steps:
        expression = re.sub(r"\d+", lambda number: str(known.get(int(number[0]), int(number[0]))), step.expression)
        try:
            value: Fraction = evaluate(expression).value
        except ExpressionError:
            return None
        if value.denominator != 1 or value <= 0:
            return None
        known[step.result] = int(value)
        results.append(int(value))
    return results


def _as_long(number: str, draws: random.Random) -> str:
    if len(number) == 1:
        return str(draws.randint(1, 9))
    return str(draws.randint(10 ** (len(number) - 1), 10 ** len(number) - 1))


def _with(problem: Problem, text: str, answer: str) -> Problem:
    prompt = (*problem.prompt[:-1], Message(problem.prompt[-1].role, text))
    return replace(problem, prompt=prompt, answer=answer, metadata={"other_numbers": True})
