"""The one rollout loop: prompt, completion, reply, ... verdict."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar, cast

from rlvr.envs.base import Env, Opening, Reply
from rlvr.envs.dialogue import ChatDialogue, ChatEngine, Dialogue, TokenDialogue
from rlvr.envs.renderer import Renderer
from rlvr.errors import ConfigError, ContextFullError, RolloutError, boundary
from rlvr.progress import PROGRESS
from rlvr.seeding import Part, seed
from rlvr.types import Engine, FinishReason, Group, Problem, Rollout, Sampling, Stop, Turn

T = TypeVar("T")
_CLOSE_S = 60.0


class Grades(Protocol):
    """What the loop needs of a grader: fill in `rollout.verdicts` and `rollout.reward`."""

    async def grade(self, rollout: Rollout) -> None: ...


@dataclass(frozen=True, slots=True)
class RolloutLimits:
    """How far a rollout may go: requests to the engine, and seconds outside it, for tools and environment."""

    turns: int = 32
    wall_s: float = 600.0


class RolloutRunner:
    """Runs rollouts of one environment on one engine, and grades each as soon as it ends.

    `sampling.max_tokens` bounds the tokens that the policy samples in a whole rollout, over all its turns. An engine that takes
    messages (`ChatEngine`) needs no renderer. While tools run, a rollout has no request at the engine: others have its place.
    """

    def __init__(
        self,
        engine: Engine | ChatEngine,
        renderer: Renderer | None,
        env: Callable[[], Env],
        grader: Grades,
        *,
        limits: RolloutLimits | None = None,
    ) -> None:
        self._chat = engine if isinstance(engine, ChatEngine) else None
        self._engine = engine
        self._renderer = renderer
        self._env = env
        self._grader = grader
        self._limits = limits or RolloutLimits()

    async def run_group(self, problem: Problem, n: int, sampling: Sampling, *seed_parts: Part, first: int = 0) -> Group:
        """`n` rollouts of one problem at the same time; their indices start at `first`."""
        indices = range(first, first + n)
        rollouts = await asyncio.gather(*(self.run(problem, index, sampling, *seed_parts) for index in indices))
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
                    rollout.stop = await self._converse(env, rollout, sampling, seed_parts)
                finally:
                    async with asyncio.timeout(_CLOSE_S):
                        await env.close()
        except RolloutError as error:
            rollout.error = str(error)
            rollout.stop = Stop.ERROR
        await self._grader.grade(rollout)
        PROGRESS.made()
        return rollout

    async def _converse(self, env: Env, rollout: Rollout, sampling: Sampling, seed_parts: tuple[Part, ...]) -> Stop:
        """Fill `rollout.turns`; returns why it ended."""
        parts = (*seed_parts, rollout.problem.id, rollout.sample_index)
        clock = _Clock(self._limits.wall_s)
        try:
            opening = await clock.run(env.start(rollout.problem, seed(*parts, "env")))
        except _TimeIsUpError:
            raise RolloutError(f"the environment did not start within {self._limits.wall_s:g} s") from None
        dialogue = self._begin(opening)
        stops = tuple(dict.fromkeys((*sampling.stop, *opening.stop)))
        for turn_index in range(self._limits.turns):
            left = sampling.max_tokens - rollout.completion_tokens
            if left <= 0:
                return Stop.LENGTH
            try:
                turn = await dialogue.ask(replace(sampling, max_tokens=left, stop=stops, seed=seed(*parts, turn_index)))
            except ContextFullError:
                if turn_index == 0:
                    raise
                return Stop.LENGTH  # the conversation outgrew the model: its fault, or nobody's
            rollout.turns.append(turn)
            PROGRESS.made()
            if turn.completion.finish_reason is FinishReason.ABORT:
                raise RolloutError(f"the engine aborted turn {turn_index + 1}")
            if turn.completion.finish_reason is FinishReason.LENGTH:
                return Stop.LENGTH
            try:
                reply = await clock.run(env.reply([*dialogue.messages, turn.message]))
            except _TimeIsUpError:
                return Stop.WALL_TIME
            rollout.turns[-1] = _taken(dialogue, turn, reply)
            if reply.is_last:
                return reply.stop or Stop.STOP
        return Stop.MAX_TURNS

    def _begin(self, opening: Opening) -> Dialogue:
        if self._chat is not None:
            return ChatDialogue(self._chat, opening)
        if self._renderer is None:
            raise ConfigError("an engine that takes tokens needs a renderer")
        return TokenDialogue(cast(Engine, self._engine), self._renderer, opening)


def _taken(dialogue: Dialogue, turn: Turn, reply: Reply) -> Turn:
    try:
        return dialogue.take(turn, reply)
    except ConfigError as error:  # the template took the opening, so it is this conversation alone that it refuses
        raise RolloutError(str(error)) from error


class _TimeIsUpError(Exception):
    """The rollout's time outside the engine is used up."""


class _Clock:
    """Runs only while a rollout waits for its environment: a full engine is not the rollout's doing."""

    def __init__(self, limit_s: float) -> None:
        self._left_s = limit_s

    async def run(self, work: Coroutine[Any, Any, T]) -> T:
        """
        Raises:
            _TimeIsUpError: it was cancelled, for the time was up.
        """
        started = time.monotonic()
        try:
            async with asyncio.timeout(max(0.0, self._left_s)) as timeout:
                return await work
        except TimeoutError:
            if not timeout.expired():
                raise
            raise _TimeIsUpError from None
        finally:
            self._left_s -= time.monotonic() - started
