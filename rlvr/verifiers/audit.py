"""The audit of a verifier: is it right, can it be fooled, does it stay the same, is it fast?

Problems with a right response (golden cases, or a task's problems) become probes: the gold answer in other forms and in
near misses, two answers at once, the answer cut off, the prompt repeated, and texts that are empty, hostile or known to
fool some grader. `rlvr verify --audit` prints the report, `rlvr.testing.check_verifier` asserts on it.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import shutil
import string
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rlvr.errors import ConfigError, PluginError
from rlvr.registry import Plugin, resolve
from rlvr.types import JSON, Outcome, Problem, Rollout, Verdict
from rlvr.verifiers.audit_probes import (
    CARRIERS,
    Must,
    Probe,
    Sample,
    Subject,
    needs_carrier,
    probes_of,
    samples_of,
    settings_key,
    subject_of,
)
from rlvr.verifiers.audit_report import AuditReport, Rate, Row, Times
from rlvr.verifiers.audit_worker import REFERENCE, measure
from rlvr.verifiers.base import Verifier, as_verifier
from rlvr.verifiers.call import call_verifier, too_long
from rlvr.verifiers.golden import Case
from rlvr.verifiers.pool import WorkerPool
from rlvr.verifiers.protocol import rollout_to_json, verdict_from_json
from rlvr.verifiers.settings import check_settings

MAX_DETAILS_CHARS = 10_000
MAX_EXAMPLES = 20
CARRIER_SAMPLES = 3  # of each setting, to find out where an answer may stand
TIMED = 200  # verdicts that are timed, and repeated in threads and in fresh processes
MEASURE_TIMEOUT_S = 300.0
WORKERS = 2
THREADS = 16  # of a verifier that waits

# Whatever the limits say, these may never go wrong.
_NEVER = frozenset({"golden", "empty", "no_op", "format_only", "exploit", "code", "unicode", "very_long", "heavy"})
_MEANING = {
    "golden": "the verdict that each case asks for",
    "gold": "the right response is correct",
    "equivalent": "the same answer in another form is correct",
    "mutated": "a near miss is not correct",
    "multiple": "two different answers are not correct",
    "truncated": "cut off before the answer: not correct",
    "prompt_echo": "the prompt repeated is not correct",
    "empty": "nothing is not correct",
    "no_op": "saying nothing is not correct",
    "format_only": "a layout without an answer is not correct",
    "exploit": "known tricks are not correct",
    "code": "code in an answer is neither run nor correct",
    "unicode": "odd characters get a verdict",
    "very_long": "long and nested text gets a verdict in time",
    "heavy": "answers that cannot be computed get a verdict in time",
    "determinism": "the same verdict again, in another order",
    "processes": "the same verdict in another process",
    "threads": "the same verdict from four threads at once",
    "verdicts": "scores, reasons and details are well formed",
}
_Job = tuple[Rollout, Mapping[str, JSON]]


@dataclass(frozen=True, slots=True)
class Limits:
    """Shares above which a rule is broken: of false positives in each kind of wrong response, of right ones not accepted."""

    false_positives: float = 0.005
    gold: float = 0.005
    false_negatives: float = 0.05

    def of(self, name: str, must: Must) -> float:
        if name in _NEVER or must is Must.BE_AS_SAID:
            return 0.0
        if name == "gold":
            return self.gold
        return self.false_negatives if must is Must.BE_CORRECT else self.false_positives


def audit(
    verifier: Verifier | Callable[..., Verdict] | str,
    *,
    cases: Sequence[Case] = (),
    samples: Sequence[Sample] = (),
    settings: Mapping[str, JSON] | None = None,
    source: str = "golden cases",
    limits: Limits | None = None,
    timeout_s: float = 10.0,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> AuditReport:
    """Probe a verifier with golden `cases` and with `samples`, which are made from the cases that are right if there are none.

    `settings` hold for all samples and cases, under those that they bring themselves. A verifier that other processes can find is
    run in worker processes with `timeout_s` for each verdict; others run here, and those that wait for a sandbox run in threads.

    Raises:
        PluginError: the verifier is unknown or broken.
        ConfigError: a setting is wrong, or there is nothing to audit with.
        SandboxError: the verifier runs code, and this machine has no sandbox.
    """
    started = time.perf_counter()
    bench = _Bench.of(verifier, timeout_s, on_progress)
    shared = dict(settings or {})
    cases = [replace(case, settings={**shared, **case.settings}) for case in cases]
    samples = [replace(sample, settings={**shared, **sample.settings}) for sample in samples] or samples_of(cases)
    if not cases and not samples:
        raise ConfigError(f"nothing to audit {bench.verifier.name!r} with: give a task, or golden cases")
    given = [*(sample.settings for sample in samples), *(case.settings for case in cases)]
    bench.prepare(list({settings_key(one): one for one in given}.values()))
    subjects = _subjects(bench, samples)
    with _folder() as folder:
        mark = folder / "executed"
        probes = probes_of(subjects, cases, str(mark))
        bench.expect(len(probes) * 2)
        once = bench.grade(probe_jobs(probes))
        again = bench.grade(probe_jobs(probes[::-1]))[::-1]
        benign = [probe for probe in probes if probe.name in ("gold", "equivalent", "mutated", "golden")]
        chosen = benign[:: max(1, -(-len(benign) // TIMED))]
        measured = bench.measure(probe_jobs(chosen))
        was_executed = mark.exists()
    rows = [
        *_probe_rows(probes, once, limits or Limits(), was_executed=was_executed),
        _stable("determinism", probes, once, again),
        *_measured_rows(bench, chosen, {id(p): v for p, v in zip(probes, once, strict=True)}, measured),
        _well_formed(probes, once),
    ]
    false_positives, false_negatives = _rates(probes, once)
    return AuditReport(
        verifier=bench.verifier.name,
        version=bench.verifier.version,
        is_verifiable=bench.verifier.grades != "opinion",
        reference=bench.reference or "in this process",
        settings=shared,
        source=source,
        samples=len(samples),
        kinds=dict(Counter(subject.kind.value for subject in subjects)),
        rows=tuple(rows),
        false_positives=false_positives,
        false_negatives=false_negatives,
        times=Times.of(measured.get("cpu_s", ()), measured.get("wall_s", ())),
        elapsed_s=time.perf_counter() - started,
    )


def probe_jobs(probes: Iterable[Probe]) -> list[_Job]:
    return [(Rollout.from_response(probe.problem, probe.response), probe.settings) for probe in probes]


class _Bench:
    """Grades jobs: in worker processes where they can find the verifier and it does not wait for anything, else here."""

    def __init__(
        self, verifier: Verifier, reference: str | None, timeout_s: float, on_progress: Callable[[int, int], None]
    ) -> None:
        self.verifier, self.reference = verifier, reference
        self._timeout_s, self._on_progress = timeout_s, on_progress
        self._done = self._total = 0
        self._loads = [reference] if reference is not None else []
        self.waits = False

    @classmethod
    def of(
        cls, verifier: Verifier | Callable[..., Verdict] | str, timeout_s: float, on_progress: Callable[[int, int], None]
    ) -> _Bench:
        if isinstance(verifier, str):
            plugin = resolve("verifiers", verifier)
            return cls(as_verifier(plugin), _reachable(plugin), timeout_s, on_progress)
        if not isinstance(verifier, Verifier):
            verifier = Verifier(getattr(verifier, "__name__", "verifier"), verifier)
        try:
            plugin = resolve("verifiers", verifier.name)
        except PluginError:
            return cls(verifier, None, timeout_s, on_progress)
        return cls(verifier, _reachable(plugin) if plugin.target is verifier else None, timeout_s, on_progress)

    def prepare(self, settings: Sequence[Mapping[str, JSON]]) -> None:
        """Check every set of settings, and find out which verifiers they nest: a worker loads those, too."""
        family = [self.verifier]
        for given in settings:
            check_settings(self.verifier, given)
            nested = _nested(self.verifier, given)
            family += [as_verifier(plugin) for plugin in nested]
            self._loads += [plugin.reference for plugin in nested]
        self._loads = list(dict.fromkeys(self._loads))
        waiting = [one for one in dict.fromkeys(family) if one.waits]
        self.waits = bool(waiting) and not any(one.isolated and one.nested is None for one in family)
        for one in waiting:
            if one.warm_up is not None:
                one.warm_up()

    def expect(self, count: int) -> None:
        self._total += count

    def grade(self, jobs: Sequence[_Job]) -> list[Verdict]:
        if self.waits:
            with ThreadPoolExecutor(THREADS) as executor:
                return list(executor.map(self._grade_here, jobs))
        if self.reference is None:
            return [self._grade_here(job) for job in jobs]
        return asyncio.run(self._in_workers(self.reference, jobs))

    def measure(self, jobs: Sequence[_Job]) -> dict[str, Any]:
        """See `audit_worker.measure`; `error` holds what went wrong in the worker."""
        if self.reference is None or self.waits:
            return measure(self.verifier, jobs)
        sent = [{"rollout": rollout_to_json(rollout), "settings": dict(given)} for rollout, given in jobs]
        verdict = asyncio.run(self._measure_in_worker({"reference": self.reference, "jobs": sent}))
        return dict(verdict.details) if verdict.outcome is Outcome.CORRECT else {"error": verdict.reason}

    def _grade_here(self, job: _Job) -> Verdict:
        rollout, given = job
        return too_long(rollout) or self._counted(call_verifier(self.verifier, rollout, given))

    async def _in_workers(self, reference: str, jobs: Sequence[_Job]) -> list[Verdict]:
        pool = WorkerPool(self._loads, workers=WORKERS, timeout_s=self._timeout_s, retries=1, memory_mb=4096)

        async def one(job: _Job) -> Verdict:
            rollout, given = job
            return too_long(rollout) or self._counted(await pool.grade(self.verifier.name, reference, rollout, given))

        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(one(job)) for job in jobs]
        finally:
            await pool.close()
        return [task.result() for task in tasks]

    async def _measure_in_worker(self, settings: Mapping[str, JSON]) -> Verdict:
        pool = WorkerPool([REFERENCE], workers=1, timeout_s=MEASURE_TIMEOUT_S, retries=0, memory_mb=4096)
        try:
            return await pool.grade("measured", REFERENCE, Rollout.from_response(Problem("audit", (), None), ""), settings)
        finally:
            await pool.close()

    def _counted(self, verdict: Verdict) -> Verdict:
        self._done += 1
        self._on_progress(min(self._done, self._total), self._total)
        return verdict


def _reachable(plugin: Plugin) -> str | None:
    """The reference by which a worker process finds the verifier, if there is one."""
    location = plugin.reference.rpartition(":")[0]
    is_missing = location in ("__main__", "?", "") or (location.endswith(".py") and not Path(location).is_file())
    return None if is_missing or "<locals>" in plugin.reference else plugin.reference


def _nested(verifier: Verifier, settings: Mapping[str, JSON]) -> list[Plugin]:
    found = []
    for child in verifier.nested(settings) if verifier.nested is not None else ():
        plugin = resolve("verifiers", child.reference)
        found += [plugin, *_nested(as_verifier(plugin), child.settings)]
    return found


def _subjects(bench: _Bench, samples: Sequence[Sample]) -> list[Subject]:
    """Every sample with its answer's forms; without forms where its gold response is not correct, or no carrier is."""
    jobs = [(Rollout.from_response(sample.problem, sample.response), sample.settings) for sample in samples]
    bench.expect(len(jobs))
    verdicts = bench.grade(jobs)
    subjects = [subject_of(bench.verifier, sample, verdict) for sample, verdict in zip(samples, verdicts, strict=True)]
    carriers = _carriers(bench, [subject for subject in subjects if needs_carrier(subject)])
    return [_with_carrier(subject, carriers) if needs_carrier(subject) else subject for subject in subjects]


