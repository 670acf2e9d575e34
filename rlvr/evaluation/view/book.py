"""The runs that a page shows, opened: index, metrics and tokens of each, and the questions that are asked about them."""

from __future__ import annotations

import time
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rlvr.errors import ConfigError, EvaluationError, boundary
from rlvr.evaluation.ledger import StoredRollout
from rlvr.evaluation.printable import printable
from rlvr.evaluation.run_folder import RunFolder
from rlvr.evaluation.view.curves import Follower
from rlvr.evaluation.view.detail import Where, parse_stored, problem_json, rollout_json
from rlvr.evaluation.view.files import Source, check_different, open_source
from rlvr.evaluation.view.index import RunIndex, Snapshot
from rlvr.evaluation.view.lines import LineReader
from rlvr.evaluation.view.query import FILTERS, Searches, find, parse_filter, parse_order
from rlvr.evaluation.view.rows import OUTCOMES
from rlvr.evaluation.view.shard import needle_of
from rlvr.evaluation.view.tokens import TokenTexts
from rlvr.types import JSON

_MOST_IN_GROUP = 128
_MOST_STEPS = 2_000
_NUMBERS = ("reward", "score", "advantage")
_COUNTS = ("line", "step", "group", "sample", "tokens", "turns", "calls", "failed_calls")


@dataclass(frozen=True, slots=True)
class OpenRun:
    """One run of a book. `metrics` is None where there is no training."""

    source: Source
    index: RunIndex
    searches: Searches
    lines: LineReader
    tokens: TokenTexts
    metrics: Follower | None

    @property
    def name(self) -> str:
        return printable(self.source.path.resolve().name)


class Book:
    """Runs, opened for reading. Close it at the end.

    Raises:
        ConfigError: a path holds no run, or two are the same.
    """

    def __init__(self, paths: Sequence[str | Path]) -> None:
        sources = [open_source(path) for path in paths]
        check_different(sources)
        self.runs = tuple(map(_open, sources))

    def start(self) -> None:
        for run in self.runs:
            run.index.start()

    def refresh(self) -> None:
        """Index everything that is there, and return when that is done."""
        for run in self.runs:
            run.index.refresh()

    def close(self) -> None:
        for run in self.runs:
            run.index.close()

    def run(self, number: int) -> OpenRun:
        """
        Raises:
            ConfigError: there is no such run.
        """
        if not 0 <= number < len(self.runs):
            raise ConfigError(f"run {number}, but there are runs 0 to {len(self.runs) - 1}")
        return self.runs[number]

    def state(self) -> dict[str, JSON]:
        """What every page shows of each run, and versions that change when there is something new."""
        return {"runs": [_state(run) for run in self.runs]}

    def curves(self, number: int) -> dict[str, JSON]:
        follower = self.run(number).metrics
        if follower is None:
            return {"version": "", "curves": [], "findings": []}
        follower.refresh()
        return {
            "version": follower.version,
            "curves": [curve.to_json() for curve in follower.curves()],
            "findings": [finding.to_json() for finding in follower.findings()],
        }

    def rollouts(self, number: int, asked: Mapping[str, str], offset: int, limit: int) -> dict[str, JSON]:
        """A page of the table: `asked` has filters by name, and `sort` and `direction`.

        Raises:
            ConfigError: a filter cannot be read.
        """
        began = time.perf_counter()
        run = self.run(number)
        snapshot = run.index.snapshot
        wanted = parse_filter({name: asked[name] for name in FILTERS if name in asked})
        order = parse_order(asked.get("sort", "step"), asked.get("direction", "down"))
        page = find(snapshot, wanted, order, run.searches, offset=offset, limit=limit)
        rows = _rows(snapshot, page.indices, needle_of(wanted.text))
        if page.searched_at is not None:
            run.searches.answered(time.monotonic() - page.searched_at)
        return {
            "version": snapshot.version,
            "rows": rows,
            "total": page.total,
            "offset": offset,
            "outcomes": dict(page.outcomes),
            "mean_reward": page.mean_reward,
            "searched": page.searched,
            "elapsed_ms": 1e3 * (time.perf_counter() - began),
        }

    def rollout(self, where: Where) -> dict[str, JSON]:
        run = self.run(where.run)
        return rollout_json(where, _read(run, _index_of(run.index.snapshot, where), run.index.snapshot))

    def tokens(self, where: Where) -> dict[str, JSON]:
        run = self.run(where.run)
        stored = _read(run, _index_of(run.index.snapshot, where), run.index.snapshot)
        found = run.tokens.pieces(stored.rollout)
        return {"why_not": found} if isinstance(found, str) else {"why_not": None, **found.to_json()}

    def group(self, where: Where) -> dict[str, JSON]:
        """All rollouts of the problem of the rollout at `where`, in its step."""
        run = self.run(where.run)
        snapshot = run.index.snapshot
        first = _index_of(snapshot, where)
        columns = snapshot.columns
        shard = int(columns["shard"][first])
        start, end = snapshot.starts[shard], snapshot.starts[shard + 1]
        members = start + np.flatnonzero(columns["problem"][start:end] == columns["problem"][first])
        shown = [int(index) for index in members[:_MOST_IN_GROUP]]
        stored = [_read(run, index, snapshot) for index in shown]
        return {
            "run": where.run,
            "step": where.step,
            "problem": problem_json(stored[0].rollout),
            "left_out": len(members) - len(shown),
            "rollouts": [
                rollout_json(Where(where.run, where.step, int(columns["line"][index])), one)
                for index, one in zip(shown, stored, strict=True)
            ],
        }

    def problem(self, id: str) -> dict[str, JSON]:
        """In which steps of which runs a problem was attempted, and how that went. `id` is printable."""
        return {"id": id, "runs": [{"run": number, "steps": _steps(run, id)} for number, run in enumerate(self.runs)]}


