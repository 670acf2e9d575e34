"""Verifiers on the nodes of a Ray cluster: an actor on each, with the same killable worker processes as on one machine."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping, Sequence
from typing import Any

from rlvr.errors import VerifierError, boundary
from rlvr.integrations.ray_cluster import ActorFailedError, ActorLostError, NodeActors, joined
from rlvr.types import JSON, Rollout, Verdict
from rlvr.verifiers.call import MAX_REASON_CHARS, clip
from rlvr.verifiers.chunk import GradedChunk
from rlvr.verifiers.pool import CHUNK_TIMEOUT_S, START_TIMEOUT_S, WorkerPool
from rlvr.verifiers.protocol import rollout_from_json, rollout_to_json, verdict_from_json, verdict_to_json

_ATTEMPTS = 2  # what an actor was doing when it was lost is done once more
_MARGIN_S = 60.0  # beyond a worker's own limits; an actor that takes longer is stuck
_CLOSE_S = 10.0


class GradingNode:
    """What runs in an actor. A response never gets into the actor's own Python but as text: workers read it, under limits."""

    def __init__(self, references: Sequence[str], limits: Mapping[str, Any]) -> None:
        self._references, self._limits = list(references), dict(limits)
        self._pool: WorkerPool | None = None

    async def grade(self, name: str, reference: str, row: Mapping[str, JSON], settings: Mapping[str, JSON]) -> dict[str, JSON]:
        verdict = await self._workers().grade(name, reference, rollout_from_json(row), settings)
        return verdict_to_json(verdict)

    async def grade_chunk(
        self, reference: str, lines: Sequence[str], name: str, first: int, settings: Mapping[str, JSON]
    ) -> dict[str, JSON]:
        return (await self._workers().grade_chunk(reference, lines, name, first, settings)).to_json()

    async def pid(self) -> int:
        """Of the actor's process."""
        return os.getpid()

    async def close(self) -> None:
        if self._pool is not None:
            await self._pool.close()

    def _workers(self) -> WorkerPool:
        if self._pool is None:  # here, because a pool belongs to the event loop that it is used in
            self._pool = WorkerPool(self._references, **self._limits)
        return self._pool


class RayPool:
    """`workers` processes on each node of the cluster at most; the node with the least to do grades.

    An actor that is lost is replaced, on whichever node has room, and what it was grading is graded once more; then the verdict
    is an error, which has no score. Files that references name must be on every node, under the same path.

    Raises:
        ConfigError: Ray is not installed.
        EngineError: the cluster does not answer.
    """

    def __init__(
        self,
        references: Sequence[str],
        *,
        workers: int,
        timeout_s: float,
        retries: int,
        memory_mb: int | None,
        address: str | None = None,
    ) -> None:
        self._ray = joined(address)
        self._references = tuple(references)
        self._limits: dict[str, Any] = {"workers": workers, "timeout_s": timeout_s, "retries": retries, "memory_mb": memory_mb}
        self._limit_s = START_TIMEOUT_S + (1 + retries) * timeout_s + _MARGIN_S
        self._nodes = NodeActors(
            self._ray, GradingNode, (self._references, self._limits), who="a grading actor", at_once=4 * workers + 4
        )
        # So that nothing waits inside an actor, where its time would run.
        self._slots = asyncio.Semaphore(workers * len(self._nodes.members))
        self._is_closed = False

    async def pids(self) -> list[int]:
        """The process of each actor that grades now."""
        return [await member.handle.pid.remote() for member in self._nodes.members]

    @property
    def losses(self) -> int:
        """How often an actor was replaced so far."""
        return self._nodes.losses

    async def grade(self, name: str, reference: str, rollout: Rollout, settings: Mapping[str, JSON]) -> Verdict:
        """As `WorkerPool.grade`: never raises for what a verifier, a worker or a node does."""
        try:
            with boundary(VerifierError, "grading on a Ray cluster"):
                row = await self._asked("grade", name, reference, rollout_to_json(rollout), dict(settings), limit_s=self._limit_s)
                return verdict_from_json(row)
        except VerifierError as error:
            return Verdict.error(f"verifier {name!r}: {clip(str(error), MAX_REASON_CHARS)}")

    async def grade_chunk(
        self, reference: str, lines: Sequence[str], name: str, first: int, settings: Mapping[str, JSON]
    ) -> GradedChunk:
        """As `WorkerPool.grade_chunk`.

        Raises:
            VerifierError: its worker ended or got stuck, or its node was lost twice.
        """
        limit_s = CHUNK_TIMEOUT_S + _MARGIN_S
        row = await self._asked("grade_chunk", reference, list(lines), name, first, dict(settings), limit_s=limit_s)
        return GradedChunk.from_json(row)

    async def close(self) -> None:
        """End the workers of every node, and the actors; the cluster stays."""
        self._is_closed = True
        await self._nodes.close("close", _CLOSE_S)

    async def _asked(self, method: str, *words: Any, limit_s: float) -> Any:
        async with self._slots:
            cause, node = "", min(self._nodes.members, key=lambda one: one.in_flight, default=None)
            for _ in range(_ATTEMPTS):
                if self._is_closed or node is None:
                    raise VerifierError("the grader was closed")
                try:
                    # The second time it is the actor that replaced the lost one.
                    return await self._nodes.ask(node, method, *words, limit_s=limit_s)
                except ActorFailedError as error:
                    raise VerifierError(str(error)) from error
                except ActorLostError as error:
                    cause = str(error)
            raise VerifierError(f"{cause} ({_ATTEMPTS} attempts)")