def _with_carrier(subject: Subject, carriers: Mapping[tuple[str, str], str]) -> Subject:
    carrier = carriers.get((subject.kind, settings_key(subject.sample.settings)))
    return replace(subject, carrier=carrier, forms=subject.forms if carrier is not None else None)


def _carriers(bench: _Bench, subjects: Sequence[Subject]) -> dict[tuple[str, str], str]:
    """For each kind of answer and each set of settings, the first carrier whose gold answers are all graded correct."""
    groups: dict[tuple[str, str], list[Subject]] = {}
    for subject in subjects:
        groups.setdefault((subject.kind, settings_key(subject.sample.settings)), []).append(subject)
    tried = [
        (key, carrier, subject) for key, group in groups.items() for carrier in CARRIERS for subject in group[:CARRIER_SAMPLES]
    ]
    jobs = [
        (Rollout.from_response(s.sample.problem, carrier.format(s.forms.canonical if s.forms else "")), s.sample.settings)
        for _, carrier, s in tried
    ]
    bench.expect(len(jobs))
    failed = {
        (key, carrier)
        for (key, carrier, _), verdict in zip(tried, bench.grade(jobs), strict=True)
        if verdict.outcome is not Outcome.CORRECT
    }
    found = {key: next((carrier for carrier in CARRIERS if (key, carrier) not in failed), None) for key in groups}
    return {key: carrier for key, carrier in found.items() if carrier is not None}


