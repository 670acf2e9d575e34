"""Grade rollouts with weighted verifiers: in this process where that is safe, in killable workers where it is not.

A verifier that waits (for a sandbox, for a network) runs in threads of this process, so that the event loop never does.
"""

from __future__ import annotations

import asyncio
import functools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import TracebackType

from rlvr.errors import ConfigError, PluginError, VerifierError
from rlvr.registry import Plugin, resolve
from rlvr.types import JSON, Rollout, Verdict
from rlvr.verifiers.base import Nested, Verifier, as_verifier
from rlvr.verifiers.call import call_asking, call_quickly, call_verifier, probe_responses, too_long
from rlvr.verifiers.chunk import GradedChunk
from rlvr.verifiers.compose import breakdown, weighted_reward
from rlvr.verifiers.pool import MakePool, VerifierPool, WorkerPool, is_timeout
from rlvr.verifiers.settings import check_settings
from rlvr.verifiers.threads import Threads

MAX_NESTING = 8
CLOSE_GRACE_S = 5.0  # for threads that wait when the grader is closed
JOBS_A_WORKER = 4  # enough to keep a worker busy while its last verdict is read


@dataclass(frozen=True, slots=True)
class WeightedVerifier:
    """A verifier by name or reference, its weight in the reward, and its settings."""

    reference: str
    weight: float = 1.0
    settings: Mapping[str, JSON] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Part:
    key: str
    verifier: Verifier
    reference: str
    weight: float
    settings: Mapping[str, JSON]
    is_isolated: bool
    waiting: tuple[Verifier, ...]  # itself and those nested in it, as far as they wait for something
    loads: tuple[str, ...]  # references that a worker imports for this part: its own and those nested in it
    is_reachable: bool  # whether a worker finds them
    is_bounded: bool  # whether it has a way that takes bounded time

    @property
    def is_elsewhere(self) -> bool:
        """Whether it runs in a worker or a thread, or parts of it do."""
        return self.is_isolated or bool(self.waiting)


