"""`rlvr.train`: check everything that can be checked, then run a recipe from its first or its last saved step to the end."""

from __future__ import annotations

import functools
import gc
import json
import os
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from rlvr.config import ModelConfig, Recipe, RunConfig, SftConfig, load_recipe
from rlvr.engines.load import LoadedModel, load_model, model_source, precision_on
from rlvr.envs.tasks import Task, load_task
from rlvr.errors import CheckpointError, ConfigError, boundary
from rlvr.evaluation.observer import Observer, SilentObserver
from rlvr.evaluation.report.run import write_report
from rlvr.progress import PROGRESS
from rlvr.trainers.algorithms import Algorithm, build
from rlvr.trainers.model.distributed import World, join_world, watched
from rlvr.trainers.model.lora import check_adapter, with_adapter
from rlvr.trainers.model.optimizer import learning_rate
from rlvr.trainers.model.parallel import parallel_of
from rlvr.trainers.model.tiny import tiny_model
from rlvr.trainers.plan import ahead_of, algorithm_of, arithmetic, check_recipe, training_problems
from rlvr.trainers.run.checkpoint import check_space, checkpoints, tidy
from rlvr.trainers.run.interrupts import run_interruptibly
from rlvr.trainers.run.lock import locked
from rlvr.trainers.run.metrics import check_writers
from rlvr.trainers.run.rundir import RunFolder, default_path, write_text
from rlvr.trainers.run.session import Session
from rlvr.trainers.sft import SupervisedRun
from rlvr.types import Problem

NEW_TINY = "new:tiny"


@dataclass(frozen=True, slots=True)
class Run:
    """A finished run."""

    folder: Path
    checkpoint: Path  # a Hugging Face folder: AutoModelForCausalLM.from_pretrained(run.checkpoint)
    summary: Mapping[str, Any]


def train(
    recipe: Recipe | Mapping[str, Any] | str | Path | None = None, *, observer: Observer | None = None, **settings: Any
) -> Run:
    """Run a recipe: a file, a mapping, a config object, or its keys as keyword arguments (sections may be config objects).

    Raises:
        ConfigError, PluginError, TaskError: something in the recipe is wrong; nothing was started.
        CheckpointError: a model cannot be loaded, or the disk refuses.
        TrainingError: the run had to stop; its last checkpoint stands.
        KeyboardInterrupt: interrupted; the last finished step was saved.
    """
    chosen = _as_recipe(recipe, settings)
    folder = RunFolder(default_path(chosen))
    return _start(chosen, folder, observer or SilentObserver(), is_new=True)


def resume(path: str | Path, *, observer: Observer | None = None) -> Run:
    """Continue a run from its newest checkpoint, or from its beginning if it has none yet."""
    folder, recipe = RunFolder.open(Path(path))
    return _start(recipe, folder, observer or SilentObserver(), is_new=False)


def train_or_resume(recipe: Recipe | str | Path, *, observer: Observer | None = None) -> Run:
    """Start a recipe, or go on with the run of it that is in its folder already; one that is finished is only shown.

    Raises:
        ConfigError: the folder holds a run of another recipe; names the first key that differs. Otherwise as `train`.
    """
    chosen = _as_recipe(recipe, {})
    path = default_path(chosen)
    if not (path / "config.toml").is_file():
        return train(chosen, observer=observer)
    folder, stored = RunFolder.open(path)
    algorithm = algorithm_of(chosen)
    asked = check_recipe(chosen, load_task(chosen.task, chosen.task_args), algorithm)
    _check_same(path, stored, asked if asked.threads else asked.model_copy(update={"threads": stored.threads}))
    if not folder.summary.is_file():
        return resume(path, observer=observer)
    summary = json.loads(folder.summary.read_text(encoding="utf-8"))
    (observer or SilentObserver()).note(f"{path} holds this run already, finished")
    (observer or SilentObserver()).final_table(summary)
    return Run(path, Path(summary["checkpoint"]), summary)


def _check_same(path: Path, stored: Recipe, asked: Recipe) -> None:
    known, wanted = _flat(stored.model_dump(mode="json")), _flat(asked.model_dump(mode="json"))
    for key in wanted | known:
        if wanted.get(key) != known.get(key):
            raise ConfigError(
                f"{path} holds a run with {key} = {known.get(key)!r}, but {key} = {wanted.get(key)!r} is asked for; continue "
                f"that one with `rlvr train --resume {path}`, move it away, or choose another out="
            )


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(value, Mapping) or not value:
        return {prefix: value}
    parts = (_flat(item, f"{prefix}.{key}" if prefix else str(key)) for key, item in value.items())
    return {key: item for part in parts for key, item in part.items()}


