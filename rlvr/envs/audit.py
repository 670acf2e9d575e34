"""A task's problems as samples for the audit of a verifier."""

from __future__ import annotations

from collections.abc import Mapping

from rlvr.envs.tasks import Task
from rlvr.envs.validate import gold_response
from rlvr.types import JSON
from rlvr.verifiers.audit_probes import Sample


def task_samples(task: Task, verifier: str, split: str, limit: int | None = None) -> list[Sample]:
    """The first `limit` problems of a split with their gold responses, graded with the task's own settings for `verifier`.

    Problems for which no response is known that must pass are left out.

    Raises:
        TaskError: no such split, no data, or a gold answer that cannot be said.
    """
    settings: Mapping[str, JSON] = next((dict(one.args) for one in task.verifiers if one.name == verifier), {})
    found = ((problem, gold_response(task, problem)) for problem in task.problems(split, limit=limit))
    return [Sample(problem, gold, settings) for problem, gold in found if gold is not None]
