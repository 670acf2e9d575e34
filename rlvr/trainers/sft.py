"""Supervised warm start: cross-entropy on responses, prompts masked, sequences packed."""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from rlvr.config import SftConfig
from rlvr.envs.renderer import Renderer
from rlvr.envs.tasks import Task
from rlvr.envs.tasks.demonstrations import read_demonstrations
from rlvr.errors import ConfigError
from rlvr.evaluation.observer import Observer
from rlvr.seeding import rng, seed
from rlvr.tools.formats import format_named
from rlvr.tools.formats.blocks import Blocks
from rlvr.tools.parse import ToolFormat
from rlvr.trainers.model.packing import microbatches
from rlvr.trainers.model.policy import Policy
from rlvr.trainers.model.sequences import pad
from rlvr.trainers.run.session import Session
from rlvr.types import Message


@dataclass(frozen=True, slots=True)
class Example:
    """One training sequence; `loss_mask` is True on what the model is to say: not on the prompt, nor on what a tool said."""

    token_ids: tuple[int, ...]
    loss_mask: tuple[bool, ...]


class DemonstrationSampler:
    """Examples of any step, as a function of (seed, step) alone, so that a resumed run sees the same ones."""

    def __init__(self, task: Task, recipe: SftConfig, renderer: Renderer, tokenizer: Any, max_tokens: int) -> None:
        self._task, self._recipe, self._renderer, self._tokenizer = task, recipe, renderer, tokenizer
        self._max_tokens = max_tokens
        self._end = () if tokenizer.eos_token_id is None else (tokenizer.eos_token_id,)
        self._format = format_named(task.env.format) if task.env is not None and task.env.format != "auto" else None
        self._rows = read_demonstrations(recipe.data) if recipe.data else None
        self._size = len(self._rows) if self._rows is not None else len(task.problems("train"))
        self.left_out = 0  # of the latest batch

    def batch(self, step: int) -> list[Example]:
        """The step's examples; those longer than `max_tokens` are replaced by others and counted in `left_out`.

        Raises:
            ConfigError: hardly any example is short enough.
        """
        draw = rng("sft", self._recipe.seed, step)
        self.left_out = 0
        chosen: list[Example] = []
        for _ in range(20 * self._recipe.sequences_per_step):
            example = self._example(draw.randrange(self._size), step)
            if len(example.token_ids) <= self._max_tokens:
                chosen.append(example)
            else:
                self.left_out += 1
            if len(chosen) == self._recipe.sequences_per_step:
                return chosen
        raise ConfigError(
            f"hardly any demonstration fits into max_tokens = {self._max_tokens}: raise it (the model's context is the limit)"
        )

    def _example(self, index: int, step: int) -> Example:
        messages, response = self._demonstration(index, step)
        tokens = list(self._renderer.prompt_ids(messages))
        mask = [False] * len(tokens)
        for text, is_said in _pieces(response, self._format):
            piece = self._tokenizer.encode(text, add_special_tokens=False)
            tokens += piece
            mask += [is_said] * len(piece)
        return Example((*tokens, *self._end), (*mask, *[True] * len(self._end)))

    def _demonstration(self, index: int, step: int) -> tuple[Sequence[Message], str]:
        if self._rows is not None:
            return self._rows[index]
        shown = self._task.demonstration("train", index, seed("demonstration", self._recipe.seed, step, index))
        return shown.problem.prompt, shown.response


class SupervisedRun:
    """A warm start, from the session's present step to the end.

    Raises:
        TaskError, ConfigError: the task or the file has no demonstrations, or none fits into `max_tokens`.
    """

    def __init__(self, session: Session, recipe: SftConfig, task: Task, observer: Observer) -> None:
        self._session, self._recipe, self._observer = session, recipe, observer
        limit = min(recipe.max_tokens or session.max_context, session.max_context)
        self._sampler = DemonstrationSampler(task, recipe, session.renderer, session.tokenizer, limit)
        self._sampler.batch(session.step)

    async def run(self) -> None:
        """Leaves what was found in `session.results`.

        Raises:
            TrainingError: the loss is not finite.
            asyncio.CancelledError: interrupted; the last finished step was saved.
        """
        session, observer = self._session, self._observer
        observer.stage("supervised warm start", self._recipe.steps)
        observer.advance(session.step)
        while session.step < self._recipe.steps:
            await _interruption_point(session)
            metrics = self._step()
            session.finish_step(metrics)
            session.extra_state = {"loss": metrics["loss"]}
            observer.advance(loss=metrics["loss"], tokens_per_s=metrics["time_tokens_per_s"])
            session.checkpoint_if_due()
        session.save()
        session.results = {"kind": "sft", **session.extra_state}

    def _step(self) -> dict[str, Any]:
        started = time.perf_counter()
        examples = self._sampler.batch(self._session.step)
        metrics = _update(self._session, self._session.policy, examples, self._recipe)
        elapsed = time.perf_counter() - started
        times = {"time_step_s": elapsed, "time_tokens_per_s": metrics["tokens"] / elapsed}
        return metrics | {"left_out": self._sampler.left_out} | times


async def _interruption_point(session: Session) -> None:
    """Where Ctrl-C is heard: between two steps, when everything is whole."""
    try:
        await session.world.agreed(asyncio.sleep(0))
    except asyncio.CancelledError:
        session.save()
        raise


def _pieces(response: str, tool_format: ToolFormat | None) -> Iterator[tuple[str, bool]]:
    """The parts of a demonstration, cut where a rollout has its borders, and whether the model says them (not a tool)."""
    start = 0
    for begin, end in tool_format.outputs(response) if isinstance(tool_format, Blocks) else ():
        yield response[start:begin], True
        yield response[begin:end], False
        start = end
    yield response[start:], True


def _update(session: Session, policy: Policy, examples: Sequence[Example], recipe: SftConfig) -> dict[str, Any]:
    total = sum(sum(example.loss_mask) for example in examples)
    share = session.world.share(examples)
    parts = microbatches([len(example.token_ids) for example in share], recipe.optim.tokens_per_microbatch)

    def loss_of(indices: list[int]) -> torch.Tensor:
        rows = [share[index] for index in indices]
        input_ids = pad([row.token_ids for row in rows], torch.long)
        lengths = torch.tensor([len(row.token_ids) for row in rows])
        mask = pad([row.loss_mask for row in rows], torch.bool)
        return -policy.score(input_ids, lengths, mask).logprobs.sum() / total

    stats = session.updater.step([functools.partial(loss_of, part) for part in parts], session.step)
    tokens = sum(len(example.token_ids) for example in examples)
    return {"loss": stats.loss, "grad_norm": stats.grad_norm, "lr": stats.lr, "tokens": tokens, "response_tokens": total}