def _as_recipe(recipe: Recipe | Mapping[str, Any] | str | Path | None, settings: Mapping[str, Any]) -> Recipe:
    if isinstance(recipe, RunConfig | SftConfig):
        if settings:
            raise ConfigError(f"give a config object or keyword arguments, not both: {', '.join(settings)}")
        return recipe
    if isinstance(recipe, str | Path):
        if settings:
            raise ConfigError(f"give a recipe file or keyword arguments, not both: {', '.join(settings)}")
        return load_recipe(recipe)
    return load_recipe({**(recipe or {}), **{key: _plain(value) for key, value in settings.items()}})


def _plain(value: Any) -> Any:
    if isinstance(value, Algorithm):
        return _as_preset(value)
    if hasattr(value, "model_dump"):
        return value.model_dump()
    return value


def _as_preset(algorithm: Algorithm) -> dict[str, Any]:
    """The recipe's words for an algorithm; a run that is resumed has nothing else.

    Raises:
        ConfigError: it was changed after its preset made it.
    """
    if build(algorithm.name, algorithm.arguments) != algorithm:
        raise ConfigError(
            f"algorithm {algorithm.name!r} has parts that its preset did not give it, so a recipe cannot name it; "
            "write a function that returns it and pass algorithm={'name': 'path/file.py:function'}"
        )
    return {"name": algorithm.name, **algorithm.arguments}


def _start(recipe: Recipe, folder: RunFolder, observer: Observer, *, is_new: bool) -> Run:
    began = time.monotonic()
    _use_threads(recipe.threads)
    algorithm = algorithm_of(recipe)
    task = load_task(recipe.task, recipe.task_args)
    recipe = check_recipe(recipe, task, algorithm)
    check_writers(recipe.wandb)
    check_adapter(recipe.load)
    problems = training_problems(recipe, task) if isinstance(recipe, RunConfig) else []
    parallel = parallel_of(recipe.load.parallel)
    joined = join_world(recipe.load.device, join_s=parallel.join_s)
    if not joined.is_main:
        observer = SilentObserver()
    elif is_new:
        folder.check_is_new()
    advice = f"Look at that rank's output; the run goes on from its last checkpoint with: rlvr train --resume {folder.path}"
    with ExitStack() as stack:
        world = stack.enter_context(watched(joined, timeout_s=parallel.timeout_s, advice=advice))
        if world.is_main and not is_new:
            stack.enter_context(locked(folder.path))
            began -= folder.spent_s()
        with PROGRESS.uncounted():
            session = _session(recipe, task, folder, world, observer, began=began, is_new=is_new)
            run = _prepare(session, recipe, task, problems, algorithm, observer)
            # Last of all checks, so that a run that cannot start leaves nothing behind.
            if world.is_main and is_new:
                stack.enter_context(locked(folder.path))
                RunFolder.create(folder.path, _with_threads(recipe))
        world.wait("waiting for all ranks to be ready")
        try:
            with _settled():
                run_interruptibly(run, world)
        except KeyboardInterrupt:
            observer.note(f"interrupted after step {session.step}; continue with: rlvr train --resume {folder.path}")
            raise
        finally:
            session.close()
        checkpoint = session.latest_checkpoint
        assert checkpoint is not None, "a finished run has a checkpoint"
        return Run(folder.path, checkpoint, _finish(session, checkpoint))


def _prepare(
    session: Session,
    recipe: Recipe,
    task: Task,
    problems: Sequence[Problem],
    algorithm: Algorithm | None,
    observer: Observer,
) -> Callable[[], Coroutine[Any, Any, None]]:
    if isinstance(recipe, SftConfig):
        return SupervisedRun(session, recipe, task, observer).run
    from rlvr.trainers.reinforce import ReinforcementRun

    assert algorithm is not None
    initial = functools.partial(_load, recipe, task, None, session.world)
    return ReinforcementRun(session, recipe, task, problems, algorithm, observer, initial).run


def _session(
    recipe: Recipe, task: Task, folder: RunFolder, world: World, observer: Observer, *, began: float, is_new: bool
) -> Session:
    newest = next(reversed(checkpoints(folder.checkpoints)), None)
    loaded = _load(recipe, task, newest, world)
    keeps_best = isinstance(recipe, RunConfig) and recipe.eval.every > 0 and recipe.eval.problems > 0
    check_space(folder.path, loaded.model, recipe.checkpoint.keep, keeps_best=keeps_best)
    session = Session(recipe, folder, loaded, world, observer, clock=lambda: time.monotonic() - began)
    if session.renderer.notice:
        observer.note(session.renderer.notice)
    if newest is not None:
        session.restore(newest)
        observer.note(f"continuing after step {session.step}, from {newest}")
    if world.is_main and not is_new:
        folder.rewind(session.step)
        tidy(folder.checkpoints, keep=recipe.checkpoint.keep)
    return session


