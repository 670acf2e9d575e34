"""Our verifiers as rewards of prime `verifiers` tasks (`import verifiers.v1 as vf`).

    class Sum(rubric("number", answer="gold"), vf.Task[SumData]): ...

Source: verifiers 0.4.0, `verifiers/v1/task.py` (`Task.score` runs the methods that carry `@vf.reward`; where one raises, the
trace records the error and its rewards stay None) and `verifiers/v1/utils/decorators.py`.
"""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Awaitable, Callable
from typing import Any

from rlvr.errors import ConfigError, PluginError, VerifierError
from rlvr.integrations.conversation import conversation_rollout, json_fields
from rlvr.types import JSON, Rollout
from rlvr.verifiers.api import BlockingGrader
from rlvr.verifiers.runner import WeightedVerifier

RewardMethod = Callable[[Any, Any, Any], Awaitable[float]]


def reward(
    verifier: str,
    *,
    answer: str = "answer",
    weight: float = 1.0,
    name: str | None = None,
    workers: int = 2,
    timeout_s: float = 10.0,
    **settings: JSON,
) -> RewardMethod:
    """A `@vf.reward` method for the body of a `vf.Task` class: the score of `verifier` on the trace's last reply.

    `answer` names the field of the task's data that holds the gold answer; the verifier sees the others as metadata. `name` is
    the key in `trace.rewards`. Where our grading fails the method raises: the reward stays None and the trace has the error.

    Raises:
        PluginError, ConfigError: as `rlvr.verifiers.runner.Grader`; also when `verifiers` is not installed.
    """
    return _method(WeightedVerifier(verifier, weight, settings), answer, name, workers, timeout_s)


def rubric(*verifiers: str | WeightedVerifier, answer: str = "answer", workers: int = 2, timeout_s: float = 10.0) -> type:
    """A base class for `vf.Task` classes with one reward for each verifier, given by name or with a weight and settings.

    Raises:
        PluginError, ConfigError: as `reward`; also without verifiers, or with one of them twice.
    """
    methods: dict[str, RewardMethod] = {}
    for given in verifiers:
        weighted = WeightedVerifier(given) if isinstance(given, str) else given
        method = _method(weighted, answer, None, workers, timeout_s)
        if method.__name__ in methods:
            raise ConfigError(f"verifier {method.__name__!r} is twice in the rubric; use reward(..., name=...) in the class body")
        methods[method.__name__] = method
    if not methods:
        raise ConfigError("a rubric needs at least one verifier")
    return type("Rubric", (), dict(methods))


def _method(verifier: WeightedVerifier, answer: str, name: str | None, workers: int, timeout_s: float) -> RewardMethod:
    grader = BlockingGrader([verifier], workers=workers, timeout_s=timeout_s)

    async def score(self: Any, task: Any, trace: Any) -> float:
        rollout = _rollout(task, trace, answer)
        await asyncio.to_thread(grader.grade, [rollout])
        verdict = next(iter(rollout.verdicts.values()))
        if verdict.score is None:
            raise VerifierError(f"not graded: {verdict.reason}")
        return verdict.score

    score.__name__ = score.__qualname__ = name or next(iter(grader.provenance()))
    score.__doc__ = f"The score of verifier {verifier.reference!r} against `{answer}`."
    marked: RewardMethod = _verifiers_v1().reward(weight=verifier.weight)(score)
    return marked


def _verifiers_v1() -> Any:
    try:
        return importlib.import_module("verifiers.v1")
    except ModuleNotFoundError as error:
        raise PluginError("the package 'verifiers' is not installed, or older than 0.3; pip install 'verifiers>=0.4'") from error


def _rollout(task: Any, trace: Any, answer: str) -> Rollout:
    fields = task.model_dump()
    if answer not in fields:
        raise ConfigError(f"{type(task).__name__} has no field {answer!r}; set answer= to one of {', '.join(fields)}")
    reply = {"role": "assistant", "content": trace.last_reply}
    if trace.assistant_messages:
        reply["reasoning_content"] = trace.assistant_messages[-1].reasoning_content
    gold = fields.pop(answer)
    identity = task.id or task.name or str(task.idx)
    return conversation_rollout([reply], gold, prompt=task.prompt_text, metadata=json_fields(fields), identity=identity)
