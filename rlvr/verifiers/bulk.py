"""Grade JSON lines without end: in order, in constant memory, on as many cores as there is work for.

An isolated verifier runs in its own worker processes, one rollout at a time, each under the clock. A verifier that is safe in
this process is called here; where the input is large, whole chunks of lines go to processes of their own instead.
"""

from __future__ import annotations

import multiprocessing
from collections import Counter, deque
from collections.abc import Generator, Iterable, Iterator, Mapping
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from itertools import islice

from rlvr.errors import TaskError, VerifierError
from rlvr.registry import resolve
from rlvr.types import Outcome, Rollout, Verdict
from rlvr.verifiers.base import Verifier, as_verifier
from rlvr.verifiers.call import call_verifier, too_long
from rlvr.verifiers.lines import Row, read_rows, verdict_line
from rlvr.verifiers.runner import Grader, WeightedVerifier
from rlvr.verifiers.stream import verify_stream

CHUNK_LINES = 500
CHUNKS_A_WORKER = 3  # under way at once: one is graded, one waits, one is read


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
    is_large: bool = False,
) -> Generator[Graded, None, None]:
    """Verdicts for the lines that are not blank, in order. `first` is the number of the first line of `lines`.

    `is_large` says that starting processes pays. Close the iterator, or exhaust it, to stop them.

    Raises:
        PluginError, ConfigError: as `Grader`, before a line is read.
        TaskError: a line is not what `read_rows` expects; the verdicts before it came first.
        VerifierError: the input broke off, or a verifier that claims to be safe ended its process.
    """
    grader = Grader([verifier], workers=workers, timeout_s=timeout_s)
    if grader.has_isolated:
        return _grade_isolated(read_rows(lines, name, first), verifier, workers, timeout_s)
    if is_large and workers > 1 and _is_importable(verifier.reference):
        return _grade_chunks(lines, name, first, verifier, workers)
    found = as_verifier(resolve("verifiers", verifier.reference))
    return (_grade_here(found, verifier, row) for row in read_rows(lines, name, first))


def _grade_isolated(
    rows: Iterator[Row], verifier: WeightedVerifier, workers: int, timeout_s: float
) -> Generator[Graded, None, None]:
    identities: deque[object] = deque()

    def rollouts() -> Iterator[Rollout]:
        for row in rows:
            identities.append(row.identity)
            yield row.rollout

    for rollout in verify_stream(verifier, rollouts(), workers=workers, timeout_s=timeout_s):
        yield _graded(identities.popleft(), next(iter(rollout.verdicts.values())))


def _grade_here(found: Verifier, verifier: WeightedVerifier, row: Row) -> Graded:
    return _graded(row.identity, too_long(row.rollout) or call_verifier(found, row.rollout, verifier.settings))


def _graded(identity: object, verdict: Verdict) -> Graded:
    cause = verdict.reason if verdict.outcome is Outcome.VERIFIER_ERROR else ""
    return Graded(verdict_line(identity, verdict) + "\n", {verdict.outcome.value: 1}, cause)


def _grade_chunks(
    lines: Iterable[str], name: str, first: int, verifier: WeightedVerifier, workers: int
) -> Generator[Graded, None, None]:
    source, under_way = iter(lines), deque[Future[tuple[Graded, str]]]()
    # Spawned: a fork would copy the threads and locks of whoever called us.
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _prepare, (verifier,)) as executor:
        try:
            while True:
                while len(under_way) < CHUNKS_A_WORKER * workers and (chunk := list(islice(source, CHUNK_LINES))):
                    under_way.append(executor.submit(_grade_chunk, chunk, name, first))
                    first += len(chunk)
                if not under_way:
                    return
                graded, fault = under_way.popleft().result()
                yield graded
                if fault:
                    raise TaskError(fault)
        except BrokenProcessPool as error:
            raise VerifierError(
                f"verifier {verifier.reference!r} is declared isolated=False, but ended its process; declare isolated=True"
            ) from error
        finally:
            for future in under_way:
                future.cancel()


_prepared: list[tuple[Verifier, WeightedVerifier]] = []  # of this process, where it is one that grades chunks


def _prepare(verifier: WeightedVerifier) -> None:
    _prepared[:] = [(as_verifier(resolve("verifiers", verifier.reference)), verifier)]


def _grade_chunk(lines: list[str], name: str, first: int) -> tuple[Graded, str]:
    """The verdicts, and what is wrong with the line after the last of them, if anything is."""
    found, verifier = _prepared[0]
    texts: list[str] = []
    outcomes: Counter[str] = Counter()
    cause = fault = ""
    try:
        for row in read_rows(lines, name, first):
            one = _grade_here(found, verifier, row)
            texts.append(one.text)
            outcomes.update(one.outcomes)
            cause = cause or one.cause
    except TaskError as error:
        fault = str(error)
    return Graded("".join(texts), dict(outcomes), cause), fault


def _is_importable(reference: str) -> bool:
    """Whether another process finds the verifier; one that was made in this process alone is graded here."""
    location, _, attribute = resolve("verifiers", reference).reference.rpartition(":")
    return location not in ("", "?", "__main__") and "<locals>" not in attribute
