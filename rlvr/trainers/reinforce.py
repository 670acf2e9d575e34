"""Wires a reinforcement-learning run together: engine, grader, environment, curriculum, learner, evaluation."""

from __future__ import annotations

from typing import Any

from rlvr.config import RunConfig
from rlvr.engines.base import TrainableEngine
from rlvr.envs.rollout import RolloutRunner
from rlvr.envs.tasks import Task
from rlvr.evaluation.observer import Observer
from rlvr.filtering.curriculum import Uniform
from rlvr.registry import resolve
from rlvr.trainers.algorithms import Algorithm
from rlvr.trainers.evaluator import MAIN, Evaluator, gains, without_results
from rlvr.trainers.learner import Learner, Reference
from rlvr.trainers.loop import RlLoop
from rlvr.trainers.plan import check_context, sampling_of, training_problems
from rlvr.trainers.rollouts import Collector
from rlvr.trainers.session import Session
from rlvr.verifiers.runner import Grader, WeightedVerifier


async def run_rl(session: Session, recipe: RunConfig, task: Task, algorithm: Algorithm, observer: Observer) -> None:
    """Measure, train from the session's present step to the end, measure again; leaves its findings in `session.results`.

    Raises:
        ConfigError: prompts and `max_tokens` do not fit into the model's context, or there is nothing to train on.
        TrainingError, EvaluationError: see `RlLoop.run` and `measure`.
    """
    sampling = sampling_of(recipe)
    algorithm = algorithm.bind(max_tokens=sampling.max_tokens)
    problems = training_problems(recipe, task)
    for note in task.notes:
        observer.note(note)
    check_context(problems, session.renderer, sampling.max_tokens, session.max_context)
    engine = _engine(session, recipe)
    async with Grader([WeightedVerifier(v.name, v.weight, v.args) for v in recipe.verifiers or ()]) as grader:
        runner = RolloutRunner(engine, session.renderer, resolve("envs", recipe.env).target, grader)
        evaluator = Evaluator(runner, recipe, task, sampling, session.folder, session.world, observer)
        before = await evaluator.measure_at(0, "held-out problems, before") if evaluator.is_on else {}
        curriculum = Uniform(problems, recipe.seed)
        reference = Reference(session.policy) if algorithm.needs_reference else None
        loop = RlLoop(
            session,
            recipe,
            engine=engine,
            collector=Collector(runner, curriculum, algorithm, recipe, sampling, session.world),
            curriculum=curriculum,
            learner=Learner(session, recipe, algorithm, reference),
            reference=reference,
            observer=observer,
        )
        await loop.run(lambda: evaluator.measure_at(session.step, f"held-out problems, step {session.step}"))
        after = await evaluator.measure_at(session.step, "held-out problems, after") if evaluator.is_on else {}
    await engine.close()
    session.results = {"kind": "rl", "grading": grader.provenance(), **_comparison(recipe, before, after)}


def _engine(session: Session, recipe: RunConfig) -> TrainableEngine:
    make = resolve("engines", recipe.engine.name).target
    engine: TrainableEngine = make(
        session.loaded.model, session.tokenizer, max_rows=recipe.engine.max_rows, precision=session.loaded.precision
    )
    return engine


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