def _load(recipe: Recipe, task: Task, checkpoint: Path | None, world: World) -> LoadedModel:
    settings = recipe.load if world.device is None else recipe.load.model_copy(update={"device": str(world.device)})
    if recipe.model == NEW_TINY:
        settings = settings.model_copy(update={"device": "cpu", "precision": "fp32"})
    if world.device is not None and parallel_of(recipe.load.parallel).shares_weights:
        # Whole, it need not fit on the device: layer by layer goes there when it is shared out.
        precision = precision_on(world.device, settings.precision)
        on_cpu = settings.model_copy(update={"device": "cpu", "precision": precision})
        return replace(_load_on(on_cpu, recipe, task, checkpoint), device=world.device)
    return _load_on(settings, recipe, task, checkpoint)


def _load_on(settings: ModelConfig, recipe: Recipe, task: Task, checkpoint: Path | None) -> LoadedModel:
    if settings.lora_rank:
        base = _load_base(recipe, task, settings)
        return replace(base, model=with_adapter(base.model, settings, recipe.seed, checkpoint))
    return load_model(checkpoint, settings) if checkpoint is not None else _load_base(recipe, task, settings)


def _load_base(recipe: Recipe, task: Task, settings: ModelConfig) -> LoadedModel:
    if recipe.model != NEW_TINY:
        return load_model(recipe.model, settings)
    if task.tiny is None:
        raise ConfigError(
            f"model = {NEW_TINY!r}, but task {task.name!r} describes no tiny model; give a model folder or hub name"
        )
    model, tokenizer = tiny_model(task.tiny, recipe.seed)
    return LoadedModel(model, tokenizer, NEW_TINY, torch.device("cpu"), "fp32")


def _use_threads(threads: int) -> None:
    # Results are bit-identical only between runs with equal thread counts, so the count is part of the recipe.
    torch.set_num_threads(threads or os.cpu_count() or 1)


def _with_threads(recipe: Recipe) -> Recipe:
    return recipe.model_copy(update={"threads": torch.get_num_threads()})


@contextmanager
def _settled() -> Iterator[None]:
    """What is there before the first step stays until the end: the garbage collector, which would need a quarter of a second for
    it every few steps, looks at what came since."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def _finish(session: Session, checkpoint: Path) -> dict[str, Any]:
    """Write summary.json and the report, and show the closing table."""
    folder = session.folder
    summary = {
        **session.results,
        "steps": session.step,
        "wall_time_s": session.clock(),
        "run": str(folder.path),
        "checkpoint": str(checkpoint),
        "rollouts": str(folder.rollouts),
        "report": str(folder.report),
    }
    if not session.world.is_main:
        return summary
    write_text(folder.summary, json.dumps(summary, indent=2) + "\n")
    write_report(folder.path)
    session.observer.final_table(summary)
    return summary


def dry_run(recipe: Recipe) -> tuple[Recipe, dict[str, Any]]:
    """The resolved recipe and the size of what it would do, without loading weights or writing anything.

    Raises:
        ConfigError, PluginError, TaskError, CheckpointError: what `train` would refuse.
    """
    algorithm = algorithm_of(recipe)
    task = load_task(recipe.task, recipe.task_args)
    resolved = check_recipe(recipe, task, algorithm)
    parameters = _count_parameters(resolved, task)
    if isinstance(resolved, SftConfig) or algorithm is None:
        return resolved, {"parameters": parameters, "sequences": resolved.steps * getattr(resolved, "sequences_per_step", 0)}
    counted = arithmetic(resolved, parameters, needs_reference=algorithm.needs_reference)
    lr = learning_rate(resolved.optim, parameters, is_adapter=resolved.load.lora_rank > 0)
    ahead = ahead_of(resolved, algorithm)
    return resolved, {
        **asdict(counted),
        "peak_learning_rate": lr,
        "training_problems": len(training_problems(resolved, task)),
        **(asdict(ahead) if ahead is not None else {}),
    }


def _count_parameters(recipe: Recipe, task: Task) -> int:
    from transformers import AutoConfig, AutoModelForCausalLM

    if recipe.model == NEW_TINY:
        model = _load(recipe, task, None, World()).model
    else:
        source = model_source(recipe.model)
        with boundary(CheckpointError, f"the model config of {recipe.model!r} cannot be read"), torch.device("meta"):
            model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(source))
    return sum(parameter.numel() for parameter in model.parameters())
