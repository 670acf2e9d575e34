"""What a verifier is, and the decorator that makes one."""

from __future__ import annotations

import functools
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeAlias

from rlvr.errors import PluginError
from rlvr.registry import Plugin, register
from rlvr.types import JSON, Problem, Rollout, Verdict

Grades: TypeAlias = Literal["answer", "form", "opinion"]


class VerifierFunction(Protocol):
    """Grades one rollout. Keyword-only parameters are the verifier's settings; recipes set them under `args`."""

    def __call__(self, problem: Problem, rollout: Rollout, /, **settings: Any) -> Verdict:
        """What was found. It must not raise for anything that a model may write."""
        ...


@dataclass(frozen=True, slots=True)
class Nested:
    """A verifier inside the settings of another, by name or reference, with its own settings."""

    reference: str
    settings: Mapping[str, JSON] = field(default_factory=dict)


Asking: TypeAlias = Generator[Sequence[Nested], Sequence[Verdict], Verdict]


@dataclass(eq=False)
class Verifier:
    """A named verifier; call it like the function that it wraps.

    `isolated` verifiers run in worker processes with a wall-clock limit. Set it to False only where the running
    time is linear in the response and no library parses the model's text: such a verifier runs in the trainer's
    process and costs microseconds. `warm_up` runs once in a worker before its first rollout, outside the limit:
    import heavy libraries there.

    `grades` says what an audit may expect: of "answer" that a response without the right answer is never correct, of
    "form" (layout, length, language) only what its golden cases say; None: by the kind of the gold answers. "opinion" is not
    verifiable: a judge or a reward model, which no rule decides.

    `quick` finds the same verdict in bounded time, or None where it cannot tell. The grader asks it first, in the trainer's
    process; only what it leaves open costs a worker.

    `probe` settles whose fault a timeout was: it makes, from a problem, the responses that an honest model could have
    given. If the verifier grades these in time, the response that ran into the limit is to blame and scores 0.

    `nested` names the verifiers that these settings make this one call. Such a verifier runs in a worker only if one of
    those is isolated; they are checked and loaded with it.

    `asks` is the same verdict for a grader that runs the nested verifiers itself, each where it belongs and under a clock of its
    own: a generator that yields those whose verdicts it wants, is sent them in that order, and returns its own.

    `waits` (with `isolated=False`) says that it spends its time waiting for a sandbox or a network, which ends in bounded
    time: the grader runs it in threads of the trainer's process, many at once. Its `warm_up` says at once, by raising, that what
    it waits for cannot be had: see `Grader.prepare`.

    Raises:
        PluginError: both `waits` and `isolated`.
    """

    name: str
    function: Callable[..., Verdict]
    isolated: bool = True
    version: str = "1"
    warm_up: Callable[[], None] | None = None
    grades: Grades | None = None
    nested: Callable[[Mapping[str, JSON]], Sequence[Nested]] | None = None
    quick: Callable[..., Verdict | None] | None = None
    probe: Callable[[Problem], Sequence[str]] | None = None
    waits: bool = False
    asks: Callable[..., Asking] | None = None

    def __post_init__(self) -> None:
        if self.waits and self.isolated:
            raise PluginError(
                f"verifier {self.name!r} declares waits=True, which is for isolated=False; a worker has its own clock"
            )
        functools.update_wrapper(self, self.function)

    def __call__(self, problem: Problem, rollout: Rollout, **settings: Any) -> Verdict:
        return self.function(problem, rollout, **settings)


def verifier(
    name: str,
    *,
    isolated: bool = True,
    version: str = "1",
    warm_up: Callable[[], None] | None = None,
    grades: Grades | None = None,
    nested: Callable[[Mapping[str, JSON]], Sequence[Nested]] | None = None,
    quick: Callable[..., Verdict | None] | None = None,
    probe: Callable[[Problem], Sequence[str]] | None = None,
    waits: bool = False,
) -> Callable[[Callable[..., Verdict]], Verifier]:
    """Make a function `(problem, rollout, *, settings...) -> Verdict` a verifier plugin called `name`.

    Raises:
        PluginError: another verifier of this process already has this name.
    """

    def decorate(function: Callable[..., Verdict]) -> Verifier:
        made = Verifier(name, function, isolated, version, warm_up, grades, nested, quick, probe, waits)
        return register("verifiers", name)(made)

    return decorate


def as_verifier(plugin: Plugin) -> Verifier:
    """The plugin's target as a Verifier; a plain function becomes an isolated one under the plugin's name.

    Raises:
        PluginError: the target cannot be called.
    """
    if isinstance(plugin.target, Verifier):
        return plugin.target
    if not callable(plugin.target) or isinstance(plugin.target, type):
        kind = type(plugin.target).__name__
        raise PluginError(f"{plugin.reference} is a {kind}; a verifier is a function (problem, rollout, *, settings) -> Verdict")
    return Verifier(plugin.name, plugin.target)
