"""What is known about each problem's solve rate under the present policy: the only source of difficulty.

A rate is believed Beta(1/2 + correct, 1/2 + wrong), where the counts are those of all samples so far (offline filter, training
groups, evaluations of training problems), and halve with every `half_life` updates of the policy: what an old policy did says
little about the present one, and a problem that was not tried for long becomes unknown again.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlvr.errors import CheckpointError, ConfigError, boundary
from rlvr.filtering.beta import beta_quantile
from rlvr.filtering.pass_rates import PassRates
from rlvr.filtering.window import PRIOR
from rlvr.types import Group

CONFIDENCE = 0.95


class Source(StrEnum):
    """Where samples came from."""

    FILTER = "filter"
    TRAINING = "training"
    EVALUATION = "evaluation"


@dataclass(frozen=True, slots=True)
class SolveRate:
    """The belief about one problem: `correct` and `wrong` are counts after forgetting, so not whole."""

    correct: float = 0.0
    wrong: float = 0.0

    @property
    def mean(self) -> float:
        """Expected solve rate; 1/2 where nothing is known."""
        return (PRIOR + self.correct) / (2 * PRIOR + self.correct + self.wrong)

    @property
    def evidence(self) -> float:
        """Samples of the present policy that would say as much."""
        return self.correct + self.wrong

    def chance_of_signal(self, group_size: int) -> float:
        """Probability that a group of this size is neither all correct nor all wrong."""
        a, b = PRIOR + self.correct, PRIOR + self.wrong
        return 1.0 - _all_alike(a, b, group_size) - _all_alike(b, a, group_size)


@dataclass(frozen=True, slots=True)
class SolveRateRow:
    """A problem as it stands in the file: belief at one step, its 95 % interval, and the samples of all time by source."""

    id: str
    mean: float
    low: float
    high: float
    correct: float
    wrong: float
    step: int  # of its last samples
    filter: int
    training: int
    evaluation: int


@dataclass(slots=True)
class _Count:
    correct: float = 0.0  # as of `step`
    wrong: float = 0.0
    step: int = 0
    samples: dict[Source, int] = field(default_factory=lambda: dict.fromkeys(Source, 0))


class SolveRates:
    """Beliefs about a fixed set of problems; samples of others are ignored. Steps never decrease.

    The state is plain numbers, and forgetting is applied when a problem is observed or asked for, so a restored copy goes on
    bit for bit.

    Raises:
        ConfigError: a half-life that is not positive.
    """

    def __init__(self, ids: Iterable[str], half_life: float) -> None:
        if not half_life > 0:
            raise ConfigError(f"half_life = {half_life}, but a positive number of steps is needed")
        self._ids = tuple(ids)
        self._known = frozenset(self._ids)
        self._half_life = half_life
        self._counts: dict[str, _Count] = {}
        self._evaluated_step = -1

    def at(self, id: str, step: int) -> SolveRate:
        """The belief about a problem at `step`."""
        count = self._counts.get(id)
        if count is None:
            return SolveRate()
        weight = self._weight(count, step)
        return SolveRate(count.correct * weight, count.wrong * weight)

    def beliefs(self, ids: Sequence[str], step: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Two [n]: a and b of the belief Beta(a, b) about each of the problems `ids` at `step`."""
        a, b = np.full(len(ids), PRIOR), np.full(len(ids), PRIOR)
        for index, id in enumerate(ids):
            count = self._counts.get(id)
            if count is not None:
                weight = self._weight(count, step)
                a[index] += count.correct * weight
                b[index] += count.wrong * weight
        return a, b

    def observe_filter(self, rates: PassRates) -> None:
        """Start from what the offline filter found, with the policy of step 0."""
        for id, rate in rates.by_id.items():
            self._add(id, rate.correct, rate.n - rate.unscored, 0, Source.FILTER)

    def observe_groups(self, groups: Iterable[Group], step: int) -> None:
        """Groups that the policy of `step` sampled, whether they are trained on or not; unscored rollouts say nothing."""
        for group in groups:
            correct = sum(rollout.is_correct for rollout in group.rollouts)
            scored = sum(rollout.is_scored for rollout in group.rollouts)
            self._add(group.problem.id, correct, scored, step, Source.TRAINING)

    def observe_evaluation(self, results: Iterable[Mapping[str, Any]], step: int) -> None:
        """Stored results of an evaluation (`ProblemResult`) at `step`; counted once, however often they are read again."""
        if step <= self._evaluated_step:
            return
        self._evaluated_step = step
        for row in results:
            self._add(row["id"], row["correct"], row["scored"], step, Source.EVALUATION)

    def surprise(self, groups: Sequence[Group], step: int) -> float | None:
        """Mean distance between the expected and the observed solve rate of groups whose problem was known; None if none was.

        Ask before `observe_groups`.
        """
        distances = []
        for group in groups:
            scored = sum(rollout.is_scored for rollout in group.rollouts)
            if group.problem.id in self._counts and scored:
                correct = sum(rollout.is_correct for rollout in group.rollouts)
                distances.append(abs(self.at(group.problem.id, step).mean - correct / scored))
        return math.fsum(distances) / len(distances) if distances else None

    def rows(self, step: int) -> list[SolveRateRow]:
        """Every problem that was sampled, in the order of the problems, as it is believed at `step`."""
        ids = [id for id in self._ids if id in self._counts]
        beliefs = [self.at(id, step) for id in ids]
        a = np.array([PRIOR + belief.correct for belief in beliefs])
        b = np.array([PRIOR + belief.wrong for belief in beliefs])
        tail = (1.0 - CONFIDENCE) / 2.0
        low, high = beta_quantile(tail, a, b).tolist(), beta_quantile(1.0 - tail, a, b).tolist()
        rows = []
        for index, (id, belief) in enumerate(zip(ids, beliefs, strict=True)):
            count = self._counts[id]
            rows.append(
                SolveRateRow(
                    id=id,
                    mean=belief.mean,
                    low=low[index],
                    high=high[index],
                    correct=belief.correct,
                    wrong=belief.wrong,
                    step=count.step,
                    filter=count.samples[Source.FILTER],
                    training=count.samples[Source.TRAINING],
                    evaluation=count.samples[Source.EVALUATION],
                )
            )
        return rows

    def state_dict(self) -> dict[str, Any]:
        counts = self._counts
        return {
            "ids": list(counts),
            "correct": [count.correct for count in counts.values()],
            "wrong": [count.wrong for count in counts.values()],
            "step": [count.step for count in counts.values()],
            **{source.value: [count.samples[source] for count in counts.values()] for source in Source},
            "evaluated_step": self._evaluated_step,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._evaluated_step = state["evaluated_step"]
        self._counts = {
            id: _Count(
                state["correct"][index],
                state["wrong"][index],
                state["step"][index],
                {source: state[source.value][index] for source in Source},
            )
            for index, id in enumerate(state["ids"])
        }

    def _weight(self, count: _Count, step: int) -> float:
        return float(0.5 ** ((step - count.step) / self._half_life))

    def _add(self, id: str, correct: int, scored: int, step: int, source: Source) -> None:
        if id not in self._known or not scored:
            return
        count = self._counts.setdefault(id, _Count(step=step))
        weight = self._weight(count, step)
        count.correct = count.correct * weight + correct
        count.wrong = count.wrong * weight + scored - correct
        count.step = step
        count.samples[source] += scored


def write_solve_rates(path: Path, rows: Sequence[SolveRateRow]) -> None:
    """Write rows to a Parquet file, whole or not at all.

    Raises:
        CheckpointError: the disk refuses.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    names = SolveRateRow.__slots__
    unfinished = path.with_name(path.name + ".tmp")
    with boundary(CheckpointError, f"{path} cannot be written"):
        columns = {name: [getattr(row, name) for row in rows] for name in names}
        pq.write_table(pa.table(columns, schema=_schema()), unfinished)
        unfinished.replace(path)


def read_solve_rates(path: Path) -> list[SolveRateRow]:
    """
    Raises:
        ConfigError: no such file, or another one.
    """
    import pyarrow.parquet as pq

    with boundary(ConfigError, f"solve rates in {path} cannot be read"):
        return [SolveRateRow(**row) for row in pq.read_table(path).to_pylist()]


def _schema() -> Any:
    import pyarrow as pa

    kinds = {"id": pa.string(), **dict.fromkeys(("mean", "low", "high", "correct", "wrong"), pa.float64())}
    return pa.schema([(name, kinds.get(name, pa.int64())) for name in SolveRateRow.__slots__])


def _all_alike(a: float, b: float, group_size: int) -> float:
    """Probability that all of a group succeed when the rate is Beta(a, b)."""
    chances = (math.log((a + index) / (a + b + index)) for index in range(group_size))
    return math.exp(math.fsum(chances))
