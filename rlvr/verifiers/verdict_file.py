"""The output file of a long `rlvr verify`: whatever ended the run, it continues after the last whole line.

Beside FILE lies `FILE.meta.json`, which says what FILE holds: the verifier, its version and settings, and the input.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from rlvr.errors import ConfigError
from rlvr.types import JSON

_SAMPLE_BYTES = 2**20


@dataclass(frozen=True, slots=True)
class Written:
    """The whole lines that were there already, their outcomes, and the id of the last."""

    count: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    last_id: JSON = None


def open_verdicts(path: Path, about: Mapping[str, JSON], *, resume: bool) -> tuple[IO[str], Written]:
    """Open `path` for appending. A torn last line of an interrupted run is dropped.

    Raises:
        ConfigError: it exists and is not to be resumed, it holds something else, or it cannot be written.
    """
    meta = path.with_name(f"{path.name}.meta.json")
    try:
        if not path.exists():
            _write(meta, about)
            return path.open("x", encoding="utf-8"), Written()
        if not resume:
            raise ConfigError(f"{path} exists; continue it with --resume, or choose another file")
        _check_same(path, meta, about)
        written = _whole_lines(path)
        return path.open("a", encoding="utf-8"), written
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror or error}") from error


def input_fingerprint(path: Path) -> dict[str, JSON]:
    """What tells one input from another without reading all of it: its size, and a hash of its beginning and end.

    Raises:
        ConfigError: it cannot be read.
    """
    digest = hashlib.blake2b(digest_size=16)
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            digest.update(file.read(_SAMPLE_BYTES))
            file.seek(max(0, size - _SAMPLE_BYTES))
            digest.update(file.read(_SAMPLE_BYTES))
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror or error}") from error
    return {"bytes": size, "hash": digest.hexdigest()}


def _check_same(path: Path, meta: Path, about: Mapping[str, JSON]) -> None:
    try:
        known = json.loads(meta.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be resumed: {meta} does not say what it holds ({error})") from error
    for key, value in about.items():
        if known.get(key) != value:
            raise ConfigError(
                f"{path} cannot be resumed: it was written with {key} = {json.dumps(known.get(key))}, "
                f"but now {key} = {json.dumps(value)}; choose another file"
            )


def _whole_lines(path: Path) -> Written:
    """Count the whole lines, and cut off what follows the last of them."""
    outcomes: Counter[str] = Counter()
    last: dict[str, Any] = {}
    end = 0
    with path.open("r+b") as file:
        for line in file:
            if not line.endswith(b"\n"):
                break
            try:
                last = json.loads(line)
                outcomes[last["outcome"]] += 1
            except (ValueError, KeyError, TypeError) as error:
                raise ConfigError(f"{path} cannot be resumed: line {outcomes.total() + 1} is no verdict") from error
            end += len(line)
        file.truncate(end)
    return Written(outcomes.total(), outcomes, last.get("id"))


def _write(path: Path, about: Mapping[str, JSON]) -> None:
    draft = path.with_name(f"{path.name}.tmp")
    draft.write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
    os.replace(draft, path)
