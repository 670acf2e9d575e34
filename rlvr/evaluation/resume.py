"""Continue an evaluation that was interrupted: samples that were drawn and graded are not drawn again."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rlvr.errors import ConfigError, EvaluationError, boundary
from rlvr.evaluation.ledger import partial_path, read_lines, rollout_from_json
from rlvr.evaluation.measure import Runs
from rlvr.seeding import Part
from rlvr.types import JSON, Group, Problem, Rollout, Sampling

# What must be as it was for old samples to stand beside new ones.
DECISIVE = ("model", "checkpoint", "task", "task_args", "split", "sampling", "template", "env", "grading", "engine")

_Key = tuple[str, str, int, int]  # mode, problem id, seed, sample


class Remembered:
    """The stored samples of an evaluation that did not finish. Their lines are kept, not the rollouts, which are far larger.

    The files are set aside under `<name>.resumed-N...`, so that nothing is lost when this attempt is interrupted, too.

    Raises:
        EvaluationError: a file cannot be set aside or read.
    """

    def __init__(self, samples: Path) -> None:
        self._files = _set_aside(samples)
        self._lines: dict[_Key, bytes] = {}
        self._provenance: Mapping[str, JSON] = {}
        for file in self._files:
            with boundary(EvaluationError, f"stored samples in {file} cannot be read"):
                for line in read_lines(file):
                    self._remember(line)

    def __len__(self) -> int:
        return len(self._lines)

    def check(self, about: Mapping[str, JSON]) -> None:
        """
        Raises:
            ConfigError: the stored samples were drawn under other settings; names the first.
        """
        now = json.loads(json.dumps(dict(about), default=str))
        for key in DECISIVE:
            before = self._provenance.get(key)
            if self._provenance and before != now.get(key):
                raise ConfigError(
                    f"--resume: the stored samples have {key} = {json.dumps(before)}, but now it is {json.dumps(now.get(key))}; "
                    "ask for the same as before, or start in another folder"
                )

    def rollout(self, problem: Problem, mode: str, seed: int, sample: int) -> Rollout | None:
        """The stored sample, if it was asked the same and was scored."""
        line = self._lines.get((mode, problem.id, seed, sample))
        if line is None:
            return None
        rollout = rollout_from_json(json.loads(line))
        is_same = rollout.problem.prompt == problem.prompt and rollout.problem.answer == json.loads(json.dumps(problem.answer))
        return rollout if is_same and rollout.is_scored else None

    def forget(self) -> None:
        """Delete the files that were set aside: everything in them stands in the new one."""
        for file in self._files:
            file.unlink(missing_ok=True)

    def _remember(self, line: bytes) -> None:
        row: dict[str, Any] = json.loads(line)
        known = row["provenance"]
        self._provenance = known
        self._lines[known["mode"], row["problem"]["id"], known["seed"], row["sample_index"]] = line


class ResumedRunner:
    """A rollout loop that answers from memory where it can."""

    def __init__(self, runner: Runs, remembered: Remembered) -> None:
        self._runner, self._remembered = runner, remembered

    async def run(self, problem: Problem, sample_index: int, sampling: Sampling, *seed_parts: Part) -> Rollout:
        stored = self._stored(problem, [sample_index], seed_parts)
        return stored[0] if stored else await self._runner.run(problem, sample_index, sampling, *seed_parts)

    async def run_group(self, problem: Problem, n: int, sampling: Sampling, *seed_parts: Part) -> Group:
        stored = self._stored(problem, range(n), seed_parts)
        # All or none: a sample depends on its seed alone, and a group's shared prompt is computed once.
        return Group(problem, tuple(stored)) if stored else await self._runner.run_group(problem, n, sampling, *seed_parts)

    def _stored(self, problem: Problem, samples: Sequence[int], seed_parts: Sequence[Part]) -> list[Rollout]:
        kind, seed = seed_parts  # as `measure` gives them
        assert isinstance(seed, int)
        mode = "greedy" if kind == "greedy" else "sampled"
        found = [self._remembered.rollout(problem, mode, seed, sample) for sample in samples]
        whole = [rollout for rollout in found if rollout is not None]
        return whole if len(whole) == len(found) else []


def unfinished_files(samples: Path) -> list[Path]:
    """What an interrupted evaluation left: written so far, cut off, or set aside by an earlier attempt."""
    left = [partial_path(samples), samples.with_name(samples.name + ".tmp")]
    return [*sorted(samples.parent.glob(f"{_stem(samples)}.resumed-*")), *(path for path in left if path.exists())]


def _set_aside(samples: Path) -> list[Path]:
    files = unfinished_files(samples)
    kept = [file for file in files if ".resumed-" in file.name]
    for file in files:
        if file not in kept:
            number = next(i for i in range(1, 10_000) if not _aside(samples, i).exists())
            with boundary(EvaluationError, f"{file} cannot be set aside"):
                os.replace(file, _aside(samples, number))
            kept.append(_aside(samples, number))
    return kept


def _aside(samples: Path, number: int) -> Path:
    return samples.with_name(f"{_stem(samples)}.resumed-{number:04d}{samples.name[len(_stem(samples)) :]}")


def _stem(samples: Path) -> str:
    return samples.name.removesuffix(".gz").removesuffix(".jsonl")
