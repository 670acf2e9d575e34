"""Held-out measurements of a run, kept as files, so that a resumed run does not measure again."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from rlvr.config import EvalConfig, RunConfig
from rlvr.envs.rollout import RolloutRunner
from rlvr.envs.tasks import Task, load_task
from rlvr.evaluation.ledger import rollout_to_json, write_rollouts
from rlvr.evaluation.measure import Attempts, ProblemResult, check_measurement, gain_between, measure
from rlvr.evaluation.observer import Observer
from rlvr.trainers.model.distributed import World
from rlvr.trainers.run.rundir import RunFolder, write_text
from rlvr.types import JSON, Problem, Sampling

MAIN = "held-out"


class Evaluator:
    """Measures the policy on held-out problems, and on the task's harder variants where asked for, with equal seeds.

    Of several processes the first measures, while the others wait.

    Raises:
        ConfigError, TaskError: the held-out problems cannot be had, or cannot be measured as asked.
    """

    def __init__(
        self,
        runner: RolloutRunner,
        recipe: RunConfig,
        task: Task,
        sampling: Sampling,
        folder: RunFolder,
        world: World,
        observer: Observer,
        grading: Mapping[str, JSON],
    ) -> None:
        self._runner = runner
        self._settings: EvalConfig = recipe.eval
        self._seed = recipe.seed
        self._max_unscored = recipe.max_unscored
        # Measured under its own temperature, without the truncations that exploration may use.
        self._training_sampling = sampling
        self._sampling = replace(sampling, temperature=recipe.eval.temperature, top_p=1.0, top_k=0, min_p=0.0)
        self._folder = folder
        self._world = world
        self._observer = observer
        self._grading = dict(grading)
        self.sets = _problem_sets(recipe, task) if recipe.eval.problems else {}
        for problems in self.sets.values():
            check_measurement(problems, recipe.eval.n, recipe.eval.k, self._sampling)

    @property
    def is_on(self) -> bool:
        return bool(self.sets)

    @property
    def samples_like_training(self) -> bool:
        """Whether its samples speak of the policy that training samples from, with the same temperature and truncations."""
        return self._sampling == self._training_sampling

    async def measure_at(self, step: int, stage: str) -> dict[str, Any]:
        """What the policy can do at `step`: set name -> measurement; read from the run folder if it was measured before.

        Raises:
            EvaluationError: too many rollouts could not be scored.
        """
        # Only the first process looks for the file: another one could find it just written, and not wait to be told.
        return self._world.broadcast(await self._world.agreed(self._found_at(step, stage)))

    async def _found_at(self, step: int, stage: str) -> dict[str, Any]:
        if not self._world.is_main:
            return {}
        path = self._folder.evaluation_file(step)
        if path.exists():
            stored: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            return stored
        found = {name: await self._measure(name, problems, step, stage) for name, problems in self.sets.items()}
        write_text(path, json.dumps(found) + "\n")
        return found

    async def _measure(self, name: str, problems: Sequence[Problem], step: int, stage: str) -> dict[str, Any]:
        settings = self._settings
        kept: list[Attempts] = []
        measured = await measure(
            self._runner,
            problems,
            n=settings.n,
            k=settings.k,
            sampling=self._sampling,
            seed=self._seed,
            greedy=settings.greedy,
            max_unscored=self._max_unscored,
            observer=self._observer,
            stage=stage if name == MAIN else f"{stage} ({name})",
            store=kept.append,
        )
        rows = (row for one in kept for row in _rows(one, step=step, grading=self._grading))
        write_rollouts(_samples_file(self._folder.evaluations, step, name), rows)
        return {**measured.to_json(), "results": [asdict(result) for result in measured.problems]}


def gains(before: dict[str, Any], after: dict[str, Any], k: Sequence[int], seed: int) -> dict[str, Any]:
    """after - before of every set and pass@k, paired by problem."""
    return {
        name: {
            key: estimate.to_json()
            for key, estimate in gain_between(_results(before[name]), _results(after[name]), k, seed=seed).items()
        }
        for name in before
        if name in after
    }


def without_results(measured: dict[str, Any]) -> dict[str, Any]:
    """A measurement for the summary: everything but the rows of single problems."""
    return {key: value for key, value in measured.items() if key != "results"}


def _problem_sets(recipe: RunConfig, task: Task) -> dict[str, Sequence[Problem]]:
    settings = recipe.eval
    sets = {MAIN: task.problems(settings.split, limit=_limit(task, settings))}
    for name, args in task.variants.items() if settings.variants else ():
        harder = load_task(recipe.task, {**recipe.task_args, **args})
        sets[name] = harder.problems(settings.split, limit=_limit(harder, settings))
    return sets


def _limit(task: Task, settings: EvalConfig) -> int | None:
    """Data sets may be smaller than what was asked for; endless tasks are not."""
    if task.is_endless:
        return settings.problems
    return min(settings.problems, len(task.problems(settings.split)))


def _results(measured: dict[str, Any]) -> list[ProblemResult]:
    return [ProblemResult(**row) for row in measured["results"]]


def _samples_file(folder: Path, step: int, name: str) -> Path:
    return folder / f"step-{step:06d}.{name}.jsonl.gz"


def _rows(attempts: Attempts, **provenance: JSON) -> list[dict[str, Any]]:
    rows = [rollout_to_json(rollout, mode="sampled", **provenance) for rollout in attempts.group.rollouts]
    if attempts.greedy is not None:
        rows.append(rollout_to_json(attempts.greedy, mode="greedy", **provenance))
    return rows
