"""`check_verifier`: golden cases, and the rules that every verifier must keep."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from rlvr.errors import PluginError
from rlvr.registry import resolve
from rlvr.types import JSON, Message, Outcome, Problem, Rollout, Verdict
from rlvr.verifiers.base import Verifier, as_verifier
from rlvr.verifiers.call import call_verifier
from rlvr.verifiers.pool import WorkerPool
from rlvr.verifiers.settings import check_settings

MAX_DETAILS_CHARS = 10_000
MAX_SHOWN = 20

EMPTY_RESPONSES = ("", " \n\t", "<answer></answer>", "<think></think>", "\\boxed{}", "####", "The answer is")
HOSTILE_RESPONSES = (
    "\x00\x01\x02",
    "\ud800 lone surrogate \udfff",
    "\u202e\u200b\ufeff",
    "a" * 200_000,
    " " * 200_000,
    "{" * 50_000,
    "\\boxed{" * 20_000,
    "\\boxed{" * 1_000 + "1" + "}" * 1_000,
    "<think>" * 20_000,
    "<answer>" * 20_000 + "</answer>" * 20_000,
    "<answer>" + "(" * 50_000 + "</answer>",
    "<answer>" + "9" * 50_000 + "</answer>",
    "\\boxed{9^{9^{9^{9}}}}",
    "\\boxed{9**9**9**9}",
    "\\boxed{" + "1+" * 20_000 + "1}",
    "\\boxed{1e999999999}",
    "\\boxed{100000000!}",
    "<answer>nan</answer>",
    "<answer>1/0</answer>",
    "<answer>__import__('os')._exit(7)</answer>",
    "\\boxed{__import__('os')._exit(7)}",
    "1 or " * 20_000,
    "the answer is " * 20_000,
    "$" * 20_001,
    "1," * 50_000 + "1",
)


_Job: TypeAlias = tuple[Problem, str, Mapping[str, JSON]]


@dataclass(frozen=True, slots=True)
class Case:
    """A golden case: what the verifier must find, and `why`."""

    problem: Problem
    response: str
    outcome: Outcome
    why: str
    where: str
    score: float | None = None
    settings: Mapping[str, JSON] = field(default_factory=dict)


def check_verifier(
    verifier: Verifier | Callable[..., Verdict] | str,
    cases: str | Path | Sequence[Mapping[str, JSON]],
    *,
    timeout_s: float = 10.0,
) -> None:
    """Grade golden cases, and check the rules that hold for every verifier.

    A case, or a line of a JSONL file of cases, has `answer`, `response`, `outcome` and `why`, and may have `prompt`, `metadata`,
    `score` and `settings`. The rules: an empty response, or an echo of the prompt, is not correct; the same rollout gets the same
    verdict again; no hostile text makes the verifier fail; correct scores 1, incorrect and unparsed 0, partial between; what
    is not correct has a reason; details are JSON and small.

    Isolated verifiers that other processes can find run in a worker, the others here.

    Raises:
        AssertionError: lists what is wrong.
        ValueError: a case is malformed.
    """
    found = _verifier(verifier)
    golden = list(_read(cases))
    if not golden:
        raise ValueError("no golden cases to check with")
    for case in golden:
        check_settings(found, case.settings)
    jobs = [(case.problem, case.response, case.settings) for case in golden]
    extra = _general_jobs(golden)
    verdicts = _grade(found, [*jobs, *extra, *jobs, *extra], timeout_s)
    once, again = verdicts[: len(verdicts) // 2], verdicts[len(verdicts) // 2 :]
    problems = [
        *_wrong_cases(golden, once),
        *_broken_rules(extra, once[len(jobs) :]),
        *_unstable([*jobs, *extra], once, again),
    ]
    if problems:
        shown = "\n".join(f"- {problem}" for problem in problems[:MAX_SHOWN])
        rest = f"\n... and {len(problems) - MAX_SHOWN} more" if len(problems) > MAX_SHOWN else ""
        raise AssertionError(f"verifier {found.name!r}: {len(problems)} problems\n{shown}{rest}")


def _general_jobs(cases: Sequence[Case]) -> list[_Job]:
    """Empty responses and hostile ones to the first problem; then, for each case with a prompt, its echo."""
    first = cases[0]
    texts = (*EMPTY_RESPONSES, *HOSTILE_RESPONSES)
    echoes = [(case.problem, "\n".join(message.content for message in case.problem.prompt), case.settings) for case in cases]
    return [*((first.problem, text, first.settings) for text in texts), *(echo for echo in echoes if echo[1])]


def _wrong_cases(cases: Sequence[Case], verdicts: Sequence[Verdict]) -> Iterator[str]:
    for case, verdict in zip(cases, verdicts, strict=False):
        got = f"{verdict.outcome}, score {verdict.score}, extracted {verdict.extracted!r} ({verdict.reason})"
        if verdict.outcome is not case.outcome or (case.score is not None and verdict.score != case.score):
            wanted = f"{case.outcome}" + ("" if case.score is None else f", score {case.score}")
            yield f"{case.where}: wanted {wanted}; got {got}. {case.why}. Response: {case.response[:200]!r}"


def _broken_rules(jobs: Sequence[_Job], verdicts: Sequence[Verdict]) -> Iterator[str]:
    for position, ((_, text, _), verdict) in enumerate(zip(jobs, verdicts, strict=True)):
        is_correct = verdict.outcome is Outcome.CORRECT
        if position < len(EMPTY_RESPONSES):
            if is_correct:
                yield f"an empty response is correct: {_shown(text)}"
        elif position < len(EMPTY_RESPONSES) + len(HOSTILE_RESPONSES):
            if verdict.outcome is Outcome.VERIFIER_ERROR:
                yield f"fails on {_shown(text)}: {verdict.reason}"
        elif is_correct:
            yield f"an echo of the prompt is correct: {_shown(text)}"


def _unstable(jobs: Sequence[_Job], once: Sequence[Verdict], again: Sequence[Verdict]) -> Iterator[str]:
    for (_, text, _), verdict, other in zip(jobs, once, again, strict=True):
        if _content(verdict) != _content(other):
            yield f"two verdicts on {_shown(text)}: {_content(verdict)} and {_content(other)}"
        yield from (f"{rule}, on {_shown(text)}" for rule in _broken_invariants(verdict))


def _shown(text: str) -> str:
    return f"{text[:60]!r} ({len(text)} characters)"


def _broken_invariants(verdict: Verdict) -> Iterator[str]:
    expected = {Outcome.CORRECT: 1.0, Outcome.INCORRECT: 0.0, Outcome.UNPARSED: 0.0}
    if verdict.outcome in expected and verdict.score != expected[verdict.outcome]:
        yield f"{verdict.outcome} with score {verdict.score}; it must be {expected[verdict.outcome]}"
    if verdict.outcome is Outcome.PARTIAL and verdict.score in (0.0, 1.0):
        yield f"partial with score {verdict.score}; it must lie between 0 and 1"
    if verdict.outcome is not Outcome.CORRECT and not verdict.reason:
        yield f"{verdict.outcome} without a reason"
    try:
        details = json.dumps(dict(verdict.details))
    except (TypeError, ValueError) as error:
        yield f"details are not JSON: {error}"
    else:
        if len(details) > MAX_DETAILS_CHARS:
            yield f"details of {len(details)} characters; keep them under {MAX_DETAILS_CHARS}"


def _grade(verifier: Verifier, jobs: Sequence[_Job], timeout_s: float) -> list[Verdict]:
    reference = _reachable(verifier) if verifier.isolated else None
    if reference is None:
        return [call_verifier(verifier, Rollout.from_response(problem, text), settings) for problem, text, settings in jobs]
    return asyncio.run(_grade_in_workers(verifier, reference, jobs, timeout_s))


async def _grade_in_workers(verifier: Verifier, reference: str, jobs: Sequence[_Job], timeout_s: float) -> list[Verdict]:
    pool = WorkerPool([reference], workers=2, timeout_s=timeout_s, retries=1, memory_mb=4096)
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(pool.grade(verifier.name, reference, Rollout.from_response(problem, text), settings))
                for problem, text, settings in jobs
            ]
    finally:
        await pool.close()
    return [task.result() for task in tasks]


def _reachable(verifier: Verifier) -> str | None:
    """The reference by which a worker process finds the verifier, if there is one."""
    try:
        plugin = resolve("verifiers", verifier.name)
    except PluginError:
        return None
    is_importable = "<locals>" not in plugin.reference and not plugin.reference.startswith(("__main__", "?"))
    return plugin.reference if plugin.target is verifier and is_importable else None


def _content(verdict: Verdict) -> tuple[object, ...]:
    return verdict.outcome, verdict.score, verdict.extracted, verdict.reason, json.dumps(dict(verdict.details), default=repr)


def _verifier(verifier: Verifier | Callable[..., Verdict] | str) -> Verifier:
    if isinstance(verifier, str):
        return as_verifier(resolve("verifiers", verifier))
    return verifier if isinstance(verifier, Verifier) else Verifier(getattr(verifier, "__name__", "verifier"), verifier)


def _read(cases: str | Path | Sequence[Mapping[str, JSON]]) -> Iterator[Case]:
    rows: Iterable[tuple[str, Any]]
    if isinstance(cases, (str, Path)):
        lines = Path(cases).read_text(encoding="utf-8").splitlines()
        rows = ((f"{Path(cases).name}:{number}", json.loads(line)) for number, line in enumerate(lines, 1) if line.strip())
    else:
        rows = ((f"case {number}", row) for number, row in enumerate(cases, 1))
    for where, row in rows:
        missing = {"answer", "response", "outcome", "why"} - row.keys()
        unknown = row.keys() - {"answer", "response", "outcome", "why", "prompt", "metadata", "score", "settings"}
        if missing or unknown:
            raise ValueError(f"{where}: missing {sorted(missing)}, unknown {sorted(unknown)}")
        prompt = (Message("user", row["prompt"]),) if row.get("prompt") else ()
        problem = Problem(where, prompt, row["answer"], row.get("metadata", {}))
        yield Case(
            problem, row["response"], Outcome(row["outcome"]), row["why"], where, row.get("score"), row.get("settings", {})
        )
