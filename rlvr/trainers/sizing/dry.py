"""From a checked recipe to its estimate, without loading weights."""

from __future__ import annotations

from typing import Any

import torch

from rlvr.config import RunConfig
from rlvr.engines.load import model_source
from rlvr.envs.tasks import load_task
from rlvr.errors import CheckpointError, boundary
from rlvr.trainers.model.tiny import tiny_model
from rlvr.trainers.plan import algorithm_of, training_problems
from rlvr.trainers.sizing.devices import Machine
from rlvr.trainers.sizing.estimate import Estimate, Subject, estimate_run
from rlvr.trainers.sizing.shape import adapter_parameters, shape_of

_CHARACTERS_PER_TOKEN = 3  # fewer than English has, so that prompts are not taken for shorter than they are
_TEMPLATE_TOKENS = 16


def estimate_recipe(recipe: RunConfig, machine: Machine) -> Estimate | None:
    """Of a recipe that `dry_run` has checked; None for a model that is not built like Llama, whose memory is not known here.

    Raises:
        CheckpointError, TaskError: the model's config or the task's problems cannot be read.
    """
    task, algorithm = load_task(recipe.task, recipe.task_args), algorithm_of(recipe)
    assert algorithm is not None, "a recipe of kind rl has an algorithm"
    is_tiny = recipe.model == "new:tiny"
    if is_tiny:
        assert task.tiny is not None, "dry_run has checked this"
        model: Any = tiny_model(task.tiny, recipe.seed)[0]
    else:
        model = _skeleton(recipe.model)
    shape = shape_of(model)
    if shape is None:
        return None
    problems = training_problems(recipe, task)
    longest = max(sum(len(message.content) for message in problem.prompt) for problem in problems)
    has_several_updates = recipe.optim.epochs * recipe.optim.minibatches > 1
    subject = Subject(
        shape=shape,
        adapter=adapter_parameters(model, recipe.load),
        adapter_of_16=adapter_parameters(model, recipe.load.model_copy(update={"lora_rank": 16})),
        prompt=_TEMPLATE_TOKENS + (longest if is_tiny else longest // _CHARACTERS_PER_TOKEN),
        has_reference=algorithm.needs_reference,
        scoring_passes=int(has_several_updates or algorithm.needs_policy_logprobs) + int(algorithm.needs_reference),
    )
    return estimate_run(recipe, subject, machine)


def _skeleton(name: str) -> Any:
    """The model without memory for its weights."""
    from transformers import AutoConfig, AutoModelForCausalLM

    with boundary(CheckpointError, f"the model config of {name!r} cannot be read"), torch.device("meta"):
        return AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(model_source(name)))
