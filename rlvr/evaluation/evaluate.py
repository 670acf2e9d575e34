"""`rlvr.evaluate`: how good is this model on this task?"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from rlvr.config import VerifierConfig
from rlvr.engines.subject import Subject, open_subject, run_to_end, sampling_json
from rlvr.errors import ConfigError, EvaluationError, boundary
from rlvr.evaluation.contamination import Contamination, overlaps
from rlvr.evaluation.ledger import RolloutWriter, rollout_to_json
from rlvr.evaluation.measure import Attempts, Measurement, Runs, check_measurement, measure, pooled
from rlvr.evaluation.observer import Observer, SilentObserver
from rlvr.evaluation.perturb import with_other_numbers
from rlvr.evaluation.resume import Remembered, ResumedRunner, unfinished_files
from rlvr.evaluation.samples import Kind, Metric, metrics_for, problems_hash
from rlvr.evaluation.statistics import Estimate, estimate
from rlvr.types import JSON

REPORT = "report.json"
SAMPLES = "samples.jsonl.gz"
FLUSH_S = 5.0


@dataclass(frozen=True, slots=True)
class Spread:
    """An estimate under each seed alone: how much sampling by itself moves it, on the same problems."""

    means: tuple[float, ...]

    @property
    def sd(self) -> float:
        return stdev(self.means)

    def to_json(self) -> dict[str, JSON]:
        return {"means": list(self.means), "sd": self.sd}


@dataclass(frozen=True, slots=True)
class Report:
    """A measurement and everything that it depends on (model, task, sampling, seeds, grading, versions).

    `more` are estimates beside pass@k, by name: `maj@4`, `pass^4`, and `best@4` where there is a scorer. With several seeds the
    measurement is of all their samples together, and `between_seeds` says how the seeds differ, by estimate.
    """

    measurement: Measurement
    about: Mapping[str, JSON]
    more: Mapping[str, Estimate] = field(default_factory=dict)
    between_seeds: Mapping[str, Spread] = field(default_factory=dict)
    contamination: Contamination | None = None

    @property
    def pass_at(self) -> Mapping[int, Estimate]:
        return self.measurement.pass_at

    @property
    def greedy(self) -> Estimate | None:
        return self.measurement.greedy

    def to_json(self) -> dict[str, JSON]:
        """What `rlvr eval --json` prints: `Measurement.to_json` and, beside it, `more`, `between_seeds` and `about`."""
        more: dict[str, JSON] = {name: found.to_json() for name, found in self.more.items()}
        if self.between_seeds:
            more["between_seeds"] = {name: spread.to_json() for name, spread in self.between_seeds.items()}
        if self.contamination is not None:
            more["contamination"] = self.contamination.to_json()
        return {**self.measurement.to_json(), **more, **self.about}


def evaluate(
    model: str | Path,
    task: str,
    split: str = "test",
    *,
    n: int = 16,
    k: Sequence[int] = (1, 4, 16),
    problems: int | None = None,
    greedy: bool = False,
    seed: int = 0,
    seeds: Sequence[int] = (),
    scorer: VerifierConfig | None = None,
    training: str = "",
    other_numbers: bool = False,
    out: str | Path | None = None,
    resume: bool = False,
    max_unscored: float = 0.02,
    observer: Observer | None = None,
    **settings: Any,
) -> Report:
    """Sample `n` responses to each problem of a split and estimate pass@k, with 95 % intervals over problems.

    Beside pass@k: maj@k and pass^k (`rlvr.evaluation.samples.Metric`), and with a `scorer`, a verifier whose score ranks the
    samples, best@k. `seeds` draws a sample set of `n` for each instead of one for `seed`. `training` names the problems that the
    model was trained on (`gsm8k:train`, a file): the report says which evaluated problems they give away. `other_numbers` asks
    those problems that can be changed by `rlvr.evaluation.perturb` with other numbers, under the same ids.

    `settings` are further fields of `rlvr.engines.subject.Subject`: task_args, max_tokens, temperature, top_p, top_k,
    min_p, template, env, verifiers, load, engine. With `out`, that folder gets `report.json` and every sample with its
    verdicts in `samples.jsonl.gz`; samples drawn before a failure are kept as `samples.partial.jsonl.gz`, and `resume` continues
    from them.

    `rlvr.evaluate("runs/gsm8k", task="gsm8k", n=16, k=(1, 4, 16)).pass_at[1].low` is the lower end of pass@1's interval.

    Raises:
        ConfigError, PluginError, TaskError: something that was asked for is wrong; no model was loaded unless only the
            model could tell.
        CheckpointError: the model cannot be loaded.
        EvaluationError: more than `max_unscored` of the rollouts have no score, or `out` cannot be written.
    """
    unknown = sorted(set(settings) - set(Subject.__dataclass_fields__))
    if unknown:
        raise ConfigError(
            f"evaluate() has no setting {', '.join(map(repr, unknown))}; known: {', '.join(Subject.__dataclass_fields__)}"
        )
    subject = Subject(str(model), task, **settings)
    opened = subject.open_task()
    chosen = opened.problems(split, limit=problems)
    if other_numbers:
        chosen = with_other_numbers(chosen, task=opened, split=split)
    sampling = subject.sampling(opened)
    check_measurement(chosen, n, k, sampling)
    seeds = tuple(seeds) or (seed,)
    if len(set(seeds)) < len(seeds):
        raise ConfigError(f"seeds = {list(seeds)}: equal seeds draw equal samples; give each once")
    if scorer is not None:
        judged = subject.verifiers if subject.verifiers is not None else opened.verifiers
        subject = replace(subject, verifiers=(*judged, scorer.model_copy(update={"weight": 0.0})))
    leaks = overlaps(chosen, training) if training else None
    folder = _new_folder(out, is_resumed=resume)
    observer = observer or SilentObserver()
    about: dict[str, JSON] = {
        "model": subject.model,
        "task": opened.name,
        "task_args": dict(opened.args),
        "split": split,
        "seed": seeds[0],
        "sampling": sampling_json(sampling),
        "problems_sha256": problems_hash(chosen),
    }
    if other_numbers:
        about["other_numbers"] = True
    if len(seeds) > 1:
        about["seeds"] = list(seeds)

    async def main() -> Report:
        async with open_subject(subject, opened, chosen, sampling) as ready:
            for note in ready.notes:
                observer.note(note)
            about.update(ready.provenance)
            runner: Runs = ready.runner
            remembered = None
            if folder is not None and resume:
                remembered = Remembered(folder / SAMPLES)
                remembered.check(about)
                runner = ResumedRunner(runner, remembered)
                observer.note(f"{len(remembered):,} samples of the interrupted evaluation are used again")
            by_seed = []
            with ExitStack() as stack:
                store = None if folder is None else _Store(stack, folder / SAMPLES, about)
                for one in seeds:
                    measured = await measure(
                        runner,
                        chosen,
                        n=n,
                        k=k,
                        sampling=sampling,
                        seed=one,
                        greedy=greedy and one == seeds[0],
                        max_unscored=max_unscored,
                        observer=observer,
                        stage=f"{opened.name} {split}" + (f", seed {one}" if len(seeds) > 1 else ""),
                        store=None if store is None else store.of_seed(one),
                    )
                    by_seed.append(measured)
            if remembered is not None:
                remembered.forget()
        found = _report(by_seed, about, k, list(about["grading"])[-1] if scorer is not None else "")
        if leaks is None:
            return found
        return replace(found, contamination=leaks.scores(found.measurement.samples, Metric(Kind.PASS, 1)))

    report = run_to_end(main)
    if folder is not None:
        _write(folder / REPORT, report)
    return report


def _report(by_seed: Sequence[Measurement], about: dict[str, JSON], k: Sequence[int], scorer: str) -> Report:
    found = pooled(by_seed)
    about["prompts_sha256"] = found.prompts_sha256
    if scorer:
        about["scorer"] = scorer
    metrics = metrics_for(found.samples, k, scorer)
    more = {str(metric): estimate(list(values.values())) for metric in metrics if (values := metric.values(found.samples))}
    spreads: dict[str, Spread] = {}
    if len(by_seed) > 1:
        spreads = {f"pass@{size}": Spread(tuple(one.pass_at[size].mean for one in by_seed)) for size in found.pass_at}
        for metric in metrics:
            each = [list(metric.values(one.samples).values()) for one in by_seed]
            if all(each):
                spreads[str(metric)] = Spread(tuple(fmean(values) for values in each))
    return Report(found, about, more, spreads)


def _new_folder(out: str | Path | None, *, is_resumed: bool) -> Path | None:
    if out is None:
        if is_resumed:
            raise ConfigError("resume continues from stored samples; say where they are with out")
        return None
    folder = Path(out)
    if (folder / REPORT).exists():
        raise ConfigError(f"{folder} already holds the report of an evaluation; choose another folder")
    if not is_resumed and (left := unfinished_files(folder / SAMPLES)):
        raise ConfigError(
            f"{folder} holds samples of an evaluation that did not finish ({left[0].name}); continue it with --resume, or choose "
            "another folder"
        )
    with boundary(ConfigError, f"out = {str(out)!r} cannot be used as a folder"):
        folder.mkdir(parents=True, exist_ok=True)
    return folder


class _Store:
    """Writes samples while they come, and hands them to the disk every few seconds: a killed process loses no more."""

    def __init__(self, stack: ExitStack, path: Path, about: Mapping[str, JSON]) -> None:
        self._writer = stack.enter_context(RolloutWriter(path, keep_partial=True))
        self._about = about
        self._flushed = time.monotonic()

    def of_seed(self, seed: int) -> Callable[[Attempts], None]:
        about = {**self._about, "seed": seed}

        def store(attempts: Attempts) -> None:
            for rollout in attempts.group.rollouts:
                self._writer.write(rollout_to_json(rollout, mode="sampled", **about))
            if attempts.greedy is not None:
                self._writer.write(rollout_to_json(attempts.greedy, mode="greedy", **about))
            if time.monotonic() - self._flushed > FLUSH_S:
                self._writer.flush()
                self._flushed = time.monotonic()

        return store


def _write(path: Path, report: Report) -> None:
    unfinished = path.with_name(path.name + ".tmp")
    with boundary(EvaluationError, f"{path} cannot be written"):
        unfinished.write_text(json.dumps(report.to_json(), indent=2) + "\n", encoding="utf-8")
        os.replace(unfinished, path)