class Grader:
    """Fills `verdicts` and `reward` of rollouts.

    `workers` processes at most are started, when they are first needed, for the isolated verifiers; each rollout
    has `timeout_s` of wall-clock time and each worker `memory_mb` of address space (None: no limit). A worker that
    crashed is replaced and its rollout tried `retries` times more; one that ran into the time limit is not tried again.
    Verifiers that wait share `threads` threads of this process. The parts of a combination run where each of them belongs;
    only one without `asks` runs in a worker as a whole, if any of its parts is isolated. `make_pool` says where workers are:
    on this machine, or elsewhere.

    A grader belongs to the event loop of its first `grade`. Close it, or use it as an async context manager.

    Raises:
        PluginError: a verifier is unknown, ambiguous or broken, or cannot be found by a worker process.
        ConfigError: a weight, a setting or a limit is wrong.
    """

    def __init__(
        self,
        verifiers: Sequence[WeightedVerifier],
        *,
        workers: int = 2,
        timeout_s: float = 10.0,
        retries: int = 1,
        memory_mb: int | None = 4096,
        threads: int = 64,
        make_pool: MakePool = WorkerPool,
    ) -> None:
        _check_limits(workers, timeout_s, retries, memory_mb, threads)
        if not verifiers:
            raise ConfigError("no verifiers: give at least one to grade with")
        self._parts = _resolve_all(verifiers)
        self._weights = {part.key: part.weight for part in self._parts}
        self._make_pool = functools.partial(make_pool, workers=workers, timeout_s=timeout_s, retries=retries, memory_mb=memory_mb)
        self._nested: dict[str, _Part] = {}
        self._at_once = max(JOBS_A_WORKER * workers, threads if self.has_waiting else 0)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._pool: VerifierPool | None = None
        self._threads = Threads(threads, lambda: Verdict.error("the grader was closed"))

    @property
    def has_isolated(self) -> bool:
        """Whether any verifier runs in worker processes."""
        return any(part.is_isolated for part in self._parts)

    @property
    def has_waiting(self) -> bool:
        """Whether any verifier, or a part of one, runs in threads because it waits for something."""
        return any(part.waiting for part in self._parts)

    @property
    def at_once(self) -> int:
        """How many rollouts are worth grading at the same time."""
        return self._at_once

    def prepare(self) -> None:
        """Find out whether what the verifiers wait for is there (a sandbox, say), before long work begins. Blocks.

        Raises:
            SandboxError, ConfigError: it is not: what was tried, and what to do.
        """
        for verifier in {one.name: one for part in self._parts for one in part.waiting}.values():
            if verifier.warm_up is not None:
                verifier.warm_up()

    def provenance(self) -> dict[str, dict[str, JSON]]:
        """For each key of `rollout.verdicts`: which verifier it was, in which version, with which weight and settings."""
        return {
            part.key: {
                "reference": part.reference,
                "version": part.verifier.version,
                "weight": part.weight,
                "settings": dict(part.settings),
            }
            for part in self._parts
        }

    def breakdown(self, rollout: Rollout) -> dict[str, float | None]:
        """What each verifier adds to the reward of a graded rollout; the parts sum to `rollout.reward`."""
        return breakdown(rollout.verdicts, self._weights)

    async def grade(self, rollout: Rollout, *, is_open: bool = False) -> None:
        """Fill `rollout.verdicts` (in the order of the verifiers) and `rollout.reward` (None if anything failed).

        `is_open`: a quick way was tried before, as in `grade_chunk`, and gave no verdict.

        Never raises for what a verifier or the model does: that is in the verdicts.

        Raises:
            VerifierError: this grader belongs to another event loop.
        """
        if rollout.error is not None:
            rollout.verdicts = {part.key: Verdict.error(f"the rollout failed: {rollout.error}") for part in self._parts}
        elif (verdict := too_long(rollout)) is not None:
            rollout.verdicts = {part.key: verdict for part in self._parts}
        else:
            verdicts = await self._together(self._parts, rollout, is_open=is_open)
            rollout.verdicts = {part.key: verdict for part, verdict in zip(self._parts, verdicts, strict=True)}
        rollout.reward = None if rollout.error is not None else weighted_reward(rollout.verdicts, self._weights)

    @property
    def grades_chunks(self) -> bool:
        """Whether `grade_chunk` may be called: there is one verifier, with a bounded way that a worker finds."""
        part, *others = self._parts
        return not others and part.is_reachable and part.is_bounded

    async def grade_chunk(self, lines: Sequence[str], name: str, first: int) -> GradedChunk:
        """Grade input lines in a worker, up to what takes bounded time: see `chunk.grade_chunk`.

        Raises:
            VerifierError: the worker ended or got stuck, or this grader belongs to another event loop.
        """
        part = self._parts[0]
        try:
            return await self._workers().grade_chunk(part.reference, lines, name, first, part.settings)
        except VerifierError as error:
            raise VerifierError(f"verifier {part.key!r}: its worker {error}") from error

    async def close(self) -> None:
        """Kill the workers and wait until they are gone; for threads that wait for a verdict, wait a moment."""
        if self._pool is not None:
            await self._pool.close()
        await asyncio.to_thread(self._threads.close, CLOSE_GRACE_S)

    async def __aenter__(self) -> Grader:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.close()

    async def _together(self, parts: Sequence[_Part], rollout: Rollout, *, is_open: bool = False) -> list[Verdict]:
        if sum(part.is_elsewhere for part in parts) < 2:
            return [await self._verdict(part, rollout, is_open=is_open) for part in parts]
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._verdict(part, rollout, is_open=is_open)) for part in parts]
        return [task.result() for task in tasks]

    async def _verdict(self, part: _Part, rollout: Rollout, *, is_open: bool) -> Verdict:
        if not part.is_elsewhere:
            return call_verifier(part.verifier, rollout, part.settings)
        if not is_open and (quick := call_quickly(part.verifier, rollout, part.settings)) is not None:
            return quick
        if part.verifier.asks is not None:
            return await call_asking(part.verifier, rollout, part.settings, functools.partial(self._ask, rollout))
        return await (self._grade_isolated(part, rollout) if part.is_isolated else self._grade_in_thread(part, rollout))

    async def _ask(self, rollout: Rollout, nested: Sequence[Nested]) -> list[Verdict]:
        return await self._together([self._nested_part(one) for one in nested], rollout)

    def _nested_part(self, nested: Nested) -> _Part:
        name = json.dumps([nested.reference, nested.settings], sort_keys=True, default=repr)
        if name not in self._nested:
            self._nested[name] = _resolved(WeightedVerifier(nested.reference, 1.0, nested.settings))
        return self._nested[name]

    async def _grade_in_thread(self, part: _Part, rollout: Rollout) -> Verdict:
        return await asyncio.wrap_future(self._threads.submit(lambda: call_verifier(part.verifier, rollout, part.settings)))

    async def _grade_isolated(self, part: _Part, rollout: Rollout) -> Verdict:
        verdict = await self._workers().grade(part.key, part.reference, rollout, part.settings)
        if not is_timeout(verdict) or part.verifier.probe is None:
            return verdict
        return await self._blame(part, rollout, verdict)

    async def _blame(self, part: _Part, rollout: Rollout, timeout: Verdict) -> Verdict:
        """Whose fault a timeout was: the response's, if responses of the verifier's own choice are graded in time."""
        responses = probe_responses(part.verifier, rollout.problem)
        for response in responses:
            probe = Rollout.from_response(rollout.problem, response)
            verdict = await self._workers().grade(part.key, part.reference, probe, part.settings)
            if verdict.score is None:
                return timeout
        if not responses:
            return timeout
        return Verdict.incorrect(reason=f"comparing the answer takes too long: {timeout.reason}", blame="answer")

    def _workers(self) -> VerifierPool:
        loop = asyncio.get_running_loop()
        if self._pool is None:
            references = [reference for part in self._parts if part.is_isolated for reference in part.loads]
            self._loop, self._pool = loop, self._make_pool(list(dict.fromkeys(references)))
        if self._loop is not loop:
            raise VerifierError("this Grader belongs to another event loop; make one Grader for each asyncio.run")
        return self._pool


