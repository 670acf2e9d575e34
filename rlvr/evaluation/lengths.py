"""How long responses are, and how good, by what their prompts asked for."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean

from rlvr.errors import ConfigError
from rlvr.evaluation.statistics import Estimate, estimate
from rlvr.types import JSON, Problem, Rollout

MOST_VALUES = 8  # more different numbers than this are put together
BANDS = 4


@dataclass(frozen=True, slots=True)
class LengthRow:
    """Rollouts whose problems share what was asked for. Means are over problems; tokens are the policy's own.

    `deviation` is |tokens - target| as a share of the target, `over` the share of rollouts that exceed it: both None where no
    length was asked for. `kept` is the mean score of the verifier `thinking`, None where it did not run.
    """

    asked: str
    problems: int
    rollouts: int
    unscored: int
    accuracy: Estimate
    tokens: Estimate
    truncated: float
    deviation: Estimate | None
    over: float | None
    kept: float | None

    def to_json(self) -> dict[str, JSON]:
        found: dict[str, JSON] = asdict(self)
        return found


def lengths_by(rollouts: Iterable[Rollout], key: str | None = None) -> list[LengthRow]:
    """One row for each value of `Problem.metadata[key]`, then one for all; without a key, the last alone.

    More than 8 different numbers become four bands with about as many problems each. Unscored rollouts are counted, and are in no
    mean.

    Raises:
        ConfigError: no rollouts with a score, or none whose problem has `key`.
    """
    groups: dict[str, list[Rollout]] = defaultdict(list)
    for rollout in rollouts:
        groups[rollout.problem.id].append(rollout)
    scored = [group for group in groups.values() if any(rollout.is_scored for rollout in group)]
    if not scored:
        raise ConfigError("there are no scored rollouts to measure")
    rows = []
    if key is not None:
        labelled = _labels([group[0].problem for group in scored], key)
        for label in dict.fromkeys(sorted(labelled.values(), key=_order)):
            rows.append(_row(label, [group for group in scored if labelled.get(group[0].problem.id) == label]))
    return [*rows, _row("all", scored)]


def target_of(problem: Problem) -> float | None:
    """The number of tokens that the prompt asks for, if it does."""
    target = problem.metadata.get("target_tokens")
    return float(target) if isinstance(target, int | float) and not isinstance(target, bool) and target > 0 else None


def _row(asked: str, groups: Sequence[Sequence[Rollout]]) -> LengthRow:
    scored = [[rollout for rollout in group if rollout.is_scored] for group in groups]
    everything = [rollout for group in groups for rollout in group]
    counted = [rollout for group in scored for rollout in group]
    aimed = [(target, group) for group in scored if (target := target_of(group[0].problem)) is not None]
    misses = [fmean(abs(rollout.completion_tokens - target) / target for rollout in group) for target, group in aimed]
    kept = [rollout.verdicts["thinking"].score for rollout in counted if "thinking" in rollout.verdicts]
    scores = [score for score in kept if score is not None]
    return LengthRow(
        asked=asked,
        problems=len(groups),
        rollouts=len(everything),
        unscored=len(everything) - len(counted),
        accuracy=estimate([fmean(float(rollout.is_correct) for rollout in group) for group in scored]),
        tokens=estimate([fmean(rollout.completion_tokens for rollout in group) for group in scored], bounds=None),
        truncated=fmean(rollout.is_truncated for rollout in counted),
        deviation=estimate(misses, bounds=None) if misses else None,
        over=fmean(rollout.completion_tokens > target for target, group in aimed for rollout in group) if aimed else None,
        kept=fmean(scores) if scores else None,
    )


def _labels(problems: Sequence[Problem], key: str) -> dict[str, str]:
    values = {problem.id: problem.metadata[key] for problem in problems if problem.metadata.get(key) is not None}
    if not values:
        known = sorted({name for problem in problems for name in problem.metadata})
        raise ConfigError(f"--by {key!r}, but no problem has that in its metadata; there is {', '.join(known) or 'nothing'}")
    numbers = sorted(set(values.values())) if all(_is_number(value) for value in values.values()) else []
    if len(numbers) <= MOST_VALUES:
        return {id: str(value) for id, value in values.items()}
    ranked = sorted(values, key=lambda id: values[id])
    bands = [ranked[len(ranked) * i // BANDS : len(ranked) * (i + 1) // BANDS] for i in range(BANDS)]
    return {id: f"{values[band[0]]:g} to {values[band[-1]]:g}" for band in bands for id in band}


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _order(label: str) -> tuple[float, str]:
    try:
        return float(label.split(" ")[0]), label
    except ValueError:
        return float("inf"), label
