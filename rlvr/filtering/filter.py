"""From a model and a task to a file of pass rates."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from rlvr.engines.subject import Subject, open_subject, run_to_end
from rlvr.envs.leakage import clean, held_out_problems
from rlvr.errors import ConfigError
from rlvr.filtering.difficulty import measure_pass_rates
from rlvr.filtering.pass_rates import PassRates, load_pass_rates
from rlvr.filtering.window import EPSILON, Window
from rlvr.types import JSON, Group

_SAMPLED_BYTES = 1 << 16
_SAMPLES_OF_A_FILE = 16


@dataclass(frozen=True, slots=True)
class FilterRequest:
    """What to measure. `limit`: the first so many problems of the split; `out` None: `default_path`.

    `epsilon`: the share of problems that all `n` samples may be expected to decide otherwise; None: always draw them all.
    `against`: first leave out near-duplicates and what leaks these held-out problems (`TASK:SPLIT`; none named: the
    task's own); None: leave out nothing.
    """

    subject: Subject
    split: str = "train"
    n: int = 16
    keep: Window = Window()  # noqa: RUF009 - frozen
    epsilon: float | None = EPSILON
    against: tuple[str, ...] | None = None
    limit: int | None = None
    seed: int = 0
    out: Path | None = None
    resume: bool = True
    max_unscored: float = 0.02


@dataclass(frozen=True, slots=True)
class Filtered:
    """Where the pass rates lie, and those of the problems that were asked for."""

    path: Path
    rates: PassRates


def filter_task(
    request: FilterRequest,
    *,
    on_start: Callable[[int, int], None] | None = None,
    on_group: Callable[[Group], None] | None = None,
    on_note: Callable[[str], None] | None = None,
) -> Filtered:
    """Measure the pass rate of every problem of a split, or go on where an earlier call was interrupted.

    `on_start` is told how many problems there are and how many of them were measured before, `on_group` every group
    that is sampled now.

    Raises:
        ConfigError, PluginError, TaskError: something that was asked for is wrong, `out` was measured with other settings,
            or exists although `resume` is False.
        CheckpointError: the model cannot be loaded.
        EvaluationError: too many rollouts without a score, or a full disk; what was measured is kept.
    """
    subject = request.subject
    if request.n < 1:
        raise ConfigError(f"n = {request.n}, but at least one sample of each problem is needed")
    if subject.temperature == 0 and request.n > 1:
        raise ConfigError(
            f"n = {request.n} at temperature 0 draws equal answers, whose pass rate is 0 or 1; raise the temperature"
        )
    task = subject.open_task()
    problems = task.problems(request.split, limit=request.limit)
    cleaned: tuple[str, ...] = ()
    if request.against is not None:
        found = clean(problems, held_out_problems(task, request.split, request.against))
        cleaned = tuple(found.summary(f"{task.name}:{request.split}"))
        problems = [problem for problem in problems if problem.id not in found.removed]
        if not problems:
            raise ConfigError("; ".join(cleaned) + ": nothing is left to filter; see `rlvr tasks leakage`")
    sampling = subject.sampling(task)
    out = request.out or default_path(task.name, request.split, subject.model)
    if out.exists() and not request.resume:
        raise ConfigError(f"{out} exists and resuming is off; remove it or choose another --out")

    async def main() -> PassRates:
        async with open_subject(subject, task, problems, sampling) as ready:
            if on_note is not None:
                for note in (*cleaned, *ready.notes):
                    on_note(note)
            settings = {
                "model": subject.model,
                "weights": fingerprint(subject.model),
                "task": task.name,
                "task_args": dict(task.args),
                "split": request.split,
                # A file that was measured without would still hold the problems that are left out now.
                **({"cleaned_against": list(request.against)} if request.against is not None else {}),
                **{name: value for name, value in ready.provenance.items() if name != "versions"},
            }
            return await measure_pass_rates(
                ready.runner,
                problems,
                out,
                n=request.n,
                sampling=sampling,
                settings=settings,
                seed=request.seed,
                keep=request.keep,
                epsilon=request.epsilon,
                max_unscored=request.max_unscored,
                on_start=on_start,
                on_group=on_group,
            )

    return Filtered(out, run_to_end(main))


def load_for_training(path: str | Path, *, model: str, task: str, task_args: Mapping[str, JSON], split: str) -> PassRates:
    """Pass rates of this model on this task.

    Two models are the same if the fingerprints of their weights are, or their names where one has none.

    Raises:
        ConfigError: not a file of pass rates, or one of another model, task or split; names both.
    """
    rates = load_pass_rates(path, task=task)
    there = rates.settings
    here: dict[str, JSON] = {"split": split, "task_args": dict(task_args)}
    for name, wanted in here.items():
        if name in there and there[name] != json.loads(json.dumps(wanted)):
            raise ConfigError(
                f"pass rates {path} are of task {task!r} with {name} = {there[name]!r}, but this run trains with {name} = "
                f"{wanted!r}; measure it with `rlvr filter`"
            )
    measured, weights = there.get("model"), fingerprint(model)
    is_same = weights == there["weights"] if weights and there.get("weights") else model == measured
    if not is_same:
        marks = f" (weights {there['weights']} there, {weights} here)" if weights and there.get("weights") else ""
        raise ConfigError(
            f"pass rates {path} are of model {measured!r}, but this run trains {model!r}{marks}; what one model solves says "
            f"little about another: measure it with `rlvr filter {task} --model {model}`"
        )
    return rates


def default_path(task: str, split: str, model: str) -> Path:
    """`runs/pass-rates/<task>-<split>-<end of the model's path>.jsonl`."""
    name = "-".join([Path(task).name, split, *Path(model).parts[-3:]])
    return Path("runs") / "pass-rates" / (re.sub(r"[^A-Za-z0-9._-]+", "-", name) + ".jsonl")


def fingerprint(model: str) -> str | None:
    """Changes when the weights of a local folder (of a run: its newest checkpoint) do; None for a hub name.

    It keeps two models out of one file. Reads a few samples of every weight file, not all of it.
    """
    from rlvr.engines.load import newest_checkpoint

    folder = Path(newest_checkpoint(str(Path(model).expanduser())))
    if not folder.is_dir():
        return None
    digest = hashlib.blake2b(digest_size=8)
    for path in sorted([*folder.glob("*.safetensors"), *folder.glob("*.bin")]):
        size = path.stat().st_size
        digest.update(f"{path.name} {size}".encode())
        with path.open("rb") as file:
            for index in range(_SAMPLES_OF_A_FILE):
                file.seek(index * max(size - _SAMPLED_BYTES, 0) // (_SAMPLES_OF_A_FILE - 1))
                digest.update(file.read(_SAMPLED_BYTES))
    return digest.hexdigest()
