"""Stored rollouts: one JSON line each, gzipped, exact in both directions."""

from __future__ import annotations

import gzip
import json
import os
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from io import BufferedWriter
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from rlvr.errors import EvaluationError, boundary
from rlvr.types import (
    JSON,
    CallStatus,
    Completion,
    FinishReason,
    FunctionCall,
    Message,
    Outcome,
    Problem,
    Rollout,
    Stop,
    ToolCall,
    Turn,
    Verdict,
)

_encode = json.JSONEncoder(separators=(",", ":")).encode


@dataclass(frozen=True, slots=True)
class StoredRollout:
    """A rollout as it was, and what was known about it: step, advantage, seed, sampling, versions ..."""

    rollout: Rollout
    provenance: Mapping[str, JSON]


def rollout_to_json(rollout: Rollout, **provenance: JSON) -> dict[str, JSON]:
    """The rollout as plain JSON; `provenance` is kept beside it under its own key."""
    return {
        "problem": {
            "id": rollout.problem.id,
            "prompt": [_message_to_json(message) for message in rollout.problem.prompt],
            "answer": rollout.problem.answer,
            "metadata": dict(rollout.problem.metadata),
        },
        "sample_index": rollout.sample_index,
        "turns": [_turn_to_json(turn) for turn in rollout.turns],
        "stop": rollout.stop,
        "verdicts": {name: _verdict_to_json(verdict) for name, verdict in rollout.verdicts.items()},
        "reward": rollout.reward,
        "error": rollout.error,
        "provenance": provenance,
    }


def rollout_from_json(row: Mapping[str, Any]) -> Rollout:
    """The inverse of `rollout_to_json`.

    Raises:
        EvaluationError: the row is not a stored rollout.
    """
    with boundary(EvaluationError, "a stored rollout cannot be read"):
        problem = row["problem"]
        prompt = tuple(map(_message_from_json, problem["prompt"]))
        return Rollout(
            Problem(problem["id"], prompt, problem["answer"], problem["metadata"]),
            row["sample_index"],
            [_turn_from_json(turn) for turn in row["turns"]],
            None if row["stop"] is None else Stop(row["stop"]),
            {name: Verdict(**{**v, "outcome": Outcome(v["outcome"])}) for name, v in row["verdicts"].items()},
            row["reward"],
            row["error"],
        )


class RolloutWriter:
    """Writes rows to `path` while they come; the file appears whole when the block ends.

    If the block ends with an error, nothing appears; with `keep_partial`, what was written so far is kept as
    `<name>.partial.jsonl.gz` beside it.
    A path that ends in `.gz` is compressed, with a header without time or name: equal rows give equal bytes.

    Raises:
        EvaluationError: a row holds what JSON cannot, or the disk refuses.
    """

    def __init__(self, path: str | Path, *, keep_partial: bool = False) -> None:
        self._path = Path(path)
        self._keep_partial = keep_partial
        self._unfinished = self._path.with_name(self._path.name + ".tmp")
        self._raw: BufferedWriter | None = None
        self._file: BufferedWriter | gzip.GzipFile | None = None
        self._has_rows = False

    def __enter__(self) -> RolloutWriter:
        with boundary(EvaluationError, f"{self._path} cannot be written"):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._raw = self._unfinished.open("wb")
        self._file = self._raw
        if self._path.suffix == ".gz":
            self._file = gzip.GzipFile(filename="", mode="wb", compresslevel=1, fileobj=self._raw, mtime=0)
        return self

    def write(self, row: Mapping[str, JSON]) -> None:
        assert self._file is not None, "write() belongs inside the with block"
        with boundary(EvaluationError, f"a rollout cannot be written to {self._path}"):
            self._file.write(_encode(row).encode("ascii") + b"\n")
            self._has_rows = True

    def flush(self) -> None:
        """Bring what was written to the disk's care, so that a process that is killed leaves it behind in `<name>.tmp`."""
        assert self._file is not None, "flush() belongs inside the with block"
        with boundary(EvaluationError, f"{self._path} cannot be written"):
            self._file.flush()
            if self._raw is not None:
                self._raw.flush()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        assert self._raw is not None
        assert self._file is not None
        with boundary(EvaluationError, f"{self._path} cannot be written"):
            try:
                if self._file is not self._raw:
                    self._file.close()
                self._raw.flush()
                os.fsync(self._raw.fileno())
            finally:
                self._raw.close()
            if error is None:
                os.replace(self._unfinished, self._path)
            elif self._keep_partial and self._has_rows:
                os.replace(self._unfinished, partial_path(self._path))
            else:
                self._unfinished.unlink()


