"""Watches a run while it trains: adds what the rollouts say to a step's metrics, asks a second verifier, and speaks up."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any

from rlvr.config import RunConfig
from rlvr.errors import EvaluationError
from rlvr.evaluation.health.rules import History
from rlvr.evaluation.health.settings import HealthSettings, health_settings
from rlvr.evaluation.health.signals import EVIDENCE, Signals, rollout_id, signals
from rlvr.evaluation.health.watch import Finding, Watch, held_out_history
from rlvr.evaluation.observer import Observer
from rlvr.evaluation.run_folder import RunFolder as StoredRun
from rlvr.registry import resolve
from rlvr.seeding import rng
from rlvr.trainers.model.distributed import World
from rlvr.trainers.run.rundir import RunFolder
from rlvr.types import JSON, Rollout
from rlvr.verifiers.base import as_verifier
from rlvr.verifiers.runner import Grader, WeightedVerifier


class HealthWatch:
    """The rules of a recipe's `[health]` over a run. Close it, or use it as an async context manager.

    Raises:
        ConfigError, PluginError: the section is wrong, or the second verifier cannot be had.
    """

    def __init__(
        self, recipe: RunConfig, folder: RunFolder, grading: Mapping[str, Mapping[str, JSON]], world: World, observer: Observer
    ) -> None:
        self._settings: HealthSettings = health_settings(recipe.health)
        self._seed, self._folder, self._world, self._observer = recipe.seed, folder, world, observer
        self._weights = {name: float(one["weight"]) for name, one in grading.items()}
        self._form = [name for name, one in grading.items() if _grades_form(str(one["reference"]))]
        self._second: Grader | None = None
        if self._settings.second is not None:
            chosen = WeightedVerifier(self._settings.second["name"], 1.0, self._settings.second.get("args", {}))
            self._second = Grader([chosen])
            self._second.prepare()
        self._watch: Watch | None = None

    async def __aenter__(self) -> HealthWatch:
        if self._second is not None:
            await self._second.__aenter__()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._second is not None:
            await self._second.__aexit__(kind, error, trace)

    def ends_run(self, rule: str) -> bool:
        """Whether the recipe lets this rule end the run."""
        return rule in self._settings.stop

    async def look(
        self, rollouts: Sequence[Rollout], metrics: Mapping[str, Any], step: int
    ) -> tuple[dict[str, Any], list[Finding]]:
        """What to add to the metrics of `step`, and what begins to be wrong with it; equal on all ranks."""
        return self._world.broadcast(await self._world.agreed(self._look(rollouts, metrics, step)))

    async def _look(
        self, rollouts: Sequence[Rollout], metrics: Mapping[str, Any], step: int
    ) -> tuple[dict[str, Any], list[Finding]]:
        if not self._world.is_main:
            return {}, []
        seen = signals(rollouts, step, form=self._form, weights=self._weights)
        second = await self._second_opinion(rollouts, step)
        watch = self._watching()
        for one in held_out_history(StoredRun(self._folder.path).evaluations()):
            watch.measured(one)
        added: dict[str, Any] = {**seen.values, **second.values}
        findings = watch.step({**metrics, **added, "step": step}, {**seen.evidence, **second.evidence})
        if findings:
            added["health"] = [finding.to_json() for finding in findings]
        added["health_holding"] = len(watch.holding)
        for finding in findings:
            self._observer.note(f"health: {finding.sentence}")
        return added, findings

    def _watching(self) -> Watch:
        if self._watch is None:  # not before the first step: a resumed run's metrics are rewound until then
            stored = StoredRun(self._folder.path)
            self._watch = Watch(self._settings, History(_rows(stored), held_out_history(stored.evaluations())))
        return self._watch

    async def _second_opinion(self, rollouts: Sequence[Rollout], step: int) -> Signals:
        """`second_refused_share`: of the rollouts that the training verifier calls correct, a sample of which is asked about."""
        if self._second is None:
            return Signals({})
        correct = [rollout for rollout in rollouts if rollout.is_correct]
        chosen = rng("second opinion", self._seed, step).sample(correct, min(self._settings.sample, len(correct)))
        copies = [Rollout(one.problem, one.sample_index, one.turns, one.stop) for one in chosen]
        await asyncio.gather(*(self._second.grade(copy) for copy in copies))
        asked = [copy for copy in copies if copy.is_scored]
        refused = [copy for copy in asked if not copy.is_correct]
        values = {"second_asked": float(len(asked)), "second_unscored": float(len(copies) - len(asked))}
        if asked:
            values["second_refused_share"] = len(refused) / len(asked)
        evidence = {"second_refused_share": tuple(rollout_id(one, step) for one in refused[:EVIDENCE])}
        return Signals(values, evidence if refused else {})


def _rows(run: StoredRun) -> list[dict[str, float]]:
    try:
        return run.metrics()
    except EvaluationError:  # a damaged line is the report's to name; the rules begin anew
        return []


def _grades_form(reference: str) -> bool:
    return as_verifier(resolve("verifiers", reference)).grades == "form"
