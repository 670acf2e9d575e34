"""Prove that a task can be trained and measured on, without a model.

For every problem: a response made from the gold answer passes the task's own verifier, an empty response does not, and
the gold response of another problem does not. A verifier that grades the form (constraints, layout) is another matter: a
response to one problem may well fit another, and where none is known that must pass, the verifier only has to be able to grade,
and the report counts these problems; so does one that runs tests for which no reference program is known. For every split:
ids are distinct and prompts have text; no test prompt is also a training prompt.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from rlvr.envs.tasks import Task
from rlvr.errors import TaskError
from rlvr.registry import resolve
from rlvr.types import JSON, Outcome, Problem, Rollout
from rlvr.verifiers.base import as_verifier
from rlvr.verifiers.runner import Grader, WeightedVerifier

ENDLESS_LIMIT = 500  # problems of each split of an endless task when no limit is given
OTHERS = 3  # gold responses of so many other problems are tried as wrong ones
AT_ONCE = 64
PROBE = "A response."  # graded where no gold response is known


class Fault(StrEnum):
    """What is wrong with a problem."""

    GOLD_FAILS = "gold_fails"  # the verifier refuses the gold answer
    VERIFIER_ERROR = "verifier_error"  # the verifier cannot grade the gold answer
    EMPTY_PASSES = "empty_passes"
    WRONG_PASSES = "wrong_passes"
    DUPLICATE_ID = "duplicate_id"
    EMPTY_PROMPT = "empty_prompt"
    TEST_IN_TRAIN = "test_in_train"  # the same prompt stands in both splits


@dataclass(frozen=True, slots=True)
class Finding:
    """One fault of one problem, and what was seen."""

    problem_id: str
    fault: Fault
    detail: str


@dataclass(frozen=True, slots=True)
class SplitReport:
    """What was checked in one split, and every fault that was found."""

    split: str
    problems: int
    findings: tuple[Finding, ...]
    without_gold: int = 0  # problems for which no response is known that must pass


async def validate(
    task: Task,
    splits: Sequence[str] = (),
    *,
    limit: int | None = None,
    workers: int = 2,
    on_problem: Callable[[str, int, int], None] = lambda split, done, total: None,
) -> list[SplitReport]:
    """Check the first `limit` problems of each split; all of a data set and `ENDLESS_LIMIT` of an endless task by default.

    `on_problem(split, done, total)` is called after every problem.

    Raises:
        TaskError: the data cannot be read, or the gold answers are no text and the adapter has no `gold_response`.
        PluginError, ConfigError: the task's verifier cannot be used.
        SandboxError: it runs code, and this machine has no sandbox.
    """
    limit = ENDLESS_LIMIT if limit is None and task.is_endless else limit
    problems = {split: task.problems(split, limit=limit) for split in splits or task.splits}
    first = task.verifiers[0]
    reports = []
    async with Grader([WeightedVerifier(first.name, 1.0, first.args)], workers=workers) as grader:
        await asyncio.to_thread(grader.prepare)
        for split, found in problems.items():
            checker = _Checker(task, found, grader)
            findings = _prompt_faults(found)
            if split == "test" and "train" in problems:
                findings += _shared_prompts(found, problems["train"])
            findings += await checker.check_all(_counter(on_problem, split, len(found)))
            reports.append(SplitReport(split, len(found), tuple(findings), checker.without_gold))
    return reports


def grades_form(task: Task) -> bool:
    """Whether the task's first verifier grades how a response is written, so that many responses are right."""
    return as_verifier(resolve("verifiers", task.verifiers[0].name)).grades == "form"


def gold_response(task: Task, problem: Problem) -> str | None:
    """A response that says the gold answer in the form that the task's first verifier reads; None where none is known, which
    only a verifier that grades the form allows, or one that runs tests.

    For tests it is the reference program in `metadata["solution"]`.

    Raises:
        TaskError: the gold answer is neither text nor a number, and the adapter has no `gold_response` of its own.
    """
    made = task.adapter.gold_response(problem)
    if made is not None:
        return made
    if grades_form(task):
        return None
    if task.verifiers[0].name == "code":
        solution = problem.metadata.get("solution")
        language = task.verifiers[0].args.get("language", "python")
        return f"```{language}\n{solution}\n```" if isinstance(solution, str) else None
    if isinstance(problem.answer, bool) or not isinstance(problem.answer, str | int | float):
        raise TaskError(f"task {task.name}, problem {problem.id}: the gold answer is no text; give the adapter a gold_response")
    if task.verifiers[0].args.get("extract") == "answer_tag":
        return f"<answer>{problem.answer}</answer>"
    return f"\\boxed{{{problem.answer}}}"


