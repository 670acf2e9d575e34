"""What an audit found: a row for each kind of probe, rates with intervals, times, and the rules that were broken."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rlvr.types import JSON

_Z = 1.959963984540054  # the 97.5 % quantile of the normal distribution


@dataclass(frozen=True, slots=True)
class Rate:
    """`count` of `total`, with the Wilson interval [low, high] at 95 %."""

    count: int
    total: int

    @property
    def share(self) -> float:
        return self.count / self.total if self.total else 0.0

    @property
    def interval(self) -> tuple[float, float]:
        """Source: Wilson 1927, "Probable inference, the law of succession, and statistical inference", JASA 22(158).

        >>> [round(bound, 4) for bound in Rate(0, 50).interval]
        [0.0, 0.0713]
        """
        if not self.total:
            return 0.0, 1.0
        n, p = self.total, self.share
        centre = (p + _Z * _Z / (2 * n)) / (1 + _Z * _Z / n)
        half = _Z / (1 + _Z * _Z / n) * math.sqrt(p * (1 - p) / n + _Z * _Z / (4 * n * n))
        return (0.0 if self.count == 0 else max(0.0, centre - half)), (1.0 if self.count == n else min(1.0, centre + half))

    def __add__(self, other: Rate) -> Rate:
        return Rate(self.count + other.count, self.total + other.total)

    def to_json(self) -> dict[str, JSON]:
        low, high = self.interval
        return {"count": self.count, "total": self.total, "rate": self.share, "low": low, "high": high}


@dataclass(frozen=True, slots=True)
class Row:
    """One kind of probe: what must hold, how often it did not, and how many verdicts had no score.

    `limit` is the largest share of `wrong` that keeps the rule; `examples` say in words what went wrong.
    """

    name: str
    must: str
    wrong: Rate
    limit: float
    unscored: int = 0
    examples: tuple[str, ...] = ()
    note: str = ""  # why it was not tried

    @property
    def is_broken(self) -> bool:
        return self.wrong.share > self.limit

    def to_json(self) -> dict[str, JSON]:
        return {
            "name": self.name,
            "must": self.must,
            **self.wrong.to_json(),
            "limit": self.limit,
            "unscored": self.unscored,
            "broken": self.is_broken,
            "examples": list(self.examples),
            "note": self.note,
        }


@dataclass(frozen=True, slots=True)
class Times:
    """Seconds for one verdict on an answer that a model could write."""

    count: int
    cpu_p50_s: float
    cpu_p99_s: float
    wall_p50_s: float
    wall_p99_s: float

    @classmethod
    def of(cls, cpu_s: Sequence[float], wall_s: Sequence[float]) -> Times:
        return cls(len(cpu_s), _quantile(cpu_s, 0.5), _quantile(cpu_s, 0.99), _quantile(wall_s, 0.5), _quantile(wall_s, 0.99))

    def to_json(self) -> dict[str, JSON]:
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(frozen=True, slots=True)
class AuditReport:
    """`false_positives`: wrong responses that were graded correct. `false_negatives`: right ones that were not.

    Golden cases count in both rates as they say; `kinds` are the kinds of gold answers that were met, with their numbers.
    """

    verifier: str
    version: str
    is_verifiable: bool  # False: an opinion, of which the audit can say that it is wrong, but not that it is right
    reference: str
    settings: Mapping[str, JSON]
    source: str  # where the problems came from
    samples: int
    kinds: Mapping[str, int]
    rows: tuple[Row, ...]
    false_positives: Rate
    false_negatives: Rate
    times: Times
    elapsed_s: float

    @property
    def broken(self) -> tuple[Row, ...]:
        return tuple(row for row in self.rows if row.is_broken)

    def to_json(self) -> dict[str, JSON]:
        return {
            "verifier": self.verifier,
            "version": self.version,
            "verifiable": self.is_verifiable,
            "reference": self.reference,
            "settings": dict(self.settings),
            "source": self.source,
            "samples": self.samples,
            "kinds": dict(self.kinds),
            "ok": not self.broken,
            "broken": [row.name for row in self.broken],
            "false_positives": self.false_positives.to_json(),
            "false_negatives": self.false_negatives.to_json(),
            "times": self.times.to_json(),
            "elapsed_s": self.elapsed_s,
            "rows": [row.to_json() for row in self.rows],
        }


def _quantile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least `share` of all values do not pass; 0 without values."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)] if values else 0.0
