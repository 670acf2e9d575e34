"""Grade stored rollouts again, under another verifier or other settings, without generating anything.

What is stored is never changed: the verdicts go to new files of the same form, each row with its old verdicts under
`provenance.rescored`.
"""

from __future__ import annotations

import json
import os
import re
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rlvr.errors import ConfigError, EvaluationError, boundary
from rlvr.evaluation.evaluate import REPORT, SAMPLES
from rlvr.evaluation.ledger import RolloutWriter, StoredRollout, read_rollouts, rollout_to_json
from rlvr.evaluation.lm_eval.samples import is_samples_file, read_samples
from rlvr.evaluation.measure import ProblemResult, gain_between
from rlvr.evaluation.passk import pass_at_k
from rlvr.evaluation.statistics import Estimate, estimate
from rlvr.types import JSON, Rollout, Verdict
from rlvr.verifiers.runner import Grader, WeightedVerifier
from rlvr.verifiers.stream import verify_stream

SUMMARY = "rescore.json"
RESPONSE_CHARS = 300
_HELD_OUT = re.compile(r"(step-\d+)\.[^/]*\.jsonl\.gz")


@dataclass(frozen=True, slots=True)
class Flip:
    """A rollout whose verdict became another one."""

    file: str
    problem_id: str
    sample_index: int
    answer: JSON
    response_end: str
    before: Verdict
    after: Verdict

    def to_json(self) -> dict[str, JSON]:
        said = {name: _said(verdict) for name, verdict in (("before", self.before), ("after", self.after))}
        about = {"file": self.file, "problem": self.problem_id, "sample": self.sample_index, "answer": self.answer}
        return {**about, "response_end": self.response_end, **said}


@dataclass(frozen=True, slots=True)
class Remeasured:
    """pass@k of one evaluation under the old verdicts and the new ones; `gain` is paired by problem."""

    name: str
    problems: int
    before: Mapping[str, Estimate]
    after: Mapping[str, Estimate]
    gain: Mapping[str, Estimate]

    def to_json(self) -> dict[str, JSON]:
        parts = {"before": self.before, "after": self.after, "gain": self.gain}
        shown = {part: {key: found.to_json() for key, found in estimates.items()} for part, estimates in parts.items()}
        return {"name": self.name, "problems": self.problems, **shown}


@dataclass(slots=True)
class RescoreReport:
    """What became of the verdicts. `transitions[old, new]` counts outcomes; `flips` are the first examples of every change."""

    source: str
    out: str
    grading_before: Mapping[str, JSON]
    grading_after: Mapping[str, JSON]
    transitions: Counter[tuple[str, str]] = field(default_factory=Counter)
    flips: list[Flip] = field(default_factory=list)
    evaluations: list[Remeasured] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def count(self, file: str, rollout: Rollout, before: Verdict, after: Verdict, examples: int) -> None:
        """One verdict more, with the rollout as an example while there are fewer than `examples` of its change."""
        change = (_outcome(before), _outcome(after))
        self.transitions[change] += 1
        if change[0] != change[1] and self.transitions[change] <= examples:
            self.flips.append(_flip(file, rollout, before, after))

    def join(self, part: RescoreReport, examples: int) -> None:
        """Add what one file gave."""
        self.grading_before = self.grading_before or part.grading_before
        self.transitions += part.transitions
        for flip in part.flips:
            change = (flip.before.outcome, flip.after.outcome)
            if sum((one.before.outcome, one.after.outcome) == change for one in self.flips) < examples:
                self.flips.append(flip)

    @property
    def rollouts(self) -> int:
        return self.transitions.total()

    @property
    def flipped(self) -> int:
        return sum(count for (old, new), count in self.transitions.items() if old != new)

    def to_json(self) -> dict[str, JSON]:
        return {
            "source": self.source,
            "out": self.out,
            "rollouts": self.rollouts,
            "flipped": self.flipped,
            "grading": {"before": dict(self.grading_before), "after": dict(self.grading_after)},
            "transitions": [{"before": old, "after": new, "count": n} for (old, new), n in sorted(self.transitions.items())],
            "evaluations": [one.to_json() for one in self.evaluations],
            "flips": [flip.to_json() for flip in self.flips],
            "failures": list(self.failures),
        }


@dataclass(frozen=True, slots=True)
class _Part:
    """One file of stored rollouts; `sizes` are the k of its pass@k, None where it is no evaluation."""

    name: str
    path: Path
    sizes: tuple[int, ...] | None


