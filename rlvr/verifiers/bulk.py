"""Grade JSON lines without end: in order, in constant memory, on as many cores as there is work for.

It begins in this process, which a small input never leaves: an isolated verifier's quick way is asked here, and what that
leaves open goes to killable workers, one rollout at a time, each under the clock. Once the lines have cost more than starting
workers does, whole chunks of them go there, and again only what is left open is graded one by one. A verifier that waits (for a
sandbox) stays in this process, in threads, many rollouts at a time.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter
from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass

from rlvr.errors import TaskError, VerifierError
from rlvr.registry import resolve
from rlvr.types import Outcome, Rollout, Verdict
from rlvr.verifiers.base import as_verifier
from rlvr.verifiers.batches import Batch, in_batches
from rlvr.verifiers.call import call_verifier, too_long
from rlvr.verifiers.chunk import GradedChunk, open_chunk
from rlvr.verifiers.lines import Row, read_rows, verdict_line
from rlvr.verifiers.runner import Grader, WeightedVerifier
from rlvr.verifiers.stream import WINDOW, blocking, in_order

BATCHES_A_WORKER = 3  # under way at once: one is graded, one waits, one is read
MAX_SENT_CHARS = 2**24


@dataclass(frozen=True, slots=True)
class Graded:
    """Output lines, each with its end, what they say, and the cause of the first verdict without a score."""

    text: str
    outcomes: Mapping[str, int]
    cause: str = ""


def grade_lines(
    lines: Iterable[str],
    name: str,
    verifier: WeightedVerifier,
    *,
    workers: int,
    timeout_s: float,
    first: int = 1,
    alone_cpu_s: float = 0.5,
) -> Generator[Graded, None, None]:
    """Verdicts for the lines that are not blank, in order. `first` is the number of the first line of `lines`.

    After `alone_cpu_s` seconds of this process's CPU time, chunks of lines go to workers. Close the iterator, or exhaust it,
    to stop them.

    Raises:
        PluginError, ConfigError: as `Grader`, before a line is read.
        TaskError: a line is not what `read_rows` expects; the verdicts before it came first.
        VerifierError: the input broke off, or a verifier that claims to be safe ended its process.
    """
    grader = Grader([verifier], workers=workers, timeout_s=timeout_s)
    pays_to_start = grader.grades_chunks and (workers > 1 or grader.has_isolated)
    source = _Source(iter(lines), name, first, alone_cpu_s if pays_to_start else math.inf)
    return _grade(source, verifier, grader, BATCHES_A_WORKER * workers)


class _Source:
    """The rows of the first lines, and batches of those that follow; `alone_cpu_s` lies between them."""

    def __init__(self, lines: Iterator[str], name: str, first: int, alone_cpu_s: float) -> None:
        self.name = name
        self._lines = lines
        self._first = self._next = first
        self._alone_cpu_s = alone_cpu_s
        self._is_empty = False

    def rows(self) -> Iterator[Row]:
        return read_rows(self._alone(), self.name, self._first)

    def batches(self) -> Iterator[Batch]:
        if not self._is_empty:
            yield from in_batches(self._lines, self._next)

    def all(self) -> Iterator[Row | Batch]:
        yield from self.rows()
        yield from self.batches()

    def _alone(self) -> Iterator[str]:
        end = time.process_time() + self._alone_cpu_s
        while time.process_time() < end:
            if (line := next(self._lines, None)) is None:
                self._is_empty = True
                return
            self._next += 1
            yield line


def _grade(source: _Source, verifier: WeightedVerifier, grader: Grader, batches: int) -> Generator[Graded, None, None]:
    # What a batch leaves open stands in one queue with the batches: it shall not wait for many of them.
    under_way = asyncio.Semaphore(batches)

    async def work(item: Row | Batch) -> tuple[Graded, str]:
        if isinstance(item, Batch):
            async with under_way:
                return await _grade_batch(item, source.name, grader)
        await grader.grade(item.rollout)
        return _graded(item.identity, _verdict_of(item.rollout)), ""

    is_elsewhere = grader.has_isolated or grader.has_waiting
    if not is_elsewhere:  # microseconds each: an event loop would cost more
        found = as_verifier(resolve("verifiers", verifier.reference))
        for row in source.rows():
            yield _graded(row.identity, too_long(row.rollout) or call_verifier(found, row.rollout, verifier.settings))
    items = source.all() if is_elsewhere else source.batches()
    with closing(blocking(in_order(items, work, window=max(WINDOW, batches)), grader)) as stream:
        for graded, fault in stream:
            yield graded
            if fault:
                raise TaskError(fault)


async def _grade_batch(batch: Batch, name: str, grader: Grader) -> tuple[Graded, str]:
    """The verdicts, and what is wrong with the line after the last of them, if anything is."""
    chunk = await _grade_quickly(batch, name, grader)
    lines = ((number, batch.lines[number - batch.first]) for number in chunk.open_lines)
    rows = [row for number, line in lines for row in read_rows([line], name, number)]
    async with asyncio.TaskGroup() as group:
        for row in rows:
            group.create_task(grader.grade(row.rollout, is_open=True))
    one_by_one = [_graded(row.identity, _verdict_of(row.rollout)) for row in rows]
    text = chunk.texts[0] + "".join(one.text + text for one, text in zip(one_by_one, chunk.texts[1:], strict=True))
    outcomes = Counter(chunk.outcomes)
    for one in one_by_one:
        outcomes.update(one.outcomes)
    cause = chunk.cause or next((one.cause for one in one_by_one if one.cause), "")
    return Graded(text, outcomes, cause), chunk.fault


async def _grade_quickly(batch: Batch, name: str, grader: Grader) -> GradedChunk:
    if batch.chars > MAX_SENT_CHARS:  # one giant line: `too_long` settles it here
        return open_chunk(batch.lines, name, batch.first)
    try:
        return await grader.grade_chunk(batch.lines, name, batch.first)
    except VerifierError as error:
        if not grader.has_isolated:
            raise VerifierError(f"{error}; it is declared isolated=False, and must not be") from error
        return open_chunk(batch.lines, name, batch.first)  # only the row that is to blame shall pay


def _graded(identity: object, verdict: Verdict) -> Graded:
    cause = verdict.reason if verdict.outcome is Outcome.VERIFIER_ERROR else ""
    return Graded(verdict_line(identity, verdict) + "\n", {verdict.outcome.value: 1}, cause)


def _verdict_of(rollout: Rollout) -> Verdict:
    return next(iter(rollout.verdicts.values()))
