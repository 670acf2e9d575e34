"""Run one verifier on one rollout in this process; whatever goes wrong becomes a verdict without a score."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from time import perf_counter

from rlvr.errors import RlvrError, VerifierError, boundary
from rlvr.types import JSON, Problem, Rollout, Verdict
from rlvr.verifiers.base import Nested, Verifier

MAX_RESPONSE_CHARS = 4_000_000
MAX_REASON_CHARS = 2_000
MAX_EXTRACTED_CHARS = 20_000


def call_verifier(verifier: Verifier, rollout: Rollout, settings: Mapping[str, JSON]) -> Verdict:
    """The verifier's verdict with its time. An exception, or a result that is no verdict, is `Verdict.error`."""
    start = perf_counter()
    try:
        with boundary(VerifierError, f"verifier {verifier.name!r} raised"):
            result: object = verifier.function(rollout.problem, rollout, **settings)
        if not isinstance(result, Verdict):
            raise VerifierError(f"verifier {verifier.name!r} returned {type(result).__name__}, not a Verdict")
        verdict = result
    except RlvrError as error:
        verdict = Verdict.error(clip(str(error), MAX_REASON_CHARS))
    return _bounded(verdict, perf_counter() - start)


def call_quickly(verifier: Verifier, rollout: Rollout, settings: Mapping[str, JSON]) -> Verdict | None:
    """What the verifier finds in bounded time in this process; None where it has no such way, or leaves it open."""
    if verifier.quick is None:
        return None
    start = perf_counter()
    try:
        with boundary(VerifierError, f"verifier {verifier.name!r} raised"):
            verdict = verifier.quick(rollout.problem, rollout, **settings)
    except RlvrError as error:
        verdict = Verdict.error(clip(str(error), MAX_REASON_CHARS))
    return None if verdict is None else _bounded(verdict, perf_counter() - start)


def call_in_bounded_time(verifier: Verifier, rollout: Rollout, settings: Mapping[str, JSON]) -> Verdict | None:
    """The verdict, where it neither needs a process that can be killed nor waits for anything; None otherwise."""
    if verifier.quick is not None:
        return call_quickly(verifier, rollout, settings)
    return None if verifier.isolated or verifier.waits else call_verifier(verifier, rollout, settings)


async def call_asking(
    verifier: Verifier,
    rollout: Rollout,
    settings: Mapping[str, JSON],
    ask: Callable[[Sequence[Nested]], Awaitable[Sequence[Verdict]]],
) -> Verdict:
    """As `call_verifier`, of a verifier with `asks`; `ask` gives the verdicts of those nested in it."""
    assert verifier.asks is not None, "only a combination asks"
    start = perf_counter()
    try:
        with boundary(VerifierError, f"verifier {verifier.name!r} raised"):
            asking = verifier.asks(rollout.problem, rollout, **settings)
            try:
                wanted = next(asking)
                while True:
                    wanted = asking.send(await ask(wanted))
            except StopIteration as done:
                verdict: Verdict = done.value
    except RlvrError as error:
        verdict = Verdict.error(clip(str(error), MAX_REASON_CHARS))
    return _bounded(verdict, perf_counter() - start)


def probe_responses(verifier: Verifier, problem: Problem) -> tuple[str, ...]:
    """The responses that settle whose fault a timeout was; none where the verifier names none."""
    if verifier.probe is None:
        return ()
    with boundary(VerifierError, f"the probe of verifier {verifier.name!r} raised"):
        return tuple(verifier.probe(problem))


def too_long(rollout: Rollout) -> Verdict | None:
    """The verdict on a response that is too long to be graded, or no text at all; None for all others."""
    if not isinstance(rollout.response, str):
        return Verdict.error(f"the response is {type(rollout.response).__name__}, not text")  # type: ignore[unreachable]
    length = len(rollout.response)
    if length <= MAX_RESPONSE_CHARS:
        return None
    return Verdict.unparsed(f"the response has {length} characters; at most {MAX_RESPONSE_CHARS} are graded")


def clip(text: str, limit: int) -> str:
    """`text`, shortened in the middle to about `limit` characters."""
    return text if len(text) <= limit else f"{text[: limit // 2]} … ({len(text) - limit} characters) … {text[-limit // 2 :]}"


def _bounded(verdict: Verdict, elapsed_s: float) -> Verdict:
    extracted = verdict.extracted
    if extracted is not None and len(extracted) > MAX_EXTRACTED_CHARS:
        extracted = clip(extracted, MAX_EXTRACTED_CHARS)
    reason = clip(verdict.reason, MAX_REASON_CHARS)
    # Not dataclasses.replace: it would cost more than many verifiers do.
    return Verdict(verdict.outcome, verdict.score, extracted, reason, elapsed_s, verdict.details)
