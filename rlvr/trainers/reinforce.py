"""Wires a reinforcement-learning run together: engine, grader, environment, curriculum, learner, evaluation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from rlvr.config import EnvConfig, RunConfig
from rlvr.engines.base import TrainableEngine
from rlvr.engines.load import LoadedModel
from rlvr.engines.make import closing, make_engine, tool_host, verifier_pool
from rlvr.engines.threads import shares
from rlvr.envs.make import EnvMaker
from rlvr.envs.rollout import RolloutRunner
from rlvr.envs.tasks import Task
from rlvr.evaluation.observer import Observer
from rlvr.filtering.curriculum import Course, make_curriculum
from rlvr.filtering.posterior import SolveRates
from rlvr.trainers.algorithms import Algorithm
from rlvr.trainers.learner import Learner, Reference
from rlvr.trainers.loop import RlLoop
from rlvr.trainers.overlap.ahead import AheadCollector
from rlvr.trainers.overlap.pace import AtTheSameTime, InTurn, Pace
from rlvr.trainers.overlap.timeline import Timeline
from rlvr.trainers.plan import check_context, measured_rates, sampling_of
from rlvr.trainers.rollouts import Collector
from rlvr.trainers.run.best import BEST, Measured, best_of, keep_best, kept_step, read_measured, why_stop
from rlvr.trainers.run.evaluator import MAIN, Evaluator, gains, without_results
from rlvr.trainers.run.health import HealthWatch
from rlvr.trainers.run.session import Session
from rlvr.types import Problem
from rlvr.verifiers.runner import Grader, WeightedVerifier


class ReinforcementRun:
    """A run, wired together: it measures, trains from the session's present step to the end, and measures again.

    Everything that can be checked without generating is checked here, before the run has a folder. `initial` loads the
    model that the run started from.

    Raises:
        ConfigError, TaskError, PluginError: there is nothing to train on or to measure, a prompt and `max_tokens` do not fit
            into the model's context, or a verifier, environment or engine is wrong.
        EngineError: the engine cannot run this model.
        SandboxError: a verifier runs code, and this machine has no sandbox.
    """

    def __init__(
        self,
        session: Session,
        recipe: RunConfig,
        task: Task,
        problems: Sequence[Problem],
        algorithm: Algorithm,
        observer: Observer,
        initial: Callable[[], LoadedModel],
    ) -> None:
        sampling = sampling_of(recipe)
        algorithm = algorithm.bind(max_tokens=sampling.max_tokens).for_staleness(recipe.rollout.max_staleness)
        self._session, self._recipe = session, recipe
        verifiers = [WeightedVerifier(v.name, v.weight, v.args) for v in recipe.verifiers or ()]
        self._grader = Grader(verifiers, make_pool=verifier_pool(recipe.engine))
        self._grader.prepare()
        self._engine = _engine(session, recipe)
        self._env = EnvMaker(recipe.env or EnvConfig(), session.renderer, make_tools=tool_host(recipe.engine))
        runner = RolloutRunner(self._engine, session.renderer, self._env, self._grader, limits=self._env.limits)
        self._evaluator = Evaluator(
            runner, recipe, task, sampling, session.folder, session.world, observer, self._grader.provenance()
        )
        self._asked = (problems, *self._evaluator.sets.values())
        self._max_tokens = sampling.max_tokens
        for asked in self._asked:
            check_context(asked, session.renderer, sampling.max_tokens, session.max_context)
        for note in task.notes:
            observer.note(note)
        self._solve_rates = SolveRates((problem.id for problem in problems), recipe.data.half_life)
        if (rates := measured_rates(recipe, task)) is not None:
            self._solve_rates.observe_filter(rates)
        course = Course(problems, self._solve_rates, recipe.rollout.group_size, recipe.steps, recipe.seed)
        curriculum = make_curriculum(course, recipe.curriculum.name, recipe.curriculum.arguments)
        reference = _reference(session, recipe, initial) if algorithm.needs_reference else None
        self._health = HealthWatch(recipe, session.folder, self._grader.provenance(), session.world, observer)
        drawn_by = (runner, curriculum, algorithm, recipe, sampling, session.world, self._solve_rates)
        collector = Collector(*drawn_by)
        self._pace: Pace = InTurn(self._engine)
        if _overlaps(recipe):
            timeline = Timeline(session.folder.timeline if session.world.is_main else None, session.clock)
            collector = ahead = AheadCollector(*drawn_by, problems=problems, version=session.step, timeline=timeline)
            self._pace = AtTheSameTime(
                self._engine,
                ahead,
                timeline,
                session.world,
                max_staleness=recipe.rollout.max_staleness,
                threads=shares(torch.get_num_threads()).update,
            )
        self._loop = RlLoop(
            session,
            recipe,
            pace=self._pace,
            collector=collector,
            curriculum=curriculum,
            solve_rates=self._solve_rates,
            learner=Learner(session, recipe, algorithm, reference),
            reference=reference,
            observer=observer,
            grading=self._grader.provenance(),
            health=self._health,
        )

    async def run(self) -> None:
        """Leaves what was found in `session.results`.

        Raises:
            TrainingError, EvaluationError: see `RlLoop.run` and `measure`.
        """
        session, evaluator = self._session, self._evaluator
        async with closing(self._engine), self._grader, self._env, self._health:
            for asked in self._asked:  # again, with what the prompts say about tools
                check_context(asked, session.renderer, self._max_tokens, session.max_context, self._env.opening)
            before = await self._evaluate(0, "held-out problems, before") if evaluator.is_on else {}
            try:
                await self._loop.run(self._on_the_way)
            finally:
                await self._pace.close()
            after = await self._evaluate(session.step, "held-out problems, after") if evaluator.is_on else {}
        self._loop.write_solve_rates()
        session.results = {"kind": "rl", "grading": self._grader.provenance(), **_comparison(self._recipe, before, after)}
        if self._loop.early_end:
            session.results["early_end"] = self._loop.early_end
        if (kept := kept_step(session.folder.path)) is not None:
            session.results["best"] = {"step": kept, "checkpoint": str(session.folder.path / BEST)}

    async def _on_the_way(self) -> str:
        """Measure at the present step; returns why training ends here, empty where it goes on."""
        step = self._session.step
        await self._evaluate(step, f"held-out problems, step {step}")
        return why_stop(self._measured(step), self._recipe.eval.patience)

    def _measured(self, step: int) -> list[Measured]:
        folder, world = self._session.folder, self._session.world
        return world.broadcast(read_measured(folder.evaluations, MAIN, step) if world.is_main else [])

    async def _evaluate(self, step: int, stage: str) -> dict[str, Any]:
        found = await self._evaluator.measure_at(step, stage)
        # A resumed run reads what was measured before its checkpoint again, and that is in the checkpoint.
        if step == self._session.step and self._evaluator.samples_like_training:
            rows = [row for measured in found.values() for row in measured["results"]]
            self._solve_rates.observe_evaluation(rows, step)
        if step == self._session.step:  # a resumed run reads what it measured at the start again: that has its line
            measured = self._measured(step)
            self._loop.measured(measured[-1])
            self._keep_best(measured)
        return found

    def _keep_best(self, measured: Sequence[Measured]) -> None:
        """Where a run measures itself on the way, the best weights stay, whatever becomes of the later ones."""
        session, best = self._session, best_of(measured)
        is_present = best.step == measured[-1].step == session.step and session.step > 0
        if not self._recipe.eval.every or not is_present or kept_step(session.folder.path) == best.step:
            return
        session.save()
        checkpoint = session.latest_checkpoint
        if session.world.is_main and checkpoint is not None:
            kept = keep_best(session.folder.path, checkpoint, best)
            session.observer.note(f"best so far: {best.metric} {best.mean:.1%} after step {best.step}, kept in {kept}")


def _overlaps(recipe: RunConfig) -> bool:
    """Whether generation and update run at the same time; with a staleness of 0 that would change nothing but the costs."""
    return recipe.rollout.max_staleness > 0


def _engine(session: Session, recipe: RunConfig) -> TrainableEngine:
    overlaps = _overlaps(recipe)
    engine = make_engine(recipe.engine, session.loaded, beside=overlaps, ranks=session.world)
    engine.policy_version = session.step  # one update of its weights for each step, resumed or not
    return engine


def _reference(session: Session, recipe: RunConfig, initial: Callable[[], LoadedModel]) -> Reference:
    """The model that the run started from: after a resume the policy is no longer that."""
    is_in_checkpoint, is_under_adapter = bool(recipe.optim.reference_every), bool(recipe.load.lora_rank)
    if is_under_adapter or (not session.updater.is_in_parts and (session.step == 0 or is_in_checkpoint)):
        return Reference(session.policy)
    return Reference(session.policy, initial().model, session.share_out)


def _comparison(recipe: RunConfig, before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    if not before:
        return {}
    gain = gains(before, after, recipe.eval.k, recipe.seed)
    extra = {
        name: {"before": without_results(before[name]), "after": without_results(after[name]), "gain": gain[name]}
        for name in before
        if name != MAIN
    }
    return {"before": without_results(before[MAIN]), "after": without_results(after[MAIN]), "gain": gain[MAIN], "extra": extra}