def rescore(
    source: str | Path,
    verifier: WeightedVerifier,
    *,
    out: str | Path | None = None,
    step: int | None = None,
    k: Sequence[int] = (),
    workers: int = 2,
    timeout_s: float = 10.0,
    examples: int = 20,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> RescoreReport:
    """Grade the rollouts of a run, of an evaluation's folder or of one file again, and write them to `out`.

    The file may be one that `lm-eval --log_samples` wrote: then every answer in it is graded, repeats of a document, too.

    `out` is a file for a file and a folder for a folder, beside the source by default; it must not exist. `step` keeps to one
    training step of a run. `on_progress(done, total)` counts files. `k` are the sizes of pass@k; by default those that were
    measured before.

    Raises:
        ConfigError, PluginError: there are no rollouts, `out` exists, or the verifier or a setting is wrong.
        SandboxError: the verifier runs code, and this machine has no sandbox.
        EvaluationError: the file, or every file of a folder, is damaged or cannot be written. One that is among others that are
            not is left out, and `failures` says so.
    """
    source = Path(source)
    grader = Grader([verifier], workers=workers, timeout_s=timeout_s)
    grader.prepare()
    parts = _parts(source, step, tuple(k))
    name = next(iter(grader.provenance()))
    target = _target(source, None if out is None else Path(out), name)
    report = RescoreReport(str(source), str(target), {}, grader.provenance())
    damaged: list[EvaluationError] = []
    for index, part in enumerate(parts):
        path = target if source.is_file() else target / part.path.relative_to(source)
        found = RescoreReport(report.source, report.out, {}, grader.provenance())  # joins the report when its file is whole
        tally = _Tally(part)
        try:
            with RolloutWriter(path) as writer:
                for stored, rollout in _regraded(part, verifier, workers, timeout_s):
                    old, new = _first(stored.rollout.verdicts), _first(rollout.verdicts)
                    found.grading_before = found.grading_before or dict(stored.provenance.get("grading") or {})
                    found.count(part.name, stored.rollout, old, new, examples)
                    tally.add(stored, rollout)
                    writer.write(_row(stored, rollout, grader.provenance()))
        except EvaluationError as error:
            if len(parts) == 1:
                raise
            damaged.append(error)
            report.failures.append(f"{part.name} was left out: {error}")
        else:
            report.join(found, examples)
            if part.sizes is not None and (measured := tally.measured()) is not None:
                report.evaluations.append(measured)
        on_progress(index + 1, len(parts))
    if len(damaged) == len(parts):
        raise damaged[0]
    if not source.is_file():
        _write(target / SUMMARY, report)
    return report


def _regraded(part: _Part, verifier: WeightedVerifier, workers: int, timeout_s: float) -> Iterator[tuple[StoredRollout, Rollout]]:
    """Every stored rollout, and a copy of it with new verdicts."""
    held: deque[StoredRollout] = deque()

    def copies() -> Iterator[Rollout]:
        stored_rollouts = read_samples(part.path).answers() if is_samples_file(part.path) else read_rollouts(part.path)
        for stored in stored_rollouts:
            held.append(stored)
            old = stored.rollout
            yield Rollout(old.problem, old.sample_index, old.turns, old.stop, error=old.error)

    for rollout in verify_stream(verifier, copies(), workers=workers, timeout_s=timeout_s):
        yield held.popleft(), rollout


class _Tally:
    """Counts the sampled answers of an evaluation by problem, under both verdicts."""

    def __init__(self, part: _Part) -> None:
        self._part = part
        self._counts: dict[str, list[list[int]]] = defaultdict(lambda: [[0, 0], [0, 0]])

    def add(self, stored: StoredRollout, rollout: Rollout) -> None:
        if self._part.sizes is not None and stored.provenance.get("mode", "sampled") == "sampled":
            for counts, one in zip(self._counts[rollout.problem.id], (stored.rollout, rollout), strict=True):
                counts[0] += one.is_scored
                counts[1] += one.is_correct

    def measured(self) -> Remeasured | None:
        before, after = (
            [ProblemResult(id, pair[side][0], pair[side][1], 0.0) for id, pair in self._counts.items()] for side in (0, 1)
        )
        most = min((max(one.scored for one in results) for results in (before, after) if results), default=0)
        sizes = [size for size in self._part.sizes or () if size <= most] or ([1, most] if most > 1 else [1] if most else [])
        if not sizes:
            return None
        gains = gain_between(before, after, sizes)
        return Remeasured(self._part.name, len(before), _estimates(before, sizes), _estimates(after, sizes), gains)


def _estimates(results: Sequence[ProblemResult], sizes: Sequence[int]) -> dict[str, Estimate]:
    found = {}
    for size in sizes:
        values = [pass_at_k(one.scored, one.correct, size) for one in results if one.scored >= size]
        found[f"pass@{size}"] = estimate(values)
    return found


def _parts(source: Path, step: int | None, sizes: tuple[int, ...]) -> list[_Part]:
    if source.is_file():
        if step is not None:
            raise ConfigError(f"--step {step}, but {source} is one file")
        is_evaluation = is_samples_file(source)
        return [_Part(source.name, source, sizes or (() if is_evaluation else _sizes_beside(source)))]
    if (source / SAMPLES).is_file():
        return [_Part(SAMPLES, source / SAMPLES, sizes or _sizes_in(source / REPORT) or ())]
    pattern = "step-*.jsonl*" if step is None else f"step-{step:06d}.jsonl*"
    trained = [_Part(f"rollouts/{p.name}", p, None) for p in sorted((source / "rollouts").glob(pattern)) if _is_rollouts(p)]
    held_out = [] if step is not None else [p for p in sorted((source / "evaluations").glob("*.jsonl.gz")) if _is_rollouts(p)]
    evaluated = [_Part(f"evaluations/{p.name}", p, sizes or _sizes_beside(p) or ()) for p in held_out]
    if not trained and not evaluated:
        which = "" if step is None else f" of step {step}"
        raise ConfigError(
            f"{source} holds no rollouts{which}; give a run folder, the folder of an evaluation, or a file of rollouts"
        )
    return [*trained, *evaluated]


def _is_rollouts(path: Path) -> bool:
    return path.name.endswith((".jsonl", ".jsonl.gz")) and ".partial." not in path.name


def _sizes_beside(path: Path) -> tuple[int, ...] | None:
    """The k that were measured on a file of an evaluation; None if it is none."""
    if path.name == SAMPLES:
        return _sizes_in(path.parent / REPORT) or ()
    match = _HELD_OUT.fullmatch(path.name)
    return _sizes_in(path.parent / f"{match[1]}.json") if match else None


def _sizes_in(path: Path) -> tuple[int, ...] | None:
    if not path.is_file():
        return None
    with boundary(EvaluationError, f"{path} cannot be read"):
        report = json.loads(path.read_text(encoding="utf-8"))
    # A run's file has one measurement for each set of problems.
    measured: dict[str, Any] = report if any(key.startswith("pass@") for key in report) else next(iter(report.values()), {})
    return tuple(int(key.removeprefix("pass@")) for key in measured if key.startswith("pass@"))


def _target(source: Path, out: Path | None, name: str) -> Path:
    """Where the new verdicts go; nothing that exists is ever written over."""
    if out is not None:
        if out.exists():
            raise ConfigError(f"{out} exists; stored verdicts are never overwritten, choose another place")
        return out
    ending = next((end for end in (".jsonl.gz", ".jsonl") if source.name.endswith(end)), "") if source.is_file() else ""
    stem = source.resolve().name.removesuffix(ending)
    for count in range(1, 10_000):
        number = "" if count == 1 else f"-{count}"
        target = source.resolve().with_name(f"{stem}-rescored-{name}{number}{ending}")
        if not target.exists():
            return target
    raise ConfigError(f"{source} was rescored ten thousand times; give --out")


def _row(stored: StoredRollout, rollout: Rollout, grading: Mapping[str, JSON]) -> dict[str, JSON]:
    old = rollout_to_json(stored.rollout)
    before = {"verdicts": old["verdicts"], "reward": old["reward"], "grading": stored.provenance.get("grading")}
    return rollout_to_json(rollout, **{**stored.provenance, "grading": dict(grading), "rescored": before})


def _first(verdicts: Mapping[str, Verdict]) -> Verdict:
    return next(iter(verdicts.values()), Verdict.error("was never graded"))


def _outcome(verdict: Verdict) -> str:
    return verdict.outcome.value


def _flip(file: str, rollout: Rollout, before: Verdict, after: Verdict) -> Flip:
    end = rollout.response[-RESPONSE_CHARS:]
    return Flip(file, rollout.problem.id, rollout.sample_index, rollout.problem.answer, end, before, after)


def _said(verdict: Verdict) -> dict[str, JSON]:
    return {"outcome": verdict.outcome, "score": verdict.score, "extracted": verdict.extracted, "reason": verdict.reason}


def _write(path: Path, report: RescoreReport) -> None:
    draft = path.with_name(f"{path.name}.tmp")
    with boundary(EvaluationError, f"{path} cannot be written"):
        draft.write_text(json.dumps(report.to_json(), indent=2) + "\n", encoding="utf-8")
        os.replace(draft, path)
