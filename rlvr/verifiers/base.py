"""What a verifier is, and the decorator that makes one."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from rlvr.registry import register
from rlvr.types import Problem, Rollout, Verdict


class VerifierFunction(Protocol):
    """Grades one rollout. Keyword-only parameters are the verifier's settings; recipes set them under `args`."""

    def __call__(self, problem: Problem, rollout: Rollout, /, **settings: Any) -> Verdict: ...


@dataclass(eq=False)
class Verifier:
    """A named verifier; call it like the function that it wraps.

    `isolated` verifiers run in worker processes with a wall-clock limit. Set it to False only where the running
    time is linear in the response and no library parses the model's text: such a verifier runs in the trainer's
    process and costs microseconds.
    """

    name: str
    function: Callable[..., Verdict]
    isolated: bool = True
    version: str = "1"

    def __post_init__(self) -> None:
        functools.update_wrapper(self, self.function)

    def __call__(self, problem: Problem, rollout: Rollout, **settings: Any) -> Verdict:
        return self.function(problem, rollout, **settings)


def verifier(name: str, *, isolated: bool = True, version: str = "1") -> Callable[[Callable[..., Verdict]], Verifier]:
    """Make a function `(problem, rollout, *, settings...) -> Verdict` a verifier plugin called `name`.

    Raises:
        PluginError: another verifier of this process already has this name.
    """

    def decorate(function: Callable[..., Verdict]) -> Verifier:
        return register("verifiers", name)(Verifier(name, function, isolated, version))

    return decorate