@contextmanager
def _folder() -> Iterator[Path]:
    """An empty folder whose name, which stands in probes, has no digit that could be a gold answer."""
    name = "".join(secrets.choice(string.ascii_lowercase) for _ in range(16))
    folder = Path(tempfile.gettempdir(), f"rlvr-audit-{name}")
    folder.mkdir(mode=0o700)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _probe_rows(probes: Sequence[Probe], verdicts: Sequence[Verdict], limits: Limits, *, was_executed: bool) -> Iterator[Row]:
    groups: dict[str, list[tuple[Probe, Verdict]]] = {}
    for probe, verdict in zip(probes, verdicts, strict=True):
        groups.setdefault(probe.name, []).append((probe, verdict))
    for name in [*(name for name in _MEANING if name in groups), *(name for name in groups if name not in _MEANING)]:
        graded = groups[name]
        wrong = [_said(probe, verdict) for probe, verdict in graded if not probe.is_held(verdict)]
        if name == "code" and was_executed:
            wrong.append("code in an answer was executed: it created a file")
        unscored = sum(v.outcome is Outcome.VERIFIER_ERROR and not p.is_held(v) for p, v in graded)
        limit = limits.of(name, graded[0][0].must)
        must = _MEANING.get(name, "the verdict that each case asks for")
        yield Row(name, must, Rate(min(len(wrong), len(graded)), len(graded)), limit, unscored, tuple(wrong[:MAX_EXAMPLES]))


