"""IFEval: detectable content."""

from __future__ import annotations

import re

from rlvr.verifiers.instruction.base import Count, ifeval, reference


@ifeval(
    "detectable_content:number_placeholders",
    "The response must contain at least {num_placeholders} placeholders represented by square brackets, such as [address].",
)
def number_placeholders(response: str, *, num_placeholders: Count) -> bool:
    """At least so many [placeholders], each within one line; "[]" counts."""
    return sum(_placeholders(line) for line in response.split("\n")) >= num_placeholders


@ifeval(
    "detectable_content:postscript",
    "At the end of your response, please explicitly add a postscript starting with {postscript_marker}",
)
def postscript(response: str, *, postscript_marker: str) -> bool:
    """The marker occurs, in any case; "P.S." and "P.P.S" may have spaces between the letters.

    Fixed: the reference reads other markers as regular expressions, in which "P.S" also finds "pts".
    """
    return _has_postscript(response, postscript_marker.strip(), re.escape(postscript_marker.strip().lower()))


@reference("detectable_content:postscript")
def reference_postscript(response: str, *, postscript_marker: str) -> bool:
    return _has_postscript(response, postscript_marker.strip(), postscript_marker.strip().lower())


def _has_postscript(response: str, marker: str, other: str) -> bool:
    patterns = {"P.P.S": r"p\.\s?p\.\s?s", "P.S.": r"p\.\s?s\."}
    try:
        return re.search(patterns.get(marker, other), response.lower()) is not None
    except re.error:
        return False  # where the reference raises


def _placeholders(line: str) -> int:
    count = 0
    start = line.find("[")
    while start >= 0 and (stop := line.find("]", start)) >= 0:
        count += 1
        start = line.find("[", stop)
    return count