def partial_path(path: Path) -> Path:
    """Where rows lie whose writing was interrupted."""
    name = path.name.removesuffix(".gz").removesuffix(".jsonl")
    return path.with_name(f"{name}.partial{path.name[len(name) :]}")


def write_rollouts(path: str | Path, rows: Iterable[Mapping[str, JSON]]) -> None:
    """Write rows of `rollout_to_json` to a `.jsonl` or `.jsonl.gz` file, whole or not at all.

    Raises:
        EvaluationError: a row holds what JSON cannot, or the disk refuses.
    """
    with RolloutWriter(path) as writer:
        for row in rows:
            writer.write(row)


def read_rollouts(path: str | Path) -> Iterator[StoredRollout]:
    """Rollouts of one file, in the order in which they were written.

    Raises:
        EvaluationError: the file is missing, damaged, or holds something else.
    """
    path = Path(path)
    with boundary(EvaluationError, f"stored rollouts in {path} cannot be read"), _open_text(path) as file:
        for line in file:
            row = json.loads(line)
            yield StoredRollout(rollout_from_json(row), row["provenance"])


def read_lines(path: str | Path, on_cut: Callable[[], None] = lambda: None) -> Iterator[bytes]:
    """Whole lines of a file of rollouts, as far as it is undamaged; `on_cut` hears where it ends in the middle, as a killed
    process leaves it."""
    path = Path(path)
    with path.open("rb") as raw, gzip.GzipFile(fileobj=raw) if ".gz" in path.suffixes else raw as file:
        try:
            for line in file:
                if line.endswith(b"\n"):
                    yield line
                else:
                    on_cut()
        except (EOFError, OSError, zlib.error):
            on_cut()


def _open_text(path: Path) -> TextIO:
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="ascii")
    return path.open(encoding="ascii")


def _message_to_json(message: Message) -> dict[str, JSON]:
    row: dict[str, JSON] = {"role": message.role, "content": message.content}
    if message.calls:
        row["calls"] = [asdict(call) for call in message.calls]
        row["before_calls"] = message.before_calls
    row |= {"call_id": message.call_id} if message.call_id else {}
    return row | ({"name": message.name} if message.name else {})


def _message_from_json(row: Mapping[str, Any]) -> Message:
    calls = tuple(FunctionCall(**call) for call in row.get("calls", ()))
    return Message(row["role"], row["content"], calls, row.get("before_calls", ""), row.get("call_id", ""), row.get("name", ""))


def _turn_to_json(turn: Turn) -> dict[str, JSON]:
    completion = turn.completion
    row: dict[str, JSON] = {
        "prompt_ids": turn.prompt_ids,
        "completion": {
            "token_ids": completion.token_ids,
            "logprobs": completion.logprobs,
            "finish_reason": completion.finish_reason,
            "policy_version": completion.policy_version,
        },
        "message": _message_to_json(turn.message),
        "replies": [_message_to_json(message) for message in turn.replies],
    }
    # Left out where there is nothing to say: most rollouts have no tools.
    if completion.reported_tokens is not None:
        row["completion"]["reported_tokens"] = completion.reported_tokens
    if completion.token_versions is not None:
        row["completion"]["token_versions"] = completion.token_versions
    row |= {"inline": turn.inline} if turn.inline is not None else {}
    return row | ({"calls": [asdict(call) for call in turn.calls]} if turn.calls else {})


def _turn_from_json(row: Mapping[str, Any]) -> Turn:
    completion = row["completion"]
    versions = completion.get("token_versions")
    return Turn(
        tuple(row["prompt_ids"]),
        Completion(
            tuple(completion["token_ids"]),
            tuple(completion["logprobs"]),
            FinishReason(completion["finish_reason"]),
            completion["policy_version"],
            completion.get("reported_tokens"),
            None if versions is None else tuple(versions),
        ),
        _message_from_json(row["message"]),
        tuple(map(_message_from_json, row["replies"])),
        row.get("inline"),
        tuple(ToolCall(**{**call, "status": CallStatus(call["status"])}) for call in row.get("calls", ())),
    )


def _verdict_to_json(verdict: Verdict) -> dict[str, JSON]:
    return {
        "outcome": verdict.outcome,
        "score": verdict.score,
        "extracted": verdict.extracted,
        "reason": verdict.reason,
        "elapsed_s": verdict.elapsed_s,
        "details": dict(verdict.details),
    }
