"""Measure a policy on problems: pass@k, lengths and outcomes, with what could not be scored counted apart."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, TypeVar

from rlvr.errors import ConfigError, EvaluationError
from rlvr.evaluation.observer import Observer, SilentObserver
from rlvr.evaluation.passk import pass_at_k
from rlvr.evaluation.samples import PromptHash, Sample, Samples
from rlvr.evaluation.statistics import Estimate, estimate, paired_gain
from rlvr.evaluation.tally import Tally
from rlvr.seeding import Part
from rlvr.types import JSON, Group, Problem, Rollout, Sampling

T = TypeVar("T")


class Runs(Protocol):
    """What a measurement needs of the rollout loop (`rlvr.envs.rollout.RolloutRunner`)."""

    async def run(self, problem: Problem, sample_index: int, sampling: Sampling, *seed_parts: Part) -> Rollout: ...

    async def run_group(self, problem: Problem, n: int, sampling: Sampling, *seed_parts: Part) -> Group: ...


@dataclass(frozen=True, slots=True)
class Attempts:
    """All samples of one problem, and its greedy answer where one was asked for."""

    group: Group
    greedy: Rollout | None = None


@dataclass(frozen=True, slots=True)
class ProblemResult:
    """One problem's counts. `greedy_correct` is None without a scored greedy answer."""

    id: str
    scored: int
    correct: int
    tokens_mean: float
    greedy_correct: bool | None = None


@dataclass(frozen=True, slots=True)
class Measurement:
    """What was found.

    `pass_at[k]` averages over the problems with at least k scored samples, `greedy` over those with a scored greedy
    answer. `tally` counts the samples, `greedy_tally` the greedy answers. `samples` are those of each problem, without their
    text, and `prompts_sha256` is of the token ids that the model was given (None where a server renders).
    """

    n: int
    problems: tuple[ProblemResult, ...]
    pass_at: Mapping[int, Estimate]
    greedy: Estimate | None
    tokens: Estimate  # mean length of a response, in tokens
    tally: Tally
    greedy_tally: Tally
    wall_time_s: float
    samples: Samples = field(default_factory=dict)
    prompts_sha256: str | None = None

    def to_json(self) -> dict[str, JSON]:
        """The stable shape of `rlvr eval --json`, and of `before` and `after` in `summary.json`.

        - `pass@K`, `greedy` (where asked for), `tokens` (length of a response): `{"mean", "low", "high"}`, the interval at
          95 % over problems. Shares and pass@k are in [0, 1].
        - `outcomes`: share of all samples by outcome of the first verifier; what is missing from 1 failed before grading.
        - `verifiers`: mean score of each verifier over the samples that it scored.
        - `truncated_share`, `unscored_share`: of all samples. Unscored samples are in no pass@k.
        - `calls_mean`, `calling_share`, `useful_call_share` ...: tool calls, where there were any (see `Tally.call_fields`).
        - `problems`, `samples_per_problem`; `problems_measured`: problems with enough scored samples, by pass@K.
        - `counts`, `greedy_counts`: rollouts, scored, unscored, failed_rollouts, truncated, tokens, each outcome, and by
          kind the stops and the tool calls.
        - `wall_time_s`, `tokens_per_s`: sampled tokens, greedy ones included.
        """
        rollouts = max(self.tally.rollouts, 1)
        scores = self.tally.score_sums
        report: dict[str, JSON] = {f"pass@{k}": found.to_json() for k, found in self.pass_at.items()}
        if self.greedy is not None:
            report["greedy"] = self.greedy.to_json()
        return report | {
            "tokens": self.tokens.to_json(),
            "outcomes": {outcome.value: count / rollouts for outcome, count in self.tally.outcomes.items()},
            "verifiers": {name: scores[name] / self.tally.score_counts[name] for name in sorted(scores)},
            "truncated_share": self.tally.truncated / rollouts,
            "unscored_share": self.tally.unscored / rollouts,
            **(self.tally.call_fields() if self.tally.calling else {}),
            "problems": len(self.problems),
            "samples_per_problem": self.n,
            "problems_measured": {f"pass@{k}": found.n_problems for k, found in self.pass_at.items()},
            "counts": self.tally.to_json(),
            "greedy_counts": self.greedy_tally.to_json(),
            "wall_time_s": self.wall_time_s,
            "tokens_per_s": (self.tally.tokens + self.greedy_tally.tokens) / max(self.wall_time_s, 1e-9),
        }