class _Checker:
    def __init__(self, task: Task, problems: Sequence[Problem], grader: Grader) -> None:
        self._problems, self._grader = problems, grader
        self._golds = [gold_response(task, problem) for problem in problems]
        self._is_form = grades_form(task)
        self.without_gold = self._golds.count(None)

    async def check_all(self, on_done: Callable[[], None]) -> list[Finding]:
        slots = asyncio.Semaphore(AT_ONCE)

        async def check(index: int) -> list[Finding]:
            async with slots:
                found = await self._check(index)
            on_done()
            return found

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(check(index)) for index in range(len(self._problems))]
        return [finding for task in tasks for finding in task.result()]

    async def _check(self, index: int) -> list[Finding]:
        problem = self._problems[index]
        findings = await self._check_gold(index)
        if await self._passes(problem, ""):
            findings.append(Finding(problem.id, Fault.EMPTY_PASSES, "an empty response is graded correct"))
        wrong = self._wrong_responses(index)
        if wrong and await self._all_pass(problem, wrong):
            findings.append(Finding(problem.id, Fault.WRONG_PASSES, f"other problems' answers are graded correct: {wrong!r}"))
        return findings

    async def _all_pass(self, problem: Problem, responses: Sequence[str]) -> bool:
        for response in responses:
            if not await self._passes(problem, response):
                return False
        return True

    async def _check_gold(self, index: int) -> list[Finding]:
        problem, gold = self._problems[index], self._golds[index]
        response = PROBE if gold is None else gold
        rollout = Rollout.from_response(problem, response)
        await self._grader.grade(rollout)
        verdict = next(iter(rollout.verdicts.values()))
        if verdict.outcome is Outcome.CORRECT or (gold is None and verdict.outcome is not Outcome.VERIFIER_ERROR):
            return []
        fault = Fault.VERIFIER_ERROR if verdict.outcome is Outcome.VERIFIER_ERROR else Fault.GOLD_FAILS
        return [Finding(problem.id, fault, f"{verdict.outcome} for {response[-200:]!r}: {verdict.reason}")]

    async def _passes(self, problem: Problem, response: str) -> bool:
        rollout = Rollout.from_response(problem, response)
        await self._grader.grade(rollout)
        return next(iter(rollout.verdicts.values())).outcome is Outcome.CORRECT

    def _wrong_responses(self, index: int) -> list[str]:
        """Several, because two golds may be written differently and mean the same."""
        if self._is_form:
            return []
        answer: JSON = self._problems[index].answer
        count = len(self._problems)
        others = [(index + step) % count for step in range(1, min(count, 10 * OTHERS))]
        golds = (self._golds[i] for i in others if self._problems[i].answer != answer)
        return [gold for gold in golds if gold is not None][:OTHERS]


def _prompt_faults(problems: Sequence[Problem]) -> list[Finding]:
    findings, seen = [], set()
    for problem in problems:
        if problem.id in seen:
            findings.append(Finding(problem.id, Fault.DUPLICATE_ID, "an earlier problem of this split has the same id"))
        seen.add(problem.id)
        if not any(message.content.strip() for message in problem.prompt):
            findings.append(Finding(problem.id, Fault.EMPTY_PROMPT, "the prompt has no text"))
    return findings


def _shared_prompts(test: Sequence[Problem], train: Sequence[Problem]) -> list[Finding]:
    known = {problem.prompt: problem.id for problem in train}
    return [
        Finding(problem.id, Fault.TEST_IN_TRAIN, f"the same prompt is {known[problem.prompt]} of train")
        for problem in test
        if problem.prompt in known
    ]


def _counter(on_problem: Callable[[str, int, int], None], split: str, total: int) -> Callable[[], None]:
    done = 0

    def count() -> None:
        nonlocal done
        done += 1
        on_problem(split, done, total)

    return count