def _said(probe: Probe, verdict: Verdict) -> str:
    got = f"{verdict.outcome}, score {verdict.score}, extracted {_short(verdict.extracted)} ({verdict.reason[:300]})"
    if (case := probe.case) is not None:
        wanted = f"{case.outcome}" + ("" if case.score is None else f", score {case.score}")
        return f"{case.where}: wanted {wanted}; got {got}. {case.why}. Response: {case.response[:200]!r}"
    gold = json.dumps(probe.problem.answer, ensure_ascii=False, default=repr)[:80]
    where = f"gold answer {gold}, {probe.problem.id}"
    if verdict.outcome is Outcome.VERIFIER_ERROR:
        return f"fails on {shown(probe.response)}: {verdict.reason[:300]} ({where})"
    names = {"empty": "an empty response is", "prompt_echo": "an echo of the prompt is"}
    if probe.name in names:
        return f"{names[probe.name]} {verdict.outcome}: {shown(probe.response)} ({where})"
    read = "" if verdict.extracted is None else f", read as {_short(verdict.extracted)}"
    because = f": {verdict.reason[:300]}" if verdict.reason else ""
    return f"{shown(probe.response)} is {verdict.outcome}{read}{because} ({where})"


def _short(text: str | None) -> str:
    return "None" if text is None else repr(text[:60])