def gain(before: Measurement, after: Measurement, *, seed: int = 0) -> dict[str, Estimate]:
    """after - before for every pass@k (and greedy) that both have, paired over the problems that both measured.

    Raises:
        ValueError: the two measurements share no problem.
    """
    sizes = [k for k in before.pass_at if k in after.pass_at]
    return gain_between(before.problems, after.problems, sizes, seed=seed)


def gain_between(
    before: Sequence[ProblemResult], after: Sequence[ProblemResult], k: Sequence[int], *, seed: int = 0
) -> dict[str, Estimate]:
    """`gain` from the problems' counts alone, as they are stored on disk."""
    pairs = {f"pass@{size}": (_pass_values(before, size), _pass_values(after, size)) for size in k}
    best_guesses = (_greedy_values(before), _greedy_values(after))
    if all(best_guesses):
        pairs["greedy"] = best_guesses
    gains = {}
    for name, (old, new) in pairs.items():
        shared = [id for id in old if id in new]
        gains[name] = paired_gain([old[id] for id in shared], [new[id] for id in shared], seed=seed)
    return gains


async def measure(
    runner: Runs,
    problems: Sequence[Problem],
    *,
    n: int,
    k: Sequence[int],
    sampling: Sampling,
    seed: int = 0,
    greedy: bool = False,
    max_unscored: float = 0.02,
    observer: Observer | None = None,
    stage: str = "evaluate",
    store: Callable[[Attempts], None] | None = None,
) -> Measurement:
    """Sample every problem `n` times, all problems at once, and count.

    The same `seed` draws the same random numbers for every policy, so that two measurements compare pairwise.
    `store` receives the attempts of each problem in the order of `problems`; nothing else keeps them, so memory does
    not grow with the number of samples. A problem with fewer than k scored samples is left out of pass@k, and
    `problems_measured` says how many stayed.

    Raises:
        ConfigError: no problems, two with one id, k outside 1..n, or n > 1 at temperature 0.
        EvaluationError: more than `max_unscored` of all rollouts cannot be scored (with the first causes; the rest is
            not waited for), or no problem has k scored samples.
    """
    k = tuple(sorted(set(k)))
    check_measurement(problems, n, k, sampling)
    observer = observer or SilentObserver()
    observer.stage(stage, len(problems))
    samples, greedy_answers = Tally(), Tally()
    allowed = max_unscored * len(problems) * (n + greedy)
    results: list[ProblemResult] = []
    kept: dict[str, tuple[Sample, ...]] = {}
    prompts = PromptHash()
    started = time.perf_counter()

    async def attempt(problem: Problem) -> Attempts:
        drawn = runner.run_group(problem, n, sampling, "evaluate", seed)
        if greedy:
            best_guess = runner.run(problem, 0, replace(sampling, temperature=0.0), "greedy", seed)
            attempts = Attempts(*await asyncio.gather(drawn, best_guess))
            greedy_answers.add([best for best in [attempts.greedy] if best is not None])
        else:
            attempts = Attempts(await drawn)
        samples.add(attempts.group.rollouts)
        observer.advance(1, **samples.fields(time.perf_counter() - started))
        return attempts

    def finish(attempts: Attempts) -> None:
        if store is not None:
            store(attempts)
        results.append(_result(attempts))
        rollouts = attempts.group.rollouts
        kept[attempts.group.problem.id] = tuple(Sample.of(rollout, seed) for rollout in rollouts)
        prompts.add(rollouts[0])
        if samples.unscored + greedy_answers.unscored > allowed:
            raise EvaluationError(_too_many_unscored(samples, greedy_answers, max_unscored))

    await _each_in_order((attempt(problem) for problem in problems), finish)
    found = _conclude(n, k, results, samples, greedy_answers, time.perf_counter() - started, seed)
    return replace(found, samples=kept, prompts_sha256=prompts.value())


def pooled(measurements: Sequence[Measurement], seed: int = 0) -> Measurement:
    """Several sample sets of one policy on the same problems as one set, larger by that factor.

    The greedy answers are those of the first: they do not depend on a seed.

    Raises:
        ValueError: no measurements, or of different problems.
        EvaluationError: no problem has enough scored samples for a k.
    """
    first, *others = measurements
    if not others:
        return first
    ids = [result.id for result in first.problems]
    if any([result.id for result in other.problems] != ids for other in others):
        raise ValueError("sample sets of different problems cannot be pooled")
    tally = Tally()
    for one in measurements:
        tally.absorb(one.tally)
    results = [_joined(rows) for rows in zip(*(one.problems for one in measurements), strict=True)]
    wall_time_s = sum(one.wall_time_s for one in measurements)
    n = sum(one.n for one in measurements)
    found = _conclude(n, tuple(first.pass_at), results, tally, first.greedy_tally, wall_time_s, seed)
    samples = {id: tuple(sample for one in measurements for sample in one.samples[id]) for id in ids}
    return replace(found, samples=samples, prompts_sha256=first.prompts_sha256)


