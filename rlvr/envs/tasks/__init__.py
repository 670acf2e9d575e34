"""Tasks: where problems come from, how they are put to the model, and which verifiers grade them.

A task is a folder with `task.toml` and `adapter.py`, or a plain JSONL or Parquet file with the columns `prompt` and `answer`.
"""

from rlvr.envs.tasks.adapter import Draft, DrawnOrRead, Generator, RowReader, TaskAdapter, first_of
from rlvr.envs.tasks.load import load_task, task_names
from rlvr.envs.tasks.spec import TaskSpec, TinyModel
from rlvr.envs.tasks.task import Demonstration, Task

__all__ = [
    "Demonstration",
    "Draft",
    "DrawnOrRead",
    "Generator",
    "RowReader",
    "Task",
    "TaskAdapter",
    "TaskSpec",
    "TinyModel",
    "first_of",
    "load_task",
    "task_names",
]
