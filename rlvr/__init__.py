"""rlvr trains reasoning models with verifiable rewards, and proves what was gained."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rlvr.config import OptimConfig, RolloutConfig
    from rlvr.evaluation.evaluate import evaluate
    from rlvr.tools.function import tool
    from rlvr.trainers import algorithms
    from rlvr.trainers.train import train
    from rlvr.types import Completion, Group, Message, Outcome, Problem, Rollout, Segment, Turn, Verdict
    from rlvr.verifiers.api import grade
    from rlvr.verifiers.base import verifier

__version__ = "0.1.0"

# Loaded on first use: `import rlvr` must cost milliseconds, and a verifier author has no torch.
_HOME = {
    "Completion": "rlvr.types",
    "Group": "rlvr.types",
    "Message": "rlvr.types",
    "Outcome": "rlvr.types",
    "Problem": "rlvr.types",
    "Rollout": "rlvr.types",
    "Segment": "rlvr.types",
    "Turn": "rlvr.types",
    "Verdict": "rlvr.types",
    "RolloutConfig": "rlvr.config",
    "OptimConfig": "rlvr.config",
    "tool": "rlvr.tools.function",
    "verifier": "rlvr.verifiers.base",
    "grade": "rlvr.verifiers.api",
    "evaluate": "rlvr.evaluation.evaluate",
    "train": "rlvr.trainers.train",
    "algorithms": "rlvr.trainers.algorithms",
    "testing": "rlvr.testing",
}

__all__ = [
    "Completion", "Group", "Message", "OptimConfig", "Outcome", "Problem", "Rollout", "RolloutConfig", "Segment",
    "Turn", "Verdict", "algorithms", "evaluate", "grade", "tool", "train", "verifier",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module 'rlvr' has no attribute {name!r}")
    module = importlib.import_module(home)
    value = getattr(module, name, module)  # "testing" and "algorithms" are modules themselves
    # `import rlvr.trainers.train` binds submodules as attributes; the public name must win over them.
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
