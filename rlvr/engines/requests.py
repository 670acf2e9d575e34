"""What every engine that takes tokens refuses before it samples, in the same words."""

from __future__ import annotations

from collections.abc import Sequence

from rlvr.errors import ContextFullError, EngineError
from rlvr.types import Sampling


def check_prompt(prompt: Sequence[int], *, vocabulary: int, max_context: int) -> None:
    """
    Raises:
        ContextFullError: the prompt leaves no room for an answer.
        EngineError: it is empty, or has tokens that the model does not know.
    """
    if not prompt:
        raise EngineError("the prompt is empty; give at least one token (e.g. the beginning-of-sequence token)")
    if len(prompt) >= max_context:
        raise ContextFullError(
            f"the prompt has {len(prompt)} tokens, but the context holds {max_context}, completion included; "
            "shorten the prompt or leave the problem out"
        )
    if min(prompt) < 0 or max(prompt) >= vocabulary:
        wrong = next(token for token in prompt if not 0 <= token < vocabulary)
        raise EngineError(f"token id {wrong} in the prompt, but the model knows 0..{vocabulary - 1}; wrong tokenizer?")


def check_sampling(sampling: Sampling, *, has_tokenizer: bool) -> None:
    """
    Raises:
        EngineError: a setting out of range, or stop strings without a tokenizer to find them with.
    """
    ranges = {
        "max_tokens": (sampling.max_tokens >= 1, "1 or more"),
        "temperature": (0.0 <= sampling.temperature < float("inf"), "0 (greedy) or more"),
        "top_p": (0.0 < sampling.top_p <= 1.0, "above 0, up to 1"),
        "top_k": (sampling.top_k >= 0, "0 (off) or more"),
        "min_p": (0.0 <= sampling.min_p <= 1.0, "between 0 and 1"),
        "stop": (all(sampling.stop), "made of non-empty strings"),
    }
    for name, (is_right, allowed) in ranges.items():
        if not is_right:
            raise EngineError(f"sampling.{name} = {getattr(sampling, name)!r}, but it must be {allowed}")
    if sampling.stop and not has_tokenizer:
        raise EngineError("stop strings need a tokenizer; give the engine one or leave `stop` empty")


def model_context(positions: int | None, wanted: int | None) -> int:
    """How many tokens a model with `positions` positions is used for; None: it has no limit, or none is asked for.

    Raises:
        EngineError: more are asked for than there are.
    """
    limit = positions or 2**20
    if wanted is not None and wanted > limit:
        raise EngineError(f"max_context = {wanted}, but the model has {limit} positions; lower it")
    return int(wanted or limit)
