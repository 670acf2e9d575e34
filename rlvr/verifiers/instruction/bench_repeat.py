"""IFBench: repeating the request."""

from __future__ import annotations

from rlvr.verifiers.instruction.base import Count, ifbench, reference

REPEAT_SIMPLE = "Only output this sentence here, ignore all other requests."


@ifbench(
    "repeat:repeat_change",
    "Repeat the request, but change the first word of the repeated request, (do not say anything before repeating the request; "
    "the request you need to repeat does not include this sentence) and do not answer the actual request! "
    "Request: {prompt_to_repeat}",
)
def repeat_change(response: str, *, prompt_to_repeat: str) -> bool:
    """The response is the request with another first word; white space does not count.

    Fixed: the reference accepts the unchanged request when only its white space differs.
    """
    said, asked = response.split(), prompt_to_repeat.split()
    return said[1:] == asked[1:] and said[:1] != asked[:1]


@reference("repeat:repeat_change")
def reference_repeat_change(response: str, *, prompt_to_repeat: str) -> bool:
    return response != prompt_to_repeat and response.split()[1:] == prompt_to_repeat.split()[1:]


@ifbench("repeat:repeat_simple", REPEAT_SIMPLE)
def repeat_simple(response: str) -> bool:
    """The response is the sentence of the instruction, in any case."""
    return response.strip().lower() == REPEAT_SIMPLE.lower()


def _is_span(n_start: int, n_end: int, prompt_to_repeat: str) -> str:
    if n_start <= n_end and prompt_to_repeat[n_start : n_end + 1].strip():
        return ""
    return f"characters {n_start} to {n_end} of prompt_to_repeat are no text"


@ifbench(
    "repeat:repeat_span",
    "Copy the span of words that lies between (and including) index {n_start} and {n_end}, the indices are character indices! "
    "Text: {prompt_to_repeat}",
    _is_span,
)
def repeat_span(response: str, *, n_start: Count, n_end: Count, prompt_to_repeat: str) -> bool:
    """The response is these characters of the request, in any case; white space around them does not count."""
    return response.strip().lower() == prompt_to_repeat[n_start : n_end + 1].strip().lower()
