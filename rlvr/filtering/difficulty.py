"""Offline difficulty: sample every problem, keep those that are neither hopeless nor solved."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

from rlvr.errors import ConfigError, EvaluationError
from rlvr.filtering.pass_rates import PassRate, PassRateFile, PassRates, digest_of
from rlvr.filtering.stopping import Stopping, fit_spread
from rlvr.filtering.window import PILOT, Window
from rlvr.seeding import Part
from rlvr.types import JSON, Group, Problem, Rollout, Sampling


class RunsGroups(Protocol):
    """What the filter needs of the rollout loop (`rlvr.envs.rollout.RolloutRunner`)."""

    async def run(self, problem: Problem, sample_index: int, sampling: Sampling, *seed_parts: Part) -> Rollout: ...


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
    epsilon: float | None = None,
    max_unscored: float = 0.02,
    on_start: Callable[[int, int], None] | None = None,
    on_group: Callable[[Group], None] | None = None,
) -> PassRates:
    """Sample every problem `n` times and append its pass rate to `out` as soon as it is known.

    With an `epsilon` a problem's sampling ends early: after a pilot of all problems, all `n` samples are expected to decide
    otherwise about the window `keep` for at most that share of them (`stopping.Stopping`); 0 ends it only when they cannot.
    An `out` that exists is taken up: problems in it are not sampled again, except those with unscored rollouts, which
    were our fault. One that is decided for another window or epsilon, but not for this, is sampled further.
    Seeds depend on (seed, problem, sample) alone, so the result is that of an uninterrupted run.
    `on_start` is told the number of problems and how many of them need no sampling any more, `on_group` the new rollouts of
    each problem that is done.
    `settings` says what else must not change in between (model, task, split ...); the window may.

    Raises:
        ConfigError: no problems, or `out` was measured with other settings (it says which).
        EvaluationError: more than `max_unscored` of all rollouts have no score; what was measured is kept.
    """
    keep = keep or Window()
    ids = [problem.id for problem in problems]
    if not problems:
        raise ConfigError("there are no problems to filter; check the split and the limit")
    drawn = {name: value for name, value in asdict(sampling).items() if name != "seed"}
    if epsilon is not None and not 0.0 <= epsilon < 0.5:
        raise ConfigError(f"epsilon = {epsilon}, but a probability of another decision from 0 to below 0.5 is needed")
    if epsilon is not None and Stopping(keep, epsilon).more(0, 0, n) == 0:
        epsilon = None  # the window tells no problems apart, so it is the pass rates themselves that are asked for
    with PassRateFile(out, {**settings, "n": n, "seed": seed, "sampling": drawn}, keep, epsilon) as file:

        def to_decide(problem: Problem) -> int:
            """Samples that are needed before a decision can be possible."""
            found = current.get(problem.id)
            return file.stopping.more(0, 0, n) if found is None else found.more(file.stopping, n)

        def to_pilot(problem: Problem) -> int:
            found = current.get(problem.id)
            return max(0, PILOT - (found.n if found is not None else 0))

        for problem in problems:
            _check_unchanged(out, problem, file.found.get(problem.id))
        current = {id: found for id, found in file.found.items() if not found.unscored}
        has_pilot = bool(epsilon) and n > PILOT and file.stopping.spread is None
        waiting = [problem for problem in problems if to_decide(problem) or (has_pilot and to_pilot(problem))]
        if on_start is not None:
            on_start(len(problems), len(problems) - len(waiting))
        unscored = 0
        causes: list[str] = []
        done: dict[str, list[Rollout]] = {problem.id: [] for problem in waiting}

        async def sample(problem: Problem, wanted: Callable[[Problem], int]) -> None:
            nonlocal unscored
            found = current.get(problem.id)
            rollouts: list[Rollout] = []
            while count := wanted(problem):
                first = found.n if found is not None else 0
                indices = range(first, first + count)
                more = await asyncio.gather(*(runner.run(problem, index, sampling, "filter", seed) for index in indices))
                rollouts += more
                seen = PassRate.of(Group(problem, tuple(more)))
                found = current[problem.id] = seen if found is None else found.plus(seen)
            if found is None or not rollouts:
                return
            file.append(found)
            done[problem.id] += rollouts
            failed = [rollout for rollout in rollouts if not rollout.is_scored]
            unscored += len(failed)
            causes.extend(f"problem {problem.id}: {rollout.error or _reason(rollout)}" for rollout in failed)
            if unscored > max_unscored * n * len(problems):
                raise EvaluationError(
                    f"{unscored} rollouts could not be scored, more than max_unscored = {max_unscored:.1%} of all; the rest "
                    f"is kept in {out}, and the same command goes on from there. First causes: "
                    + "; ".join(dict.fromkeys(causes[:3]))
                )

        async def decided(problem: Problem) -> None:
            await sample(problem, to_decide)
            if on_group is not None:
                on_group(Group(problem, tuple(done.pop(problem.id))))

        if has_pilot:
            await _all(lambda problem: sample(problem, to_pilot), waiting)
            file.use_spread(fit_spread((found.correct, found.n - found.unscored) for found in map(current.get, ids) if found))
            waiting = [problem for problem in problems if problem.id in done or to_decide(problem)]
        await _all(decided, waiting)
        return file.finish(ids)


def _check_unchanged(path: Path, problem: Problem, found: PassRate | None) -> None:
    if found is not None and found.digest not in ("", digest_of(problem)):
        raise ConfigError(
            f"problem {problem.id!r} is another one than {path} was measured on; choose another --out, or restore the task"
        )


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
