"""IFEval: combinations."""

from __future__ import annotations

from rlvr.verifiers.instruction.base import ifeval


@ifeval(
    "combination:two_responses",
    "Give two different responses. Responses and only responses should be separated by 6 asterisk symbols: ******.",
)
def two_responses(response: str) -> bool:
    """Two different parts around "******"; blank parts only at the start and the end."""
    parts = response.split("******")
    if any(not part.strip() for part in parts[1:-1]):
        return False
    filled = [part.strip() for part in parts if part.strip()]
    return len(filled) == 2 and filled[0] != filled[1]


@ifeval(
    "combination:repeat_prompt",
    "First repeat this request word for word without change, then give your answer (do not say any words or characters before "
    "repeating the request): {prompt_to_repeat}",
)
def repeat_prompt(response: str, *, prompt_to_repeat: str) -> bool:
    """The response begins with the request, in any case."""
    return response.strip().lower().startswith(prompt_to_repeat.strip().lower())
