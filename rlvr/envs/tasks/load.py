"""Find a task by name, folder, file or plugin reference."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from rlvr import registry
from rlvr.envs.tasks.adapter import DrawnOrRead, Generator, RowReader
from rlvr.envs.tasks.dataset import DatasetProblems
from rlvr.envs.tasks.file_task import file_task
from rlvr.envs.tasks.generated import SPLITS, GeneratedProblems
from rlvr.envs.tasks.rows import is_row_file
from rlvr.envs.tasks.spec import TaskSpec, explain, read_spec
from rlvr.envs.tasks.task import ProblemSource, Task
from rlvr.errors import TaskError, boundary
from rlvr.types import JSON

_PACKAGE = Path(__file__).resolve().parents[2]
_IN_WHEEL, _IN_CHECKOUT = _PACKAGE / "_tasks", _PACKAGE.parent / "tasks"


def task_names() -> list[str]:
    """Names that `load_task` knows: built-in folders and plugins, sorted."""
    return sorted(set(_built_in_folders()) | set(registry.names("tasks")))


def load_task(name_or_path: str, args: Mapping[str, JSON] | None = None) -> Task:
    """Load a task by its name, as a folder with `task.toml`, as a JSONL or Parquet file, or as `file.py:name`.

    `PLUGIN:NAME`, where PLUGIN is a task plugin, gives it the argument `dataset = NAME`.

    `args` override the task's arguments. Reads no data yet: a data set is looked for when its problems are asked for.

    Raises:
        TaskError: unknown name (with the closest ones), a wrong `task.toml`, unknown or wrong arguments.
        PluginError: an adapter or a task plugin failed to import.
    """
    args = args or {}
    if is_row_file(name_or_path):
        return file_task(Path(name_or_path), args)
    built_in = _built_in_folders()
    plugins = registry.names("tasks")
    is_plugin = name_or_path in plugins
    if name_or_path in built_in and is_plugin:
        raise TaskError(f"task name {name_or_path!r} is ambiguous: built in ({built_in[name_or_path]}) and a plugin; use a path")
    if name_or_path in built_in:
        return _from_folder(built_in[name_or_path], args)
    family, _, member = name_or_path.partition(":")
    if member and family in plugins:
        return _from_plugin(family, {"dataset": member, **args})
    if is_plugin or ":" in name_or_path:
        return _from_plugin(name_or_path, args)
    if (Path(name_or_path) / "task.toml").is_file():
        return _from_folder(Path(name_or_path), args)
    raise TaskError(_unknown(name_or_path))


def _built_in_folders() -> dict[str, Path]:
    root = _IN_WHEEL if _IN_WHEEL.is_dir() else _IN_CHECKOUT
    return {path.parent.name: path.parent for path in sorted(root.glob("*/task.toml"))}


def _unknown(name: str) -> str:
    if Path(name).is_dir():
        return f"folder {name} has no task.toml"
    known = task_names()
    close = difflib.get_close_matches(name, known, n=3)
    hint = f"did you mean {' or '.join(map(repr, close))}?" if close else f"known: {', '.join(known)}"
    return f"no task is named {name!r}; {hint} (or give a folder with task.toml, or a .jsonl, .jsonl.gz or .parquet file)"


def _from_plugin(reference: str, args: Mapping[str, JSON]) -> Task:
    """A plugin is a folder (`str` or `Path`) or a function that takes the arguments and returns a `Task`."""
    target = registry.resolve("tasks", reference).target
    if isinstance(target, str | Path):
        return _from_folder(Path(target), args)
    if not callable(target):
        raise TaskError(f"task plugin {reference!r} is {target!r}, but a folder or a function (args) -> Task is needed")
    with boundary(TaskError, f"task plugin {reference!r} failed"):
        task = target(dict(args))
    if not isinstance(task, Task):
        raise TaskError(f"task plugin {reference!r} returned {task!r}, but a Task is needed")
    return task


def _from_folder(folder: Path, args: Mapping[str, JSON]) -> Task:
    folder = folder.resolve()
    spec = read_spec(folder / "task.toml")
    adapter = _adapter(folder, {**spec.args, **args})
    return Task(
        name=folder.name,
        description=spec.description,
        folder=folder,
        args=adapter.model_dump(mode="json"),
        verifiers=spec.verifiers,
        max_tokens=spec.max_tokens,
        stop=spec.stop,
        tiny=spec.tiny,
        variants=spec.variants,
        adapter=adapter,
        source=_source(folder, spec, adapter),
        env=spec.env,
    )


def _adapter(folder: Path, args: Mapping[str, JSON]) -> Generator | RowReader:
    kind: Any = registry.resolve("tasks", f"{folder / 'adapter.py'}:Adapter").target
    if not (isinstance(kind, type) and issubclass(kind, Generator | RowReader)):
        raise TaskError(f"{folder / 'adapter.py'}: Adapter must be a Generator or a RowReader, but it is {kind!r}")
    unknown = sorted(set(args) - set(kind.model_fields))
    if unknown:
        known = ", ".join(kind.model_fields) or "none"
        raise TaskError(f"task {folder.name} has no argument {', '.join(map(repr, unknown))}; its arguments are: {known}")
    try:
        adapter: Generator | RowReader = kind.model_validate(dict(args))
    except ValidationError as error:
        raise TaskError(f"task {folder.name}, arguments: {explain(error)}") from error
    return adapter


def _source(folder: Path, spec: TaskSpec, adapter: Generator | RowReader) -> ProblemSource:
    if isinstance(adapter, DrawnOrRead) and adapter.rows:
        return DatasetProblems(folder.name, adapter, spec.prompt, dict.fromkeys(SPLITS, ()), local=adapter.rows)
    if isinstance(adapter, Generator):
        if set(spec.sizes) != set(SPLITS) or spec.splits:
            raise TaskError(f"{folder / 'task.toml'}: a generated task needs sizes for {' and '.join(SPLITS)}, and no splits")
        return GeneratedProblems(folder.name, adapter, spec.prompt, spec.sizes)
    if spec.sizes or not spec.splits:
        raise TaskError(f"{folder / 'task.toml'}: a task with rows needs splits, and no sizes")
    return DatasetProblems(folder.name, adapter, spec.prompt, spec.splits, local=spec.local)
