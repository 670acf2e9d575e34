"""`regex`: does the answer match a pattern? Runs on RE2, whose time is linear in the text whatever the pattern."""

from __future__ import annotations

import functools
import re
from typing import Any, Literal, TypeAlias

from rlvr.errors import ConfigError, VerifierError, boundary
from rlvr.types import Problem, Rollout, Verdict
from rlvr.verifiers.base import verifier
from rlvr.verifiers.extract import TEXT_RULES, Extract, find_answer

Match: TypeAlias = Literal["full", "search", "absent"]

MAX_SHOWN_CHARS = 2_000
MAX_PROGRAM_BYTES = 32 * 2**20

_SURROGATE = re.compile("[\ud800-\udfff]")


@verifier("regex", isolated=False, grades="form")
def regex(
    problem: Problem,
    rollout: Rollout,
    *,
    pattern: str | None = None,
    match: Match = "full",
    extract: Extract = "whole",
    strict: bool = False,
    case_sensitive: bool = True,
) -> Verdict:
    """Correct when the answer matches `pattern`: as a whole (`full`), somewhere (`search`), or nowhere (`absent`).

    Without `pattern` the gold answer is the pattern. The syntax is RE2's: Python's without back-references and look-around;
    `(?s)` lets a dot match a line end. What follows the thinking is read, white space at both ends aside.
    """
    source = problem.answer if pattern is None else pattern
    if not isinstance(source, str) or not source:
        return Verdict.error(f"{problem.id} has no pattern: set `pattern`, or give one as the gold answer")
    compiled = compile_pattern(source, case_sensitive=case_sensitive)
    found = find_answer(rollout.response, extract, strict=strict, auto=TEXT_RULES)
    if found.text is None:
        return Verdict.unparsed(found.reason)
    if found.is_ambiguous:
        return Verdict.incorrect(found.text[:MAX_SHOWN_CHARS], found.reason)
    text = _SURROGATE.sub("\ufffd", found.text)
    hit = compiled.fullmatch(text) if match == "full" else compiled.search(text)
    shown = (hit[0] if hit is not None and match != "absent" else found.text)[:MAX_SHOWN_CHARS]
    if (hit is None) == (match == "absent"):
        return Verdict.correct(shown)
    return Verdict.incorrect(shown, f"{source[:100]!r} matches" if match == "absent" else f"{source[:100]!r} does not match")


@functools.lru_cache(maxsize=512)
def compile_pattern(pattern: str, *, case_sensitive: bool = True) -> Any:
    """The compiled RE2 pattern.

    Raises:
        ConfigError: RE2 is not installed.
        VerifierError: the pattern is not RE2 syntax, or too large.
    """
    try:
        import re2
    except ModuleNotFoundError as error:
        raise ConfigError("the verifier 'regex' needs google-re2: pip install 'rlvr[regex]'") from error
    options = re2.Options()
    options.log_errors = False
    options.case_sensitive = case_sensitive
    options.max_mem = MAX_PROGRAM_BYTES
    with boundary(VerifierError, f"pattern {pattern[:200]!r} (RE2 has no look-around and no back-references)"):
        return re2.compile(pattern, options)
