"""Every error that rlvr raises, and the one place that turns foreign exceptions into them.

RlvrError
├── ConfigError       a setting is wrong: names the key, the value and what is allowed
├── PluginError       a plugin is missing, ambiguous or broken
├── TaskError         a task, an adapter or a row is wrong: task, split, row id
├── RolloutError      infrastructure failed during one rollout; its siblings go on
│   ├── EngineError
│   │   └── ContextFullError  the prompt leaves no room for an answer
│   ├── ToolError
│   └── SandboxError
├── CallError         a tool refused a call; the model is told, and the rollout goes on
├── VerifierError     our grading failed; recorded as a verdict without a score
├── CheckpointError   a model or checkpoint cannot be read or written
├── TrainingError     the update cannot go on (NaN loss, too many unscored rollouts)
└── EvaluationError   a measurement cannot be trusted (too many unscored rollouts)
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class RlvrError(Exception):
    """Base of all errors that rlvr raises on purpose; its text is meant for the user."""


class ConfigError(RlvrError):
    """A setting is wrong."""


class PluginError(RlvrError):
    """A plugin was not found, is ambiguous, or failed to import."""


class TaskError(RlvrError):
    """A task, its adapter or one of its rows is wrong."""


class RolloutError(RlvrError):
    """Infrastructure failed during one rollout (never the model's own fault)."""


class EngineError(RolloutError):
    """The generation engine failed or refused a request."""


class ContextFullError(EngineError):
    """A prompt fills the model's context. In a later turn it ends the rollout as truncated: the conversation grew too long."""


class ToolError(RolloutError):
    """A tool's infrastructure failed."""


class SandboxError(RolloutError):
    """The sandbox failed (not the program that ran in it)."""


class CallError(RlvrError):
    """A tool could not do what the model asked; the model is told (never an infrastructure failure).

    `output` is what it is told where that is more than the message, such as what was printed before; `is_timeout`: time was up.
    """

    def __init__(self, message: str, *, output: str = "", is_timeout: bool = False) -> None:
        super().__init__(message)
        self.output = output
        self.is_timeout = is_timeout


class VerifierError(RlvrError):
    """A verifier crashed, hung, or met a gold answer that it cannot read."""


class CheckpointError(RlvrError):
    """A model or checkpoint cannot be read or written."""


class TrainingError(RlvrError):
    """Training cannot go on without doing harm."""


class EvaluationError(RlvrError):
    """A measurement cannot be trusted."""


@contextmanager
def boundary(kind: type[RlvrError], doing: str) -> Iterator[None]:
    """Turn any foreign exception inside the block into `kind`, with its cause kept.

    This is the only place in rlvr that catches `Exception`.
    """
    try:
        yield
    except RlvrError:
        raise
    except Exception as error:
        raise kind(f"{doing}: {type(error).__name__}: {error}") from error