def _joined(rows: Sequence[ProblemResult]) -> ProblemResult:
    return replace(
        rows[0],
        scored=sum(row.scored for row in rows),
        correct=sum(row.correct for row in rows),
        tokens_mean=sum(row.tokens_mean for row in rows) / len(rows),
    )


async def _each_in_order(work: Iterable[Coroutine[Any, Any, T]], use: Callable[[T], None]) -> None:
    """Run everything at once and hand over the results in order, each as soon as it and those before it are there."""
    tasks = deque(asyncio.create_task(one) for one in work)
    # Not a TaskGroup: it would wrap the EvaluationError, which the user is meant to read, in an ExceptionGroup.
    try:
        while tasks:
            use(await tasks[0])
            tasks.popleft()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _conclude(
    n: int,
    k: tuple[int, ...],
    results: list[ProblemResult],
    samples: Tally,
    greedy_answers: Tally,
    wall_time_s: float,
    seed: int,
) -> Measurement:
    pass_at = {}
    for size in k:
        values = _pass_values(results, size)
        if not values:
            raise EvaluationError(f"pass@{size} cannot be measured: no problem has {size} scored samples of {n}")
        pass_at[size] = estimate(list(values.values()), seed=seed)
    best_guesses = _greedy_values(results)
    return Measurement(
        n=n,
        problems=tuple(results),
        pass_at=pass_at,
        greedy=estimate(list(best_guesses.values()), seed=seed) if best_guesses else None,
        tokens=estimate([result.tokens_mean for result in results], seed=seed, bounds=None),
        tally=samples,
        greedy_tally=greedy_answers,
        wall_time_s=wall_time_s,
    )


def check_measurement(problems: Sequence[Problem], n: int, k: Sequence[int], sampling: Sampling) -> None:
    """What `measure` refuses, to be asked before a model is loaded.

    Raises:
        ConfigError: no problems, two with one id, k outside 1..n, or n > 1 at temperature 0.
    """
    if not problems:
        raise ConfigError("there are no problems to evaluate; check the split and the limit")
    if not k or min(k) < 1 or max(k) > n:
        raise ConfigError(f"k = {list(k)} with n = {n}: pass@k needs 1 <= k <= n; raise n or lower k")
    if n > 1 and sampling.temperature == 0:
        raise ConfigError(
            f"n = {n} at temperature 0 draws {n} equal answers; use n = 1, k = 1, or ask for `greedy` beside samples"
        )
    seen: set[str] = set()
    for problem in problems:
        if problem.id in seen:
            raise ConfigError(f"two problems have the id {problem.id!r}; ids must be unique, since seeds come from them")
        seen.add(problem.id)


def _result(attempts: Attempts) -> ProblemResult:
    rollouts, best = attempts.group.rollouts, attempts.greedy
    return ProblemResult(
        id=attempts.group.problem.id,
        scored=sum(rollout.is_scored for rollout in rollouts),
        correct=sum(rollout.is_correct for rollout in rollouts),
        tokens_mean=sum(rollout.completion_tokens for rollout in rollouts) / len(rollouts),
        greedy_correct=best.is_correct if best is not None and best.is_scored else None,
    )


def _pass_values(results: Iterable[ProblemResult], k: int) -> dict[str, float]:
    return {result.id: pass_at_k(result.scored, result.correct, k) for result in results if result.scored >= k}


def _greedy_values(results: Iterable[ProblemResult]) -> dict[str, float]:
    return {result.id: float(result.greedy_correct) for result in results if result.greedy_correct is not None}


def _too_many_unscored(samples: Tally, greedy_answers: Tally, max_unscored: float) -> str:
    unscored = samples.unscored + greedy_answers.unscored
    done = samples.rollouts + greedy_answers.rollouts
    causes = list(dict.fromkeys(samples.causes + greedy_answers.causes))[:3]
    return (
        f"{unscored} of the first {done} rollouts could not be scored, more than max_unscored = {max_unscored:.1%} of all; "
        f"a measurement without them would mislead. First causes: " + "; ".join(causes)
    )
