"""What a recipe will do, checked and counted before any long work starts."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rlvr.config import EnvConfig, Recipe, RunConfig, SftConfig
from rlvr.envs.base import Opening
from rlvr.envs.make import check_env_config
from rlvr.envs.renderer import Renderer
from rlvr.envs.tasks import Task
from rlvr.errors import ConfigError
from rlvr.filtering.filter import load_for_training
from rlvr.filtering.pass_rates import PassRates, select_problems
from rlvr.filtering.window import Window
from rlvr.registry import resolve
from rlvr.trainers.algorithms import Algorithm, build
from rlvr.trainers.model.parallel import Way, check_launcher, parallel_of
from rlvr.trainers.shaping.base import ChecksProblems
from rlvr.trainers.shaping.sections import shapes_in, with_shapes
from rlvr.types import Problem, Sampling


def algorithm_of(recipe: Recipe) -> Algorithm | None:
    """What a recipe of reinforcement learning trains with, its shapes included; None for a supervised one.

    Raises:
        PluginError, ConfigError: no such algorithm or shape, or an argument that it does not take.
    """
    if isinstance(recipe, SftConfig):
        return None
    return with_shapes(build(recipe.algorithm.name, recipe.algorithm.arguments), recipe.shapes)


def check_recipe(recipe: Recipe, task: Task, algorithm: Algorithm | None) -> Recipe:
    """The recipe with the task's suggestions filled in.

    Raises:
        ConfigError: settings that contradict each other or the algorithm.
        PluginError: there is no such engine, environment or tool.
    """
    _check_sharing(recipe)
    if isinstance(recipe, SftConfig) or algorithm is None:
        return recipe
    rollout = recipe.rollout
    algorithm.check_group_size(rollout.group_size)
    algorithm.for_staleness(rollout.max_staleness)
    if rollout.temperature == 0:
        raise ConfigError(
            "rollout.temperature = 0, but greedy rollouts of one problem are all the same and teach nothing; use 1.0"
        )
    if rollout.probe and not 2 <= rollout.probe < rollout.group_size:
        raise ConfigError(
            f"rollout.probe = {rollout.probe}, but it takes 2 rollouts or more to differ, and fewer than rollout.group_size = "
            f"{rollout.group_size}; 0 turns it off"
        )
    if recipe.optim.minibatches > rollout.problems_per_step:
        raise ConfigError(
            f"optim.minibatches = {recipe.optim.minibatches}, but a step has only {rollout.problems_per_step} groups to split; "
            "lower it to rollout.problems_per_step or less"
        )
    if recipe.optim.reference_every and recipe.load.lora_rank:
        raise ConfigError(
            f"optim.reference_every = {recipe.optim.reference_every}, but with load.lora_rank = {recipe.load.lora_rank} the "
            "reference is the base model, which stays as it is; set optim.reference_every to 0"
        )
    if hasattr(resolve("engines", recipe.engine.name).target, "chat"):
        raise ConfigError(
            f"engine.name = {recipe.engine.name!r} can only be measured with: it keeps its tokens to itself; train with 'native'"
        )
    verifiers = recipe.verifiers if recipe.verifiers is not None else task.verifiers
    if not verifiers:
        raise ConfigError(f"task {task.name!r} names no verifier; give the recipe [[verifiers]]")
    filled = rollout.model_copy(
        update={
            "max_tokens": rollout.max_tokens or task.max_tokens,
            "stop": task.stop if rollout.stop is None else rollout.stop,
        }
    )
    env = recipe.env or task.env or EnvConfig()
    check_env_config(env)
    return recipe.model_copy(update={"rollout": filled, "verifiers": verifiers, "env": env})


def _check_sharing(recipe: Recipe) -> None:
    parallel = parallel_of(recipe.load.parallel)
    check_launcher(parallel)
    if parallel.way is Way.DDP:
        return
    if parallel.way is Way.DEEPSPEED and importlib.util.find_spec("deepspeed") is None:
        raise ConfigError("load.parallel = 'deepspeed', but DeepSpeed is not installed: pip install 'rlvr[deepspeed]'")
    if recipe.optim.reference_every:
        raise ConfigError(
            f"optim.reference_every = {recipe.optim.reference_every}, but with load.parallel = '{parallel.way}' the reference "
            "stays the model that the run began with; set optim.reference_every to 0, or load.parallel to 'ddp'"
        )
    if parallel.shares_weights and "flash" in recipe.load.attention:
        raise ConfigError(
            f"load.attention = {recipe.load.attention!r}, but with load.parallel = '{parallel.way}' a model is looked at on the "
            "CPU before it is shared out; leave load.attention at 'auto', where sequences are joined without padding, too"
        )


def sampling_of(recipe: RunConfig) -> Sampling:
    """How training rollouts are drawn; the recipe must have been checked."""
    rollout = recipe.rollout
    if rollout.max_tokens is None or rollout.stop is None:
        raise ConfigError("rollout.max_tokens and rollout.stop are not set; run the recipe through check_recipe first")
    return Sampling(
        max_tokens=rollout.max_tokens,
        temperature=rollout.temperature,
        top_p=rollout.top_p,
        top_k=rollout.top_k,
        min_p=rollout.min_p,
        stop=rollout.stop,
    )


def training_problems(recipe: RunConfig, task: Task) -> list[Problem]:
    """The problems of the recipe's split, within its pass-rate window where it names one.

    Raises:
        TaskError: the split cannot be read.
        ConfigError: pass rates of another model or task, a window that keeps nothing, or a shape that reads what a problem lacks.
    """
    problems = list(task.problems(recipe.data.split, limit=recipe.data.problems))
    if not problems:
        raise ConfigError(f"data.split = {recipe.data.split!r} of task {task.name!r} has no problems to train on")
    _check_shapes(recipe, problems)
    rates = measured_rates(recipe, task)
    if rates is None:
        return problems
    return select_problems(problems, rates, Window(*recipe.data.keep), f"data.pass_rates = {recipe.data.pass_rates!r}")


def _check_shapes(recipe: RunConfig, problems: Sequence[Problem]) -> None:
    algorithm = algorithm_of(recipe)
    for shape in shapes_in(algorithm.shape) if algorithm is not None else ():
        if isinstance(shape, ChecksProblems):
            for problem in problems:
                shape.check(problem)


def measured_rates(recipe: RunConfig, task: Task) -> PassRates | None:
    """What the offline filter found, where the recipe names its file.

    Raises:
        ConfigError: the file cannot be read, or is of another model, task or split.
    """
    if recipe.data.pass_rates is None:
        return None
    return load_for_training(
        recipe.data.pass_rates, model=recipe.model, task=task.name, task_args=task.args, split=recipe.data.split
    )


def check_context(
    problems: Sequence[Problem],
    renderer: Renderer,
    max_tokens: int,
    context: int,
    opening: Callable[[Problem], Opening] = lambda problem: Opening(problem.prompt),
) -> None:
    """Refuse prompts that leave no room for an answer of `max_tokens`; `opening` says what stands in them.

    Raises:
        ConfigError: names the longest prompt, the limit and the model's context.
    """
    longest = max(problems, key=lambda problem: sum(len(message.content) for message in problem.prompt))
    begun = opening(longest)
    prompt = len(renderer.prompt_ids(begun.messages, begun.tools))
    if prompt + max_tokens > context:
        raise ConfigError(
            f"rollout.max_tokens = {max_tokens} and a prompt of {prompt} tokens (problem {longest.id}) do not fit into the "
            f"model's context of {context}; set rollout.max_tokens to {max(0, context - prompt)} or less, or use another model"
        )


@dataclass(frozen=True, slots=True)
class Arithmetic:
    """The size of one step, for `--dry-run`. Memory is what training holds at least: fp32 weights, gradients, two moments."""

    rollouts_per_step: int
    max_tokens_per_step: int
    optimizer_steps_per_step: int
    total_rollouts: int
    parameters: int
    training_memory_gb: float
    checkpoint_gb: float


@dataclass(frozen=True, slots=True)
class Ahead:
    """How far generation runs ahead of the update, for `--dry-run`, and what is done about the tokens that are old then."""

    max_groups_ahead: int
    stale_tokens: str


def ahead_of(recipe: RunConfig, algorithm: Algorithm) -> Ahead | None:
    """None where generation and update take turns."""
    most = recipe.rollout.max_staleness
    return Ahead((most + 1) * recipe.rollout.problems_per_step, algorithm.stale.words) if most else None


def arithmetic(recipe: RunConfig, parameters: int, *, needs_reference: bool) -> Arithmetic:
    rollouts = recipe.rollout.group_size * recipe.rollout.problems_per_step
    copies = 4 + (1 if needs_reference and not recipe.load.lora_rank else 0)
    return Arithmetic(
        rollouts_per_step=rollouts,
        max_tokens_per_step=rollouts * (recipe.rollout.max_tokens or 0),
        optimizer_steps_per_step=recipe.optim.epochs * recipe.optim.minibatches,
        total_rollouts=rollouts * recipe.steps,
        parameters=parameters,
        training_memory_gb=parameters * 4 * copies / 1e9,
        checkpoint_gb=parameters * 12 / 1e9,
    )
