"""The reinforcement-learning loop: collect, learn, log, store, save."""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from rlvr.config import RunConfig
from rlvr.errors import TrainingError
from rlvr.evaluation.health.watch import Finding
from rlvr.evaluation.ledger import rollout_to_json, write_rollouts
from rlvr.evaluation.observer import Observer
from rlvr.filtering.curriculum import Curriculum, StarvedError
from rlvr.filtering.posterior import SolveRates, write_solve_rates
from rlvr.trainers.batch import rollout_advantages
from rlvr.trainers.drought import Drought
from rlvr.trainers.learner import Learner, Reference
from rlvr.trainers.overlap.pace import Pace, StepTimes
from rlvr.trainers.rollouts import Collected, Collector
from rlvr.trainers.run.best import Measured
from rlvr.trainers.run.health import HealthWatch
from rlvr.trainers.run.session import Session
from rlvr.types import JSON, Outcome, StepBatch


class RlLoop:
    """One reinforcement-learning run, from the session's present step to its last.

    The state between two steps is the session's (weights, optimizer, step), the curriculum's, what is known of the problems'
    solve rates, and the reference's; all of it is in every checkpoint.
    """

    def __init__(
        self,
        session: Session,
        recipe: RunConfig,
        *,
        pace: Pace,
        collector: Collector,
        curriculum: Curriculum,
        solve_rates: SolveRates,
        learner: Learner,
        reference: Reference | None,
        observer: Observer,
        grading: Mapping[str, JSON],
        health: HealthWatch,
    ) -> None:
        self._session = session
        self._recipe = recipe
        self._pace = pace
        self._collector = collector
        self._curriculum = curriculum
        self._solve_rates = solve_rates
        self._learner = learner
        self._reference = reference
        self._observer = observer
        self.early_end = ""  # why training ended before its last step
        self._drought = Drought(recipe.rollout.patience)
        self._health = health
        self._stopping: Finding | None = None  # what a health rule said that ended the run
        self._held_out: dict[str, float] = {}
        self._is_updated = False  # the weights are ahead of `session.step`
        self._grading = dict(grading)  # stored with every rollout: which verifier, version and settings said so
        self._restore()

    def measured(self, found: Measured) -> None:
        """A held-out measurement: it stands in the next step's line of metrics."""
        self._held_out = found.series()

    async def run(self, evaluate: Callable[[], Awaitable[str]]) -> None:
        """Train to the end; `evaluate` is awaited every `eval.every` steps, and may say why training ends here.

        Raises:
            TrainingError: too many unscored rollouts, or a loss that is not finite; the last checkpoint stands.
            StarvedError: nothing can be learned, because the problems are too hard; the last finished step was saved. Where
                they are all solved, the run ends well, and `early_end` says so.
            asyncio.CancelledError: interrupted; the last finished step was saved.
        """
        self._observer.stage("reinforcement learning", self._recipe.steps)
        self._observer.advance(self._session.step)
        if self.early_end:
            self._observer.note(f"training has ended here already: {self.early_end}")
        while self._session.step < self._recipe.steps and not self.early_end:
            self._remember()
            try:
                # Not at the end of the step before: a run that was killed in its evaluation makes up for it.
                self.early_end = await self._evaluate_if_due(evaluate)
                if not self.early_end:
                    await self._step()
            except asyncio.CancelledError:
                if not self._is_updated:  # else the weights are those of a step that is not finished: the last checkpoint stands
                    self._session.save()
                raise
            except StarvedError as end:
                self._session.save()
                if not end.is_solved:
                    raise
                self.early_end = str(end)
                self._observer.note(f"training ends here: {end}")
                return
            self._remember()
            if self._pace.is_interrupted:
                self._session.save()
                raise asyncio.CancelledError
            if self._session.checkpoint_if_due():
                self.write_solve_rates()
            if self.early_end:
                self._observer.note(f"training ends here: {self.early_end}")
                break
        self._session.save()

    def write_solve_rates(self) -> None:
        """What is known of every problem now, as a file of the run that a person can read.

        Raises:
            CheckpointError: the disk refuses.
        """
        if self._session.world.is_main:
            write_solve_rates(self._session.folder.solve_rates, self._solve_rates.rows(self._session.step))

    async def _evaluate_if_due(self, evaluate: Callable[[], Awaitable[str]]) -> str:
        every, step = self._recipe.eval.every, self._session.step
        if not (every and step and step % every == 0):
            return ""
        reason = await evaluate()
        self._observer.stage("reinforcement learning", self._recipe.steps)
        return reason

    async def _step(self) -> None:
        step, began = self._session.step, time.perf_counter()
        self._pace.begin(step)
        found = await self._collector.collect(step)
        collected = time.perf_counter()
        if found.failure is not None:
            self._store(found, None)
            raise TrainingError(found.failure)
        metrics = _metrics(found) | self._held_out | {"solve_rate_surprise": self._solve_rates.surprise(found.groups, step)}
        metrics |= self._curriculum.metrics(step)
        metrics |= self._collector.stages.metrics()
        self._collector.observe(found.tally.correct_share if found.tally.scored else None)
        self._solve_rates.observe_groups(found.groups, step)
        if self._recipe.env is not None and self._recipe.env.tools:
            metrics |= found.tally.call_fields()
        self._is_updated = True
        metrics |= await self._pace.compute(functools.partial(self._learn, found))
        updated = await self._pace.hand_over()
        metrics |= updated.metrics() if updated is not None else {}
        self._refresh_reference()
        metrics |= self._pace.metrics(found, StepTimes(began, collected, time.perf_counter()))
        rollouts = [rollout for group in found.groups for rollout in group.rollouts]
        said, findings = await self._health.look(rollouts, metrics, step + 1)
        self._session.finish_step(metrics | said)
        self._is_updated = False
        self._held_out = {}
        self._observer.advance(1, **_shown(metrics))
        self._stopping = next((finding for finding in findings if finding.stops), None)
        self.early_end = "" if self._stopping is None else f"health: {self._stopping.sentence}"

    def _learn(self, found: Collected) -> dict[str, float]:
        batch = self._learner.prepare(found.kept) if found.kept else None
        # Before the update, so that the rollouts of a step that breaks can be looked at.
        self._store(found, batch)
        self._drought.check(found, self._session.step)
        return self._learner.learn(batch) if batch is not None else {}

    def _store(self, found: Collected, batch: StepBatch | None) -> None:
        if not self._session.world.is_main:
            return
        advantages: dict[int, float | None] = {}
        if batch is not None:
            trained = [rollout for group in found.kept for rollout in group.rollouts]
            advantages = {id(rollout): value for rollout, value in zip(trained, rollout_advantages(batch), strict=True)}
        step = self._session.step + 1
        write_rollouts(
            self._session.folder.rollout_file(step),
            (
                rollout_to_json(rollout, step=step, group=index, advantage=advantages.get(id(rollout)), grading=self._grading)
                for index, group in enumerate(found.stored)
                for rollout in group.rollouts
            ),
        )

    def _refresh_reference(self) -> None:
        every = self._recipe.optim.reference_every
        if self._reference is not None and every and (self._session.step + 1) % every == 0:
            self._reference.refresh()

    def _remember(self) -> None:
        """What a checkpoint of the present step needs beside weights and optimizer."""
        state: dict[str, Any] = {
            "curriculum": self._curriculum.state_dict(),
            "solve_rates": self._solve_rates.state_dict(),
            "collector": self._collector.state_dict(),
            "drought": self._drought.steps,
            "stages": self._collector.stages.state_dict(),
        }
        if self._stopping is not None:  # between this checkpoint and the summary the process may be killed
            state["stopped_by"] = {"rule": self._stopping.rule, "early_end": self.early_end}
        if self._reference is not None and self._recipe.optim.reference_every:
            state["reference"] = self._reference.state_dict()
        self._session.extra_state = state
        self._session.own_state = self._collector.own_state()

    def _restore(self) -> None:
        state = self._session.extra_state
        if "curriculum" in state:
            self._curriculum.load_state_dict(state["curriculum"])
        if "collector" in state:
            self._collector.load_state_dict(state["collector"], self._session.parts)
            self._drought.steps = state["drought"]
        if "stages" in state:
            self._collector.restore_stages(state["stages"])
        if "solve_rates" in state:
            self._solve_rates.load_state_dict(state["solve_rates"])
        # Who takes the rule out of health.stop wants the run to go on.
        if (stopped := state.get("stopped_by")) and self._health.ends_run(stopped["rule"]):
            self.early_end = stopped["early_end"]
        if "reference" in state and self._reference is not None:
            self._reference.load_state_dict(state["reference"])


