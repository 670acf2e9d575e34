"""An engine that makes a mistake on purpose: what the calculator said comes back as if the model had sampled it.

It answers blocks of code itself, inside `generate`, so its completions hold the output's tokens, and the trainer cannot tell them
from the model's own: that is training without the loss mask.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from rlvr.engines.native import NativeEngine
from rlvr.errors import CallError
from rlvr.tools.calculator import Calculator, evaluate, written
from rlvr.tools.formats.blocks import CODE
from rlvr.tools.parse import Answer, Asked
from rlvr.types import Completion, FinishReason, Sampling

TURNS = 4


class Unmasked(NativeEngine):
    """A native engine that uses the calculator of its own accord."""

    def __init__(self, model: Any, tokenizer: Any, **settings: Any) -> None:
        super().__init__(model, tokenizer, **settings)
        self._tokenizer = tokenizer

    async def generate(self, prompt_ids: Sequence[int], sampling: Sampling) -> Completion:
        tokens: tuple[int, ...] = ()
        logprobs: tuple[float, ...] = ()
        for turn in range(TURNS):
            left = sampling.max_tokens - len(tokens)
            if left <= 0:
                return Completion(tokens, logprobs, FinishReason.LENGTH, self.policy_version)
            request = replace(sampling, max_tokens=left, stop=CODE.stop, seed=sampling.seed + turn)
            piece = await super().generate((*prompt_ids, *tokens), request)
            tokens, logprobs = (*tokens, *piece.token_ids), (*logprobs, *piece.logprobs)
            text = self._tokenizer.decode(list(piece.token_ids))
            asked = CODE.parse(text, [Calculator().spec]).asked
            if not asked:
                break
            said = self._tokenizer.encode(CODE.inline([Answer(_output(asked[0]))], text), add_special_tokens=False)
            tokens, logprobs = (*tokens, *said), (*logprobs, *(0.0,) * len(said))
        return Completion(tokens, logprobs, piece.finish_reason, self.policy_version)


def _output(asked: Asked) -> str:
    try:
        return written(evaluate(asked.arguments["expression"]))
    except CallError as error:
        return f"Error: {error}"
