"""Public fakes and checks for the tests of rlvr and of its plugins."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rlvr.types import Completion, FinishReason, Sampling
from rlvr.verifiers.check import check_verifier as check_verifier


class ScriptedEngine:
    """An engine that answers from a script instead of a model.

    `script` maps (prompt_ids, sampling) to the token ids of the answer. Every request is kept in `requests`.

    >>> import asyncio
    >>> engine = ScriptedEngine(lambda prompt, sampling: (7, 8))
    >>> asyncio.run(engine.generate((1, 2), Sampling(max_tokens=1))).token_ids
    (7,)
    """

    def __init__(self, script: Callable[[tuple[int, ...], Sampling], Sequence[int]], *, policy_version: int = 0) -> None:
        self._script = script
        self.policy_version = policy_version
        self.requests: list[tuple[tuple[int, ...], Sampling]] = []

    async def generate(self, prompt_ids: Sequence[int], sampling: Sampling) -> Completion:
        prompt = tuple(prompt_ids)
        self.requests.append((prompt, sampling))
        tokens = tuple(self._script(prompt, sampling))
        finish = FinishReason.STOP if len(tokens) <= sampling.max_tokens else FinishReason.LENGTH
        tokens = tokens[: sampling.max_tokens]
        return Completion(tokens, (0.0,) * len(tokens), finish, self.policy_version)