def _open(source: Source) -> OpenRun:
    metrics = Follower(RunFolder(source.path)) if source.is_run else None
    return OpenRun(source, RunIndex(source), Searches(), LineReader(), TokenTexts(source.folder), metrics)


def _state(run: OpenRun) -> dict[str, JSON]:
    snapshot, notes = run.index.snapshot, []
    recipe: Mapping[str, Any] = {}
    folder = RunFolder(run.source.path)
    is_finished = True
    if run.metrics is not None:
        run.metrics.refresh()
        notes += run.metrics.notes()
        is_finished = (folder.path / "summary.json").is_file()
        try:
            with boundary(EvaluationError, "config.toml cannot be read"):
                recipe = tomllib.loads(folder.config_text())
        except EvaluationError as error:
            notes.append(printable(str(error)))
    algorithm = recipe.get("algorithm")
    about = [recipe.get("task"), _short(recipe.get("model")), algorithm.get("name") if isinstance(algorithm, Mapping) else None]
    return {
        "name": run.name,
        "path": printable(str(run.source.path)),
        "is_run": run.source.is_run,
        "is_finished": is_finished,
        "about": [printable(str(part)) for part in about if part is not None],
        "step": 0 if run.metrics is None else run.metrics.step,
        "steps": recipe["steps"] if isinstance(recipe.get("steps"), int) else None,
        "curves_version": "" if run.metrics is None else run.metrics.version,
        "changed_s": _age_s(run.source),
        "version": snapshot.version,
        "rollouts": len(snapshot),
        "files": snapshot.files,
        "files_indexed": len(snapshot.shards),
        "last_step": snapshot.shards[0].file.step if snapshot.shards else None,
        "notes": [*notes, *snapshot.notes],
    }


def _short(model: Any) -> Any:
    """A hub's name as it is, of a path the folder."""
    return Path(model).name if isinstance(model, str) and (model.count("/") > 1 or Path(model).is_absolute()) else model


def _age_s(source: Source) -> float | None:
    """Seconds since the run last wrote something."""
    try:
        return max(0.0, time.time() - (source.path / "metrics.jsonl" if source.is_run else source.path).stat().st_mtime)
    except OSError:
        return None


def _rows(snapshot: Snapshot, indices: Sequence[int], needle: bytes) -> list[JSON]:
    columns, previews = snapshot.columns, _previews(snapshot, indices, needle)
    rows: list[JSON] = []
    for index, preview in zip(indices, previews, strict=True):
        numbers = {name: float(columns[name][index]) for name in _NUMBERS}
        rows.append(
            {
                **{name: int(columns[name][index]) for name in _COUNTS},
                **{name: None if value != value else value for name, value in numbers.items()},
                "problem": snapshot.problems[int(columns["problem"][index])],
                "outcome": OUTCOMES[int(columns["outcome"][index])].value,
                "is_truncated": bool(columns["truncated"][index]),
                "preview": preview,
            }
        )
    return rows


def _previews(snapshot: Snapshot, indices: Sequence[int], needle: bytes) -> list[str]:
    """A line of each rollout: where it has what is searched, or its end."""
    by_shard: dict[int, list[int]] = {}
    for index in indices:
        by_shard.setdefault(int(snapshot.columns["shard"][index]), []).append(index)
    found: dict[int, str] = {}
    for shard, members in by_shard.items():
        local = [index - snapshot.starts[shard] for index in members]
        found |= zip(members, snapshot.shards[shard].lines(local, needle), strict=True)
    return [found[index] for index in indices]


def _index_of(snapshot: Snapshot, where: Where) -> int:
    found = snapshot.shard_of_step(where.step)
    if found is None:
        raise ConfigError(f"no rollouts of step {where.step} are stored, or they are not read yet")
    number, shard = found
    local = int(np.searchsorted(shard.rows["line"], where.line))
    if local >= len(shard.rows) or int(shard.rows["line"][local]) != where.line:
        raise ConfigError(f"step {where.step} has no rollout on line {where.line}")
    return snapshot.starts[number] + local


def _read(run: OpenRun, index: int, snapshot: Snapshot) -> StoredRollout:
    shard = snapshot.shards[int(snapshot.columns["shard"][index])]
    content = run.lines.read(shard.file, int(snapshot.columns["offset"][index]), int(snapshot.columns["length"][index]))
    return parse_stored(content)


def _steps(run: OpenRun, id: str) -> list[JSON]:
    """Each step in which the problem was attempted, newest first."""
    snapshot = run.index.snapshot
    columns = snapshot.columns
    number = next((number for number, known in enumerate(list(snapshot.problems)) if known == id), -1)
    members = np.flatnonzero(columns["problem"] == number)
    steps = columns["step"][members]
    found: list[JSON] = []
    for step in np.unique(steps)[::-1][:_MOST_STEPS]:
        group = members[steps == step]
        rewards = columns["reward"][group]
        known = rewards[~np.isnan(rewards)]
        found.append(
            {
                "step": int(step),
                "line": int(columns["line"][group[0]]),
                "rollouts": len(group),
                "correct": int(np.count_nonzero(columns["outcome"][group] == 0)),
                "mean_reward": float(known.mean()) if len(known) else None,
                "mean_tokens": float(columns["tokens"][group].mean()),
            }
        )
    return found
