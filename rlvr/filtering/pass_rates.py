"""The file that `rlvr filter` writes: how often a model solved each problem.

The first line says what was measured (`settings`), every further line is one problem. Lines are appended while
problems finish; when all are done the file is rewritten in the order of the problems, so that an interrupted and
resumed measurement ends with the same bytes as one that ran through.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import NormalDist
from types import TracebackType
from typing import Any

from rlvr.errors import ConfigError, EvaluationError, boundary
from rlvr.filtering.stopping import Spread, Stopping
from rlvr.filtering.window import Decision, Window
from rlvr.types import JSON, Group, Outcome, Problem

FORMAT = "rlvr pass rates 1"
_SYNC_EVERY_S = 1.0  # what a power cut may cost; kill -9 costs at most a torn last line


@dataclass(frozen=True, slots=True)
class PassRate:
    """What n samples showed about one problem. `pass_rate` is correct / scored, None when nothing could be scored.

    `digest` is that of the problem's text and answer; empty in files that were written before it was stored.
    """

    id: str
    n: int
    correct: int
    unscored: int
    mean_tokens: float
    outcomes: Mapping[str, int]  # by outcome of the first verifier
    digest: str = ""

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
            digest=digest_of(group.problem),
        )

    def plus(self, more: PassRate) -> PassRate:
        """Both together, of the same problem."""
        tokens = round(self.mean_tokens * self.n) + round(more.mean_tokens * more.n)  # whole numbers, so nothing is lost
        return PassRate(
            id=self.id,
            n=self.n + more.n,
            correct=self.correct + more.correct,
            unscored=self.unscored + more.unscored,
            mean_tokens=tokens / (self.n + more.n),
            outcomes={name: self.outcomes.get(name, 0) + count for name, count in more.outcomes.items()},
            digest=more.digest,
        )

    @property
    def pass_rate(self) -> float | None:
        scored = self.n - self.unscored
        return self.correct / scored if scored else None

    def decide(self, stopping: Stopping, planned: int) -> Decision:
        """Whether `planned` samples would have put it in the window; fewer may have been drawn."""
        return stopping.decision(self.correct, self.n - self.unscored, max(0, planned - self.n))

    def more(self, stopping: Stopping, planned: int) -> int:
        """Samples that are missing before its sampling may end."""
        return stopping.more(self.correct, self.n - self.unscored, max(0, planned - self.n))

    def to_json(self, stopping: Stopping, planned: int) -> dict[str, JSON]:
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
            "kept": self.decide(stopping, planned).is_kept,
            "digest": self.digest,
        }

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> PassRate:
        counts = (row["n"], row["correct"], row["unscored"])
        return cls(row["id"], *counts, row["mean_tokens"], row["verdicts"], row.get("digest", ""))


@dataclass(frozen=True, slots=True)
class PassRates:
    """A measured set of problems, and the settings that it was measured with.

    `epsilon` and `spread`: how sampling ended (`stopping.Stopping`); None: always at the end.
    """

    settings: Mapping[str, JSON]
    by_id: Mapping[str, PassRate]
    epsilon: float | None = None
    spread: Spread | None = None

    @property
    def planned(self) -> int:
        """Samples of each problem without early stopping."""
        return int(self.settings.get("n", 0))

    def kept(self, keep: Window) -> tuple[str, ...]:
        """Ids inside the window, in file order."""
        stopping = self.stopping(keep)
        return tuple(id for id, found in self.by_id.items() if found.decide(stopping, self.planned).is_kept)

    def undecided(self, keep: Window) -> tuple[str, ...]:
        """Ids whose sampling was stopped early for another window, and says too little about this one."""
        stopping = replace(self.stopping(keep), epsilon=self.epsilon or 0.0)
        return tuple(id for id, found in self.by_id.items() if found.more(stopping, self.planned))

    def stopping(self, keep: Window) -> Stopping:
        return Stopping(keep, self.epsilon, self.spread)

    @property
    def saved_share(self) -> float:
        """Rollouts that early stopping did not draw, of those that were planned."""
        planned = self.planned * len(self.by_id)
        drawn = sum(min(found.n, self.planned) for found in self.by_id.values())
        return 1.0 - drawn / planned if planned else 0.0


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
    found = _parse(path, data[: data.rfind(b"\n") + 1])
    measured = found.settings.get("task")
    if task is not None and measured != task:
        raise ConfigError(
            f"pass rates {path} are of task {measured!r}, but this run trains on {task!r}; measure it with `rlvr filter`"
        )
    return found


def digest_of(problem: Problem) -> str:
    """Changes when the prompt or the answer does."""
    content = [[(message.role, message.content) for message in problem.prompt], problem.answer]
    text = json.dumps(content, sort_keys=True, default=repr)
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()


def select_problems(problems: Sequence[Problem], rates: PassRates, keep: Window, origin: str = "the pass rates") -> list[Problem]:
    """The problems inside the window, in their own order; problems that were not measured are left out.

    Raises:
        ConfigError: two problems with one id, a measured problem that has changed since, problems whose sampling was stopped
            for another window, or a window that keeps none.
    """
    by_id = {problem.id: problem for problem in problems}
    if len(by_id) < len(problems):
        twice = [id for id, count in Counter(problem.id for problem in problems).items() if count > 1]
        raise ConfigError(
            f"{len(twice)} ids belong to several problems, first {_first(twice)}; {origin} cannot say which is meant: give "
            "every problem an id of its own (`rlvr tasks validate` lists them)"
        )
    changed = [id for id, p in by_id.items() if id in rates.by_id and rates.by_id[id].digest not in ("", digest_of(p))]
    if changed:
        raise ConfigError(
            f"{len(changed)} problems are others than those of {origin} with the same id, first {_first(changed)}; measure "
            "these with `rlvr filter`"
        )
    undecided = [id for id in rates.undecided(keep) if id in by_id]
    if undecided:
        raise ConfigError(
            f"{len(undecided)} of {len(by_id)} problems of {origin} were sampled only until another window was decided, first "
            f"{_first(undecided)}; `rlvr filter --keep {keep}` with its other settings draws what is missing for {keep}"
        )
    kept = set(rates.kept(keep))
    chosen = [problem for problem in problems if problem.id in kept]
    if not chosen:
        measured = [id for id in rates.by_id if id in by_id]
        low = sum((rates.by_id[id].pass_rate or 0.0) < keep.low for id in by_id if id in rates.by_id)
        raise ConfigError(
            f"{origin} keeps none of {len(by_id)} problems within {keep}: {len(measured)} of them are measured, {low} lie below "
            f"{keep.low} and {len(measured) - low} above {keep.high}; widen the window, or use a stronger or weaker model"
        )
    return chosen


def _first(ids: Sequence[str]) -> str:
    return ", ".join(map(repr, ids[:3]))


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

    def __init__(self, path: Path, settings: Mapping[str, JSON], keep: Window, epsilon: float | None = None) -> None:
        self._path = path
        self._settings = json.loads(json.dumps(settings))  # as they will be read back: tuples become lists
        self._stopping = Stopping(keep, epsilon)
        self.found = self._take_up()
        self._synced_at = time.monotonic()

    def _take_up(self) -> dict[str, PassRate]:
        with boundary(EvaluationError, f"{self._path} cannot be written"):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            data = self._path.read_bytes() if self._path.exists() else b""
        whole = data.rfind(b"\n") + 1
        found: dict[str, PassRate] = {}
        if whole:
            before = _parse(self._path, data[:whole])
            _check_same(self._path, before.settings, self._settings)
            found = dict(before.by_id)
            self._stopping = replace(self._stopping, spread=before.spread)
        with boundary(EvaluationError, f"{self._path} cannot be written"):
            self._file = self._path.open("ab")
            self._file.truncate(whole)  # a line that kill -9 tore
        if not whole:
            self._write(self._header())
        return found

    def append(self, rate: PassRate) -> None:
        self.found[rate.id] = rate
        self._write(rate.to_json(self._stopping, self._planned))
        if time.monotonic() - self._synced_at >= _SYNC_EVERY_S:
            self._sync()

    @property
    def stopping(self) -> Stopping:
        """How sampling ends, with the spread of solve rates where one is known."""
        return self._stopping

    def use_spread(self, spread: Spread) -> None:
        """Decide with this spread from now on; the file says so first, so that an interrupted measurement goes on with it."""
        self._stopping = replace(self._stopping, spread=spread)
        self._rewrite(self.found)
        self._file.close()
        with boundary(EvaluationError, f"{self._path} cannot be written"):
            self._file = self._path.open("ab")

    def finish(self, order: Sequence[str]) -> PassRates:
        """Rewrite the file in this order (other problems after it), atomically."""
        ordered = {id: self.found[id] for id in order if id in self.found} | self.found
        self._rewrite(ordered)
        return PassRates(self._settings, ordered, self._stopping.epsilon, self._stopping.spread)

    def _rewrite(self, rates: Mapping[str, PassRate]) -> None:
        unfinished = self._path.with_name(self._path.name + ".tmp")
        with boundary(EvaluationError, f"{self._path} cannot be written"):
            with unfinished.open("wb") as file:
                file.write(_line(self._header()))
                file.writelines(_line(rate.to_json(self._stopping, self._planned)) for rate in rates.values())
                file.flush()
                os.fsync(file.fileno())
            os.replace(unfinished, self._path)

    def _header(self) -> dict[str, JSON]:
        keep, spread = self._stopping.keep, self._stopping.spread
        known: dict[str, JSON] = {} if spread is None else {"spread": list(spread)}
        header = {"format": FORMAT, "settings": self._settings, "keep": [keep.low, keep.high], "epsilon": self._stopping.epsilon}
        return header | known

    @property
    def _planned(self) -> int:
        return int(self._settings.get("n", 0))

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


def _line(row: Mapping[str, JSON]) -> bytes:
    return json.dumps(row).encode("ascii") + b"\n"


def _parse(path: Path, data: bytes) -> PassRates:
    first, *lines = data.splitlines() or [b""]
    with boundary(ConfigError, f"{path} is not a file of pass rates"):
        header = json.loads(first)
        if not isinstance(header, dict) or header.get("format") != FORMAT:
            raise ConfigError(f"{path} is not a file of pass rates: its first line does not say {FORMAT!r}")
        settings: dict[str, JSON] = header["settings"]
        epsilon: float | None = header.get("epsilon")
        spread = tuple(map(float, header["spread"])) if "spread" in header else None
    rates: dict[str, PassRate] = {}
    for number, line in enumerate(lines, start=2):
        with boundary(ConfigError, f"{path}, line {number} is damaged"):
            rate = PassRate.from_json(json.loads(line))
        before = rates.get(rate.id)
        # A later line counts where a problem was measured again after a failure, or sampled further.
        if before is not None and not before.unscored and rate.n <= before.n:
            raise ConfigError(
                f"{path}, line {number} repeats problem {rate.id!r}, which was measured already; remove one of them"
            )
        rates[rate.id] = rate
    return PassRates(settings, rates, epsilon, spread)


def _check_same(path: Path, before: Mapping[str, JSON], now: Mapping[str, JSON]) -> None:
    names = dict.fromkeys([*before, *now])
    different = [
        f"{name}: {before.get(name)!r} there, {now.get(name)!r} now" for name in names if before.get(name) != now.get(name)
    ]
    if different:
        raise ConfigError(
            f"{path} was measured with other settings ({'; '.join(different)}); repeat those or choose another --out"
        )
