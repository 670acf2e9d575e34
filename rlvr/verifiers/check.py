"""`check_verifier`: the audit of a verifier as an assertion, for pytest."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from rlvr.types import JSON, Verdict
from rlvr.verifiers.audit import Limits, audit
from rlvr.verifiers.audit_report import AuditReport
from rlvr.verifiers.base import Verifier
from rlvr.verifiers.golden import Cases, read_cases

MAX_SHOWN = 20


def check_verifier(
    verifier: Verifier | Callable[..., Verdict] | str,
    cases: Cases,
    *,
    settings: Mapping[str, JSON] | None = None,
    timeout_s: float = 10.0,
    max_false_positives: float = 0.005,
    max_false_negatives: float = 0.05,
) -> AuditReport:
    """Audit a verifier with golden cases: `rlvr verify --audit` in a test.

    A case, or a line of a JSONL file of cases, has `answer`, `response`, `outcome` and `why`, and may have `prompt`, `metadata`,
    `score`, `settings` and `probe`. Every case must come out as it says. From the cases that are correct the audit makes
    near misses, other forms of the same answer, several answers at once and answers cut off (see `rlvr.verifiers.audit_forms`);
    beside them stand texts that are empty, hostile, or known to fool a grader. Equal rollouts must get equal verdicts, from
    threads and other processes too; correct scores 1, incorrect and unparsed 0, partial between; what is not correct has a
    reason; details are JSON and small.

    Of right answers in other forms a share of `max_false_negatives` may be refused: a verifier that compares text as it stands
    may set it to 1. Verifiers that other processes can find run in a worker, the others here.

    Raises:
        AssertionError: lists what is wrong.
        ValueError: a case is malformed, or there is none.
        ConfigError: a case has a wrong setting.
    """
    limits = Limits(false_positives=max_false_positives, false_negatives=max_false_negatives)
    report = audit(verifier, cases=read_cases(cases), settings=settings, limits=limits, timeout_s=timeout_s)
    if report.broken:
        raise AssertionError(complaint(report))
    return report


def complaint(report: AuditReport) -> str:
    """Every broken rule with its examples."""
    of_each = max(2, MAX_SHOWN // max(1, len(report.broken)))
    shown = "\n".join(f"- {line}" for row in report.broken for line in row.examples[:of_each])
    left = sum(max(0, row.wrong.count - of_each) for row in report.broken)
    rest = f"\n... and {left} more" if left else ""
    rules = ", ".join(f"{row.name} ({row.wrong.count} of {row.wrong.total})" for row in report.broken)
    return f"verifier {report.verifier!r} breaks {len(report.broken)} of its rules: {rules}\n{shown}{rest}"
