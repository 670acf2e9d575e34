"""What an audit measures inside one process: the time of single verdicts, and verdicts from several threads at once."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from rlvr.registry import resolve
from rlvr.types import JSON, Outcome, Problem, Rollout, Verdict
from rlvr.verifiers.base import Verifier, as_verifier
from rlvr.verifiers.call import call_verifier
from rlvr.verifiers.protocol import rollout_from_json, verdict_to_json

THREADS = 4
REFERENCE = f"{__name__}:measured"


def measured(problem: Problem, rollout: Rollout, *, reference: str, jobs: list[dict[str, Any]]) -> Verdict:
    """`measure` as a verifier, so that a worker process runs it: killed at the limit, like every verifier."""
    verifier = as_verifier(resolve("verifiers", reference))
    if verifier.warm_up is not None:
        verifier.warm_up()
    found = measure(verifier, [(rollout_from_json(job["rollout"]), job["settings"]) for job in jobs])
    return Verdict(Outcome.CORRECT, 1.0, details=found)


def measure(verifier: Verifier, jobs: Sequence[tuple[Rollout, Mapping[str, JSON]]]) -> dict[str, list[Any]]:
    """Grade each job alone, then all of them from `THREADS` threads: `cpu_s` and `wall_s` of each, and both sets of verdicts."""
    cpu_s, wall_s, alone = [], [], []
    for rollout, settings in jobs:
        cpu, wall = time.process_time(), time.perf_counter()
        verdict = call_verifier(verifier, rollout, settings)
        wall_s.append(time.perf_counter() - wall)
        cpu_s.append(time.process_time() - cpu)
        alone.append(verdict_to_json(verdict))
    with ThreadPoolExecutor(THREADS) as executor:
        threaded = [verdict_to_json(v) for v in executor.map(lambda job: call_verifier(verifier, *job), jobs)]
    return {"cpu_s": cpu_s, "wall_s": wall_s, "alone": alone, "threaded": threaded}
