"""The one rollout loop: prompt, completion, reply, ... verdict."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

from rlvr.envs.base import Env
from rlvr.envs.renderer import Renderer
from rlvr.errors import ContextFullError, RolloutError, boundary
from rlvr.seeding import Part, seed
from rlvr.types import Engine, FinishReason, Group, Message, Problem, Rollout, Sampling, Stop, Turn


class Grades(Protocol):
    """What the loop needs of a grader: fill in `rollout.verdicts` and `rollout.reward`."""

    async def grade(self, rollout: Rollout) -> None: ...


class RolloutRunner:
    """Runs rollouts of one environment on one engine, and grades each as soon as it ends.

    `sampling.max_tokens` bounds the tokens that the policy samples in a whole rollout, over all its turns.
    """

    def __init__(
        self, engine: Engine, renderer: Renderer, env: Callable[[], Env], grader: Grades, *, max_turns: int = 16
    ) -> None:
        self._engine = engine
        self._renderer = renderer
        self._env = env
        self._grader = grader
        self._max_turns = max_turns

    async def run_group(self, problem: Problem, n: int, sampling: Sampling, *seed_parts: Part) -> Group:
        """`n` rollouts of one problem at the same time."""
        rollouts = await asyncio.gather(*(self.run(problem, index, sampling, *seed_parts) for index in range(n)))
        return Group(problem, tuple(rollouts))

    async def run(self, problem: Problem, sample_index: int, sampling: Sampling, *seed_parts: Part) -> Rollout:
        """One graded rollout; its tokens depend on the policy, the problem, `sample_index` and `seed_parts` alone.

        A failure of the infrastructure is recorded in `Rollout.error`, never raised: the siblings go on.
        """
        rollout = Rollout(problem, sample_index)
        try:
            with boundary(RolloutError, f"rollout {sample_index} of problem {problem.id}"):
                env = self._env()
                try:
                    await self._converse(env, rollout, sampling, seed_parts)
                finally:
                    await env.close()
        except RolloutError as error:
            rollout.error = str(error)
            rollout.stop = Stop.ERROR
        await self._grader.grade(rollout)
        return rollout

    async def _converse(self, env: Env, rollout: Rollout, sampling: Sampling, seed_parts: tuple[Part, ...]) -> None:
        messages: list[Message] = list(await env.start(rollout.problem))
        prompt_ids = self._renderer.prompt_ids(messages)
        for turn_index in range(self._max_turns):
            request = replace(
                sampling,
                max_tokens=sampling.max_tokens - rollout.completion_tokens,
                seed=seed(*seed_parts, rollout.problem.id, rollout.sample_index, turn_index),
            )
            try:
                completion = await self._engine.generate(prompt_ids, request)
            except ContextFullError:
                if turn_index == 0:
                    raise
                rollout.stop = Stop.LENGTH  # the conversation outgrew the model: its fault, or nobody's
                return
            turn = Turn(prompt_ids, completion, self._renderer.parse(completion))
            rollout.turns.append(turn)
            if completion.finish_reason is FinishReason.ABORT:
                raise RolloutError(f"the engine aborted turn {turn_index + 1}")
            if completion.finish_reason is FinishReason.LENGTH:
                rollout.stop = Stop.LENGTH
                return
            replies = await env.reply([*messages, turn.message])
            if not replies:
                rollout.stop = Stop.STOP
                return
            rollout.turns[-1] = replace(turn, replies=replies)
            if rollout.completion_tokens >= sampling.max_tokens:
                rollout.stop = Stop.LENGTH
                return
            prompt_ids = self._renderer.extend(messages, turn, replies)
            messages += [turn.message, *replies]
        rollout.stop = Stop.MAX_TURNS