def _resolve_all(verifiers: Sequence[WeightedVerifier]) -> tuple[_Part, ...]:
    parts: list[_Part] = []
    keys: set[str] = set()
    for weighted in verifiers:
        part = _resolved(weighted)
        key, count = part.key, 1
        while key in keys:
            count += 1
            key = f"{part.key}#{count}"
        keys.add(key)
        parts.append(replace(part, key=key))
    return tuple(parts)


def _resolved(weighted: WeightedVerifier) -> _Part:
    plugin = resolve("verifiers", weighted.reference)
    verifier = as_verifier(plugin)
    if isinstance(weighted.weight, bool) or not math.isfinite(weighted.weight):
        raise ConfigError(f"verifier {verifier.name!r} has weight {weighted.weight}; a weight is a finite number")
    family = _family(plugin, verifier, weighted.settings)
    leaves = [member for _, member in family if member.nested is None]
    is_isolated = any(leaf.isolated for leaf in leaves)
    lost = next((member for member, _ in family if not member.is_reachable), None)
    if is_isolated and lost is not None:
        raise PluginError(
            f"verifier {lost.name!r} ({lost.reference}) runs in worker processes, which cannot find it; define it at the "
            "top level of a file, or declare isolated=False if it is linear in the response"
        )
    return _Part(
        key=verifier.name,
        verifier=verifier,
        reference=plugin.reference,
        weight=float(weighted.weight),
        settings=dict(weighted.settings),
        is_isolated=is_isolated,
        waiting=tuple(member for _, member in family if member.waits),
        loads=tuple(member.reference for member, _ in family),
        is_reachable=lost is None,
        is_bounded=all(one.quick is not None or not (one.isolated or one.waits) for one in (verifier, *leaves)),
    )


def _family(plugin: Plugin, verifier: Verifier, settings: Mapping[str, JSON], depth: int = 0) -> list[tuple[Plugin, Verifier]]:
    """A verifier and all that its settings nest in it, with every setting checked."""
    if depth > MAX_NESTING:
        raise ConfigError(f"verifier {verifier.name!r} is nested more than {MAX_NESTING} deep")
    check_settings(verifier, settings)
    family = [(plugin, verifier)]
    for child in verifier.nested(settings) if verifier.nested is not None else ():
        found = resolve("verifiers", child.reference)
        family += _family(found, as_verifier(found), child.settings, depth + 1)
    return family


def _check_limits(workers: int, timeout_s: float, retries: int, memory_mb: int | None, threads: int) -> None:
    if workers < 1:
        raise ConfigError(f"workers = {workers}; at least 1 is needed")
    if threads < 1:
        raise ConfigError(f"threads = {threads}; at least 1 is needed")
    if not (math.isfinite(timeout_s) and timeout_s > 0):
        raise ConfigError(f"timeout_s = {timeout_s}; it must be a positive number of seconds")
    if retries < 0:
        raise ConfigError(f"retries = {retries}; it must be 0 or more")
    if memory_mb is not None and memory_mb < 128:
        raise ConfigError(f"memory_mb = {memory_mb}; a worker needs at least 128, or None for no limit")
