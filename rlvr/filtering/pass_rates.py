"""The file that `rlvr filter` writes: how often a model solved each problem.

The first line says what was measured (`settings`), every further line is one problem. Lines are appended while
problems finish; when all are done the file is rewritten in the order of the problems, so that an interrupted and
resumed measurement ends with the same bytes as one that ran through.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist
from types import TracebackType
from typing import Any

from rlvr.errors import ConfigError, EvaluationError, boundary
from rlvr.types import JSON, Group, Outcome, Problem

FORMAT = "rlvr pass rates 1"
_SYNC_EVERY_S = 1.0  # what a power cut may cost; kill -9 costs at most a torn last line


@dataclass(frozen=True, slots=True)
class Window:
    """Pass rates worth training on, both ends included."""

    low: float = 0.2
    high: float = 0.8

    def __post_init__(self) -> None:
        if not 0.0 <= self.low <= self.high <= 1.0:
            raise ConfigError(f"keep = {self.low}:{self.high}, but a window is LOW:HIGH with 0 <= LOW <= HIGH <= 1")

    @classmethod
    def parse(cls, text: str) -> Window:
        """Read `0.2:0.8`.

        Raises:
            ConfigError: another form, or out of range.
        """
        low, _, high = text.partition(":")
        try:
            return cls(float(low), float(high))
        except ValueError:
            raise ConfigError(f"keep = {text!r}, but a window looks like 0.2:0.8") from None

    def holds(self, pass_rate: float | None) -> bool:
        return pass_rate is not None and self.low <= pass_rate <= self.high


@dataclass(frozen=True, slots=True)
class PassRate:
    """What n samples showed about one problem. `pass_rate` is correct / scored, None when nothing could be scored."""

    id: str
    n: int
    correct: int
    unscored: int
    mean_tokens: float
    outcomes: Mapping[str, int]  # by outcome of the first verifier

    @classmethod
    def of(cls, group: Group) -> PassRate:
        verdicts = [rollout.verdict for rollout in group.rollouts]
        return cls(
            id=group.problem.id,
            n=len(group.rollouts),
            correct=sum(rollout.is_correct for rollout in group.rollouts),
            unscored=sum(not rollout.is_scored for rollout in group.rollouts),
            mean_tokens=sum(rollout.completion_tokens for rollout in group.rollouts) / len(group.rollouts),
            outcomes={o.value: sum(v is not None and v.outcome is o for v in verdicts) for o in Outcome},
        )

    @property
    def pass_rate(self) -> float | None:
        scored = self.n - self.unscored
        return self.correct / scored if scored else None

    def to_json(self, keep: Window) -> dict[str, JSON]:
        low, high = wilson_interval(self.correct, self.n - self.unscored)
        return {
            "id": self.id,
            "n": self.n,
            "correct": self.correct,
            "unscored": self.unscored,
            "pass_rate": self.pass_rate,
            "low": low,
            "high": high,
            "mean_tokens": self.mean_tokens,
            "verdicts": dict(self.outcomes),
            "kept": keep.holds(self.pass_rate),
        }

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> PassRate:
        return cls(row["id"], row["n"], row["correct"], row["unscored"], row["mean_tokens"], row["verdicts"])


@dataclass(frozen=True, slots=True)
class PassRates:
    """A measured set of problems, and the settings that it was measured with."""

    settings: Mapping[str, JSON]
    by_id: Mapping[str, PassRate]

    def kept(self, keep: Window) -> tuple[str, ...]:
        """Ids inside the window, in file order."""
        return tuple(id for id, found in self.by_id.items() if keep.holds(found.pass_rate))


def load_pass_rates(path: str | Path, *, task: str | None = None) -> PassRates:
    """Read a file of pass rates; with `task`, refuse one that was measured on another task.

    Raises:
        ConfigError: no such file, not a file of pass rates, damaged, or of another task.
    """
    path = Path(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ConfigError(
            f"pass rates {path} cannot be read: {error.strerror or error}; write them with `rlvr filter`"
        ) from error
    settings, rates = _parse(path, data[: data.rfind(b"\n") + 1])
    measured = settings.get("task")
    if task is not None and measured != task:
        raise ConfigError(
            f"pass rates {path} are of task {measured!r}, but this run trains on {task!r}; measure it with `rlvr filter`"
        )
    return PassRates(settings, rates)


def select_problems(problems: Iterable[Problem], rates: PassRates, keep: Window) -> tuple[Problem, ...]:
    """The problems inside the window, in their own order; problems that were not measured are left out.

    Raises:
        ConfigError: a kept id is not among `problems`, or the window keeps none.
    """
    by_id = {problem.id: problem for problem in problems}
    kept = rates.kept(keep)
    unknown = [id for id in kept if id not in by_id]
    if unknown:
        raise ConfigError(
            f"{len(unknown)} of {len(kept)} kept problems are unknown here, first {', '.join(map(repr, unknown[:3]))}: "
            f"the pass rates were measured on other problems (split, task_args or number of problems); "
            f"measure these with `rlvr filter`"
        )
    if not kept:
        raise ConfigError(
            f"no problem has a pass rate in {keep.low}:{keep.high}; widen the window or use a stronger or weaker model"
        )
    chosen = set(kept)
    return tuple(problem for id, problem in by_id.items() if id in chosen)


def wilson_interval(successes: int, trials: int, confidence: float = 0.95) -> tuple[float, float]:
    """Interval of a solve rate; honest at 0 and 1, where the normal one has no width. No trials: (0, 1).

    Source: Wilson 1927, JASA 22(158).

    >>> tuple(round(end, 3) for end in wilson_interval(0, 16))
    (0.0, 0.194)
    """
    if trials == 0:
        return 0.0, 1.0
    z = NormalDist().inv_cdf((1.0 + confidence) / 2.0)
    share = successes / trials
    centre = (share + z * z / (2 * trials)) / (1 + z * z / trials)
    half = z / (1 + z * z / trials) * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    # Rounding must not put the observed share outside its own interval.
    return min(max(0.0, centre - half), share), max(min(1.0, centre + half), share)


class PassRateFile:
    """A file of pass rates that is being written, and taken up again after an interruption.

    Raises:
        ConfigError: the file holds something else, or was measured with other settings (it says which).
        EvaluationError: the disk refuses.
    """

    def __init__(self, path: Path, settings: Mapping[str, JSON], keep: Window) -> None:
        self._path = path
        self._settings = json.loads(json.dumps(settings))  # as they will be read back: tuples become lists
        self._keep = keep
        self.found = self._take_up()
        self._synced_at = time.monotonic()

    def _take_up(self) -> dict[str, PassRate]:
        with boundary(EvaluationError, f"{self._path} cannot be written"):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            data = self._path.read_bytes() if self._path.exists() else b""
        whole = data.rfind(b"\n") + 1
        found: dict[str, PassRate] = {}
        if whole:
            settings, found = _parse(self._path, data[:whole])
            _check_same(self._path, settings, self._settings)
        with boundary(EvaluationError, f"{self._path} cannot be written"):
            self._file = self._path.open("ab")
            self._file.truncate(whole)  # a line that kill -9 tore
        if not whole:
            self._write(_header(self._settings, self._keep))
        return found

    def append(self, rate: PassRate) -> None:
        self.found[rate.id] = rate
        self._write(rate.to_json(self._keep))
        if time.monotonic() - self._synced_at >= _SYNC_EVERY_S:
            self._sync()

    def finish(self, order: Sequence[str]) -> PassRates:
        """Rewrite the file in this order (other problems after it), atomically."""
        ordered = {id: self.found[id] for id in order if id in self.found} | self.found
        unfinished = self._path.with_name(self._path.name + ".tmp")
        with boundary(EvaluationError, f"{self._path} cannot be written"):
            with unfinished.open("wb") as file:
                file.write(_line(_header(self._settings, self._keep)))
                file.writelines(_line(rate.to_json(self._keep)) for rate in ordered.values())
                file.flush()
                os.fsync(file.fileno())
            os.replace(unfinished, self._path)
        return PassRates(self._settings, ordered)

    def __enter__(self) -> PassRateFile:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._sync()
        self._file.close()

    def _write(self, row: Mapping[str, JSON]) -> None:
        with boundary(EvaluationError, f"{self._path} cannot be written"):
            self._file.write(_line(row))
            self._file.flush()

    def _sync(self) -> None:
        with boundary(EvaluationError, f"{self._path} cannot be written"):
            os.fsync(self._file.fileno())
        self._synced_at = time.monotonic()


def _header(settings: Mapping[str, JSON], keep: Window) -> dict[str, JSON]:
    return {"format": FORMAT, "settings": settings, "keep": [keep.low, keep.high]}


def _line(row: Mapping[str, JSON]) -> bytes:
    return json.dumps(row).encode("ascii") + b"\n"


def _parse(path: Path, data: bytes) -> tuple[dict[str, JSON], dict[str, PassRate]]:
    first, *lines = data.splitlines() or [b""]
    with boundary(ConfigError, f"{path} is not a file of pass rates"):
        header = json.loads(first)
        if not isinstance(header, dict) or header.get("format") != FORMAT:
            raise ConfigError(f"{path} is not a file of pass rates: its first line does not say {FORMAT!r}")
        settings: dict[str, JSON] = header["settings"]
    rates: dict[str, PassRate] = {}
    for number, line in enumerate(lines, start=2):
        with boundary(ConfigError, f"{path}, line {number} is damaged"):
            rate = PassRate.from_json(json.loads(line))
        rates[rate.id] = rate  # measured again after a failure: the later line counts
    return settings, rates


def _check_same(path: Path, before: Mapping[str, JSON], now: Mapping[str, JSON]) -> None:
    names = dict.fromkeys([*before, *now])
    different = [
        f"{name}: {before.get(name)!r} there, {now.get(name)!r} now" for name in names if before.get(name) != now.get(name)
    ]
    if different:
        raise ConfigError(
            f"{path} was measured with other settings ({'; '.join(different)}); repeat those or choose another --out"
        )
