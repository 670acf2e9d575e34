"""Does a training set give the evaluation's problems away, and what is the score without those that it does?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rlvr.envs.leakage import clean
from rlvr.envs.tasks import load_task
from rlvr.errors import ConfigError
from rlvr.evaluation.samples import Metric, Samples
from rlvr.evaluation.statistics import Estimate, estimate
from rlvr.types import JSON, Problem


@dataclass(frozen=True, slots=True)
class Overlaps:
    """Ids of the evaluated problems of which more than half of the words stand in 8-grams of one problem of `training`."""

    training: str
    training_problems: int
    leaked: frozenset[str]

    def scores(self, samples: Samples, metric: Metric) -> Contamination:
        values = metric.values(samples)
        parts = ([v for id, v in values.items() if id not in self.leaked], [v for id, v in values.items() if id in self.leaked])
        without, among = (estimate(part) if part else None for part in parts)
        return Contamination(self, len(samples), without, among)


@dataclass(frozen=True, slots=True)
class Contamination:
    """pass@1 without the leaked problems, and among them; None where there are none. Texts that were reworded are not found."""

    found: Overlaps
    problems: int
    without: Estimate | None
    among: Estimate | None

    @property
    def sentence(self) -> str:
        leaked = len(self.found.leaked)
        said = (
            f"{leaked} of {self.problems} problems overlap with {self.found.training} ({self.found.training_problems:,} problems)"
        )
        parts = [
            f"pass@1 {one.mean:.1%} {where}" for one, where in ((self.without, "without them"), (self.among, "on them")) if one
        ]
        return f"{said}: {', '.join(parts)}" if leaked else f"{said} in words; reworded ones would not be found"

    def to_json(self) -> dict[str, JSON]:
        return {
            "training": self.found.training,
            "training_problems": self.found.training_problems,
            "leaked": sorted(self.found.leaked),
            "pass@1": {
                "without": None if self.without is None else self.without.to_json(),
                "among": None if self.among is None else self.among.to_json(),
            },
            "sentence": self.sentence,
        }


def overlaps(problems: Sequence[Problem], training: str) -> Overlaps:
    """Hold evaluated problems against `training`, a task with its split, e.g. `gsm8k:train`, or a file of problems.

    Raises:
        ConfigError, TaskError, PluginError: the training set cannot be had.
    """
    name, _, split = (training, "", "") if Path(training).exists() else training.partition(":")
    task = load_task(name)
    if not split:
        split = "train" if "train" in task.splits else task.splits[0]
    if split not in task.splits:
        raise ConfigError(f"{training}: {task.name} has no split {split!r}; it has {', '.join(task.splits)}")
    trained = task.problems(split)
    found = clean(trained, {"evaluated": problems})
    return Overlaps(f"{task.name}:{split}", len(trained), frozenset(leak.held_out for leak in found.leaks))
