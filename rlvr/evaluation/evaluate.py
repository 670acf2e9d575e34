"""`rlvr.evaluate`: how good is this model on this task?"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlvr.engines.subject import Subject, open_subject, run_to_end, sampling_json
from rlvr.errors import ConfigError, EvaluationError, boundary
from rlvr.evaluation.ledger import RolloutWriter, rollout_to_json
from rlvr.evaluation.measure import Attempts, Measurement, check_measurement, measure
from rlvr.evaluation.observer import Observer, SilentObserver
from rlvr.evaluation.statistics import Estimate
from rlvr.types import JSON

REPORT = "report.json"
SAMPLES = "samples.jsonl.gz"


@dataclass(frozen=True, slots=True)
class Report:
    """A measurement and everything that it depends on (model, task, sampling, seed, grading, versions)."""

    measurement: Measurement
    about: Mapping[str, JSON]

    @property
    def pass_at(self) -> Mapping[int, Estimate]:
        return self.measurement.pass_at

    @property
    def greedy(self) -> Estimate | None:
        return self.measurement.greedy

    def to_json(self) -> dict[str, JSON]:
        """What `rlvr eval --json` prints: `Measurement.to_json` and, beside it, `about`."""
        return {**self.measurement.to_json(), **self.about}


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
    out: str | Path | None = None,
    max_unscored: float = 0.02,
    observer: Observer | None = None,
    **settings: Any,
) -> Report:
    """Sample `n` responses to each problem of a split and estimate pass@k, with 95 % intervals over problems.

    `settings` are further fields of `rlvr.engines.subject.Subject`: task_args, max_tokens, temperature, top_p, top_k,
    min_p, template, env, verifiers, load, engine. With `out`, that folder gets `report.json` and every sample with its
    verdicts in `samples.jsonl.gz`; samples drawn before a failure are kept as `samples.partial.jsonl.gz`.

    >>> report = rlvr.evaluate("runs/gsm8k/checkpoints/last", task="gsm8k", n=16, k=(1, 4, 16))  # doctest: +SKIP
    >>> report.pass_at[1].low  # doctest: +SKIP

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
    sampling = subject.sampling(opened)
    check_measurement(chosen, n, k, sampling)
    folder = _new_folder(out)
    observer = observer or SilentObserver()
    about: dict[str, JSON] = {
        "model": subject.model,
        "task": opened.name,
        "task_args": dict(opened.args),
        "split": split,
        "seed": seed,
        "sampling": sampling_json(sampling),
    }

    async def main() -> Report:
        async with open_subject(subject, opened, chosen, sampling) as ready:
            for note in ready.notes:
                observer.note(note)
            about.update(ready.provenance)
            with ExitStack() as stack:
                store = None if folder is None else _storing(stack, folder / SAMPLES, about)
                measurement = await measure(
                    ready.runner,
                    chosen,
                    n=n,
                    k=k,
                    sampling=sampling,
                    seed=seed,
                    greedy=greedy,
                    max_unscored=max_unscored,
                    observer=observer,
                    stage=f"{opened.name} {split}",
                    store=store,
                )
        return Report(measurement, about)

    report = run_to_end(main)
    if folder is not None:
        _write(folder / REPORT, report)
    return report


def _new_folder(out: str | Path | None) -> Path | None:
    if out is None:
        return None
    folder = Path(out)
    if (folder / REPORT).exists():
        raise ConfigError(f"{folder} already holds the report of an evaluation; choose another folder")
    with boundary(ConfigError, f"out = {str(out)!r} cannot be used as a folder"):
        folder.mkdir(parents=True, exist_ok=True)
    return folder


def _storing(stack: ExitStack, path: Path, about: Mapping[str, JSON]) -> Callable[[Attempts], None]:
    writer = stack.enter_context(RolloutWriter(path, keep_partial=True))

    def store(attempts: Attempts) -> None:
        for rollout in attempts.group.rollouts:
            writer.write(rollout_to_json(rollout, mode="sampled", **about))
        if attempts.greedy is not None:
            writer.write(rollout_to_json(attempts.greedy, mode="greedy", **about))

    return store


def _write(path: Path, report: Report) -> None:
    unfinished = path.with_name(path.name + ".tmp")
    with boundary(EvaluationError, f"{path} cannot be written"):
        unfinished.write_text(json.dumps(report.to_json(), indent=2) + "\n", encoding="utf-8")
        os.replace(unfinished, path)