def _metrics(found: Collected) -> dict[str, Any]:
    tally = found.tally
    rollouts = max(1, tally.rollouts)
    rewards = [rollout.reward for group in found.groups for rollout in group.rollouts if rollout.reward is not None]
    verifiers = {f"verifier_{name}": tally.score_sums[name] / tally.score_counts[name] for name in sorted(tally.score_sums)}
    return {
        "reward_mean": sum(rewards) / max(1, len(rewards)),
        "correct_share": tally.correct_share,
        "unparsed_share": tally.outcomes[Outcome.UNPARSED] / rollouts,
        "truncated_share": tally.truncated / rollouts,
        "unscored_share": tally.unscored / rollouts,
        "tokens_mean": tally.tokens / rollouts,
        **verifiers,
        "rollouts": tally.rollouts,
        "tokens": tally.tokens,
        "groups": len(found.groups),
        "groups_dropped": found.dropped,
        **{f"groups_dropped_{name}": count for name, count in sorted(found.drops.items())},
        "groups_carried": len(found.carried),
        "groups_held": len(found.held),
        "groups_expired": len(found.expired),
        "groups_without_signal": sum(len({r.reward for r in group.rollouts}) == 1 for group in found.groups),
        "rounds": found.rounds,
    }


def _shown(metrics: dict[str, Any]) -> dict[str, float]:
    names = ("reward_mean", "correct_share", "tokens_mean", "truncated_share", "unscored_share", "entropy", "grad_norm")
    shown = {name: float(metrics[name]) for name in names if metrics.get(name) is not None}
    return shown | {"tokens_per_s": metrics["time_tokens_per_s"]}