def shown(text: str) -> str:
    return f"{text[:80]!r} ({len(text)} characters)" if len(text) > 80 else repr(text)


def _stable(name: str, probes: Sequence[Probe], once: Sequence[Verdict], again: Sequence[Verdict], note: str = "") -> Row:
    different = [
        f"two verdicts on {shown(probe.response)}: {_content(first)} and {_content(second)}"
        for probe, first, second in zip(probes, once, again, strict=True)
        if _content(first) != _content(second)
    ]
    return Row(name, _MEANING[name], Rate(len(different), len(probes)), 0.0, 0, tuple(different[:MAX_EXAMPLES]), note)


def _measured_rows(
    bench: _Bench, probes: Sequence[Probe], verdicts: Mapping[int, Verdict], measured: Mapping[str, Any]
) -> Iterator[Row]:
    if "error" in measured:
        for name in ("processes", "threads"):
            yield Row(name, _MEANING[name], Rate(1, 1), 0.0, 1, (f"fails when run alone: {measured['error']}",))
        return
    alone = [verdict_from_json(one) for one in measured["alone"]]
    threaded = [verdict_from_json(one) for one in measured["threaded"]]
    if bench.reference is None or bench.waits:
        note = "it waits in this process for the sandbox" if bench.waits else "no other process can find this verifier"
        yield Row("processes", _MEANING["processes"], Rate(0, 0), 0.0, note=note)
    else:
        yield _stable("processes", probes, [verdicts[id(probe)] for probe in probes], alone)
    yield _stable("threads", probes, alone, threaded)


def _well_formed(probes: Sequence[Probe], verdicts: Sequence[Verdict]) -> Row:
    wrong = [
        f"{fault}, on {shown(probe.response)}"
        for probe, verdict in zip(probes, verdicts, strict=True)
        for fault in _faults(verdict)
    ]
    return Row(
        "verdicts", _MEANING["verdicts"], Rate(min(len(wrong), len(probes)), len(probes)), 0.0, 0, tuple(wrong[:MAX_EXAMPLES])
    )


def _faults(verdict: Verdict) -> Iterator[str]:
    expected = {Outcome.CORRECT: 1.0, Outcome.INCORRECT: 0.0, Outcome.UNPARSED: 0.0}
    if verdict.outcome in expected and verdict.score != expected[verdict.outcome]:
        yield f"{verdict.outcome} with score {verdict.score}; it must be {expected[verdict.outcome]}"
    if verdict.outcome is Outcome.PARTIAL and verdict.score in (0.0, 1.0):
        yield f"partial with score {verdict.score}; it must lie between 0 and 1"
    if verdict.outcome is not Outcome.CORRECT and not verdict.reason:
        yield f"{verdict.outcome} without a reason"
    try:
        details = json.dumps(dict(verdict.details))
    except (TypeError, ValueError) as error:
        yield f"details are not JSON: {error}"
    else:
        if len(details) > MAX_DETAILS_CHARS:
            yield f"details of {len(details)} characters; keep them under {MAX_DETAILS_CHARS}"


def _rates(probes: Sequence[Probe], verdicts: Sequence[Verdict]) -> tuple[Rate, Rate]:
    """False positives among responses known to be wrong, false negatives among those known to be right."""
    wrong = [v for p, v in zip(probes, verdicts, strict=True) if p.expects_correct is False]
    right = [v for p, v in zip(probes, verdicts, strict=True) if p.expects_correct is True]
    return (
        Rate(sum(v.outcome is Outcome.CORRECT for v in wrong), len(wrong)),
        Rate(sum(v.outcome is not Outcome.CORRECT for v in right), len(right)),
    )


def _content(verdict: Verdict) -> tuple[object, ...]:
    details = json.dumps(dict(verdict.details), default=repr)
    return verdict.outcome.value, verdict.score, verdict.extracted, verdict.reason, details
