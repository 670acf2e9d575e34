"""Offline difficulty: sample every problem, keep those that are neither hopeless nor solved."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

from rlvr.errors import ConfigError, EvaluationError
from rlvr.filtering.pass_rates import PassRate, PassRateFile, PassRates, Window
from rlvr.seeding import Part
from rlvr.types import JSON, Group, Problem, Rollout, Sampling


class RunsGroups(Protocol):
    """What the filter needs of the rollout loop (`rlvr.envs.rollout.RolloutRunner`)."""

    async def run_group(self, problem: Problem, n: int, sampling: Sampling, *seed_parts: Part) -> Group: ...


async def measure_pass_rates(
    runner: RunsGroups,
    problems: Sequence[Problem],
    out: Path,
    *,
    n: int,
    sampling: Sampling,
    settings: Mapping[str, JSON],
    seed: int = 0,
    keep: Window | None = None,
    max_unscored: float = 0.02,
    on_start: Callable[[int, int], None] | None = None,
    on_group: Callable[[Group], None] | None = None,
) -> PassRates:
    """Sample every problem `n` times and append its pass rate to `out` as soon as it is known.

    An `out` that exists is taken up: problems in it are not sampled again, except those with unscored rollouts, which
    were our fault. Seeds depend on (seed, problem, sample) alone, so the result is that of an uninterrupted run.
    `on_start` is told the number of problems and how many of them need no sampling any more.
    `settings` says what else must not change in between (model, task, split ...); the window may.

    Raises:
        ConfigError: no problems, or `out` was measured with other settings (it says which).
        EvaluationError: more than `max_unscored` of all rollouts have no score; what was measured is kept.
    """
    keep = keep or Window()
    if not problems:
        raise ConfigError("there are no problems to filter; check the split and the limit")
    drawn = {name: value for name, value in asdict(sampling).items() if name != "seed"}
    with PassRateFile(out, {**settings, "n": n, "seed": seed, "sampling": drawn}, keep) as file:
        waiting = [problem for problem in problems if _is_open(file.found.get(problem.id))]
        if on_start is not None:
            on_start(len(problems), len(problems) - len(waiting))
        unscored = 0
        causes: list[str] = []

        async def one(problem: Problem) -> None:
            nonlocal unscored
            group = await runner.run_group(problem, n, sampling, "filter", seed)
            file.append(PassRate.of(group))
            failed = [rollout for rollout in group.rollouts if not rollout.is_scored]
            unscored += len(failed)
            causes.extend(f"problem {problem.id}: {rollout.error or _reason(rollout)}" for rollout in failed)
            if on_group is not None:
                on_group(group)
            if unscored > max_unscored * n * len(problems):
                raise EvaluationError(
                    f"{unscored} rollouts could not be scored, more than max_unscored = {max_unscored:.1%} of all; the rest "
                    f"is kept in {out}, and the same command goes on from there. First causes: "
                    + "; ".join(dict.fromkeys(causes[:3]))
                )

        await _all(one, waiting)
        return file.finish([problem.id for problem in problems])


def _is_open(found: PassRate | None) -> bool:
    return found is None or found.unscored > 0


def _reason(rollout: Rollout) -> str:
    return rollout.verdict.reason if rollout.verdict is not None else "no verifier graded it"


async def _all(work: Callable[[Problem], Coroutine[Any, Any, None]], problems: Sequence[Problem]) -> None:
    """Run everything at once; the first error ends the rest."""
    tasks = [asyncio.create_task(work(problem)) for problem in problems]
    # Not a TaskGroup: it would wrap the EvaluationError, which the user is meant to read, in an ExceptionGroup.
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
