"""Filters over an index: which rollouts, in which order, and what they have in common. Fast at a million of them."""

from __future__ import annotations

import math
import re
import threading
import time
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from rlvr.errors import ConfigError
from rlvr.evaluation.view.index import Snapshot
from rlvr.evaluation.view.rows import OUTCOMES, Shown
from rlvr.evaluation.view.shard import Shard, needle_of

RANGES = ("step", "reward", "score", "advantage", "tokens", "turns", "calls", "failed_calls", "sample")
SORTS = ("step", "problem", "outcome", "reward", "score", "advantage", "tokens", "turns", "calls", "sample")
FILTERS = (*RANGES, "problem", "outcome", "text")
TRUNCATED = "truncated"
MOST_ROWS = 500  # of one page
MOST_SKIPPED = 1_000_000
_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d{1,3})?"
_RANGE = re.compile(rf"(?P<low>{_NUMBER})?\s*(?:\.\.|…|–|to)\s*(?P<high>{_NUMBER})?")
_COMPARED = re.compile(rf"(?P<sign><=|>=|<|>|=|≤|≥)?\s*(?P<value>{_NUMBER})")
_LONGEST = 1_000  # characters of what is looked for
_SEARCHES_KEPT = 8
_FIRST_REST_S = 0.1  # before any answer was timed
_LEAST_SHARE = 0.2  # of an answer's time is searched in any case, or the search would never end

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Range:
    """`low` to `high`, both included unless `is_open`."""

    low: float = -math.inf
    high: float = math.inf
    is_open: bool = False

    def __call__(self, values: npt.NDArray[np.float64]) -> Mask:
        if self.is_open:
            return (values > self.low) & (values < self.high)
        return (values >= self.low) & (values <= self.high)


@dataclass(frozen=True, slots=True)
class Filter:
    """Which rollouts. Texts are parts of what they are looked for in, in any case; empty means all."""

    ranges: Mapping[str, Range] = field(default_factory=dict)
    problem: str = ""
    outcomes: frozenset[str] = frozenset()  # of OUTCOMES, and TRUNCATED
    text: str = ""


@dataclass(frozen=True, slots=True)
class Order:
    by: str = "step"
    is_descending: bool = True


@dataclass(frozen=True, slots=True)
class Page:
    """Rows of the snapshot that match, in order. `searched` < 1: the search goes on.

    `total` and `mean_reward` are over all matches, `outcomes` over what would match with any outcome.
    """

    indices: tuple[int, ...]
    total: int
    outcomes: Mapping[str, int]
    mean_reward: float | None
    searched: float = 1.0
    searched_at: float | None = None  # by time.monotonic(), when the search of this answer stopped


def parse_filter(values: Mapping[str, str]) -> Filter:
    """A filter from the words in which a person writes it: `tokens=100..200`, `reward=>0.5`, `outcome=correct,truncated`.

    Raises:
        ConfigError: a value cannot be read.
    """
    ranges = {name: _range(name, values[name]) for name in RANGES if values.get(name, "").strip()}
    outcomes = frozenset(word for word in re.split(r"[,\s]+", values.get("outcome", "")) if word)
    known = {*OUTCOMES, TRUNCATED}
    if unknown := sorted(outcomes - known):
        raise ConfigError(f"outcome {unknown[0][:40]!r} is unknown; known: {', '.join([*OUTCOMES, TRUNCATED])}")
    return Filter(ranges, values.get("problem", "")[:_LONGEST].strip().lower(), outcomes, values.get("text", "")[:_LONGEST])


def parse_order(by: str, direction: str) -> Order:
    """
    Raises:
        ConfigError: rollouts cannot be sorted like that.
    """
    if by not in SORTS or direction not in ("up", "down"):
        raise ConfigError(f"sort by {by[:40]!r} {direction[:10]!r}; known: {', '.join(SORTS)}, each up or down")
    return Order(by, direction == "down")


def _range(name: str, text: str) -> Range:
    text = text.strip()
    if (found := _RANGE.fullmatch(text)) is not None and (found["low"] or found["high"]):
        return Range(float(found["low"] or "-inf"), float(found["high"] or "inf"))
    if (found := _COMPARED.fullmatch(text)) is None:
        raise ConfigError(f"{name} {text[:40]!r} is no range; write 5, 5..10, >5 or <=5")
    value = float(found["value"])
    return {
        "<": Range(high=value, is_open=True),
        ">": Range(low=value, is_open=True),
        "<=": Range(high=value),
        "≤": Range(high=value),
        ">=": Range(low=value),
        "≥": Range(low=value),
    }.get(found["sign"] or "=", Range(value, value))


class Searches:
    """Which rollouts contain a text: found once per shard and text, and kept for the last few texts.

    `rest_s` is what an answer takes after its search, to sort, count and read rows: a large part of it on a busy machine.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards `_found`: requests come from many threads
        self._found: OrderedDict[bytes, dict[Shard, Mask]] = OrderedDict()
        self.rest_s = _FIRST_REST_S

    def answered(self, rest_s: float) -> None:
        """An answer took this long after its search; the next search leaves as much. It grows at once, and shrinks slowly."""
        self.rest_s = max(rest_s, 0.7 * self.rest_s + 0.3 * rest_s)

    def search(self, snapshot: Snapshot, mask: Mask, text: str, deadline: float) -> tuple[Mask, float]:
        """(`mask` without rollouts that lack `text`, share of the shards that were searched before `deadline`).

        Shards without a row in `mask` need no search. At least one more shard is searched with every call.
        """
        needle = needle_of(text)
        known = self._known(needle)
        found, asked, done = np.zeros_like(mask), 0, 0
        is_late = False
        for index, shard in enumerate(snapshot.shards):
            part = slice(snapshot.starts[index], snapshot.starts[index + 1])
            if not mask[part].any():
                continue
            asked += 1
            hits = known.get(shard)
            if hits is None and not is_late:
                hits = known[shard] = shard.search(needle)
                is_late = time.monotonic() > deadline
            if hits is not None:
                done += 1
                found[part] = hits & mask[part]
        return found, done / asked if asked else 1.0

    def _known(self, needle: bytes) -> dict[Shard, Mask]:
        with self._lock:
            known = self._found.setdefault(needle, {})
            self._found.move_to_end(needle)
            while len(self._found) > _SEARCHES_KEPT:
                self._found.popitem(last=False)
        return known


def find(
    snapshot: Snapshot,
    wanted: Filter,
    order: Order,
    searches: Searches,
    *,
    offset: int = 0,
    limit: int = 100,
    budget_s: float = 0.6,
) -> Page:
    """One page of matches. A text search stops so that the whole answer takes about `budget_s`, as far as the answers before it
    tell; asked again, it goes on where it was.

    Raises:
        EvaluationError: the index is gone.
    """
    began = time.monotonic()
    mask, searched, searched_at = _mask(snapshot, wanted), 1.0, None
    if needle_of(wanted.text):
        search_s = max(budget_s - searches.rest_s, _LEAST_SHARE * budget_s)
        mask, searched = searches.search(snapshot, mask, wanted.text, began + search_s)
        searched_at = time.monotonic()
    outcomes = _outcomes(snapshot, mask)
    if wanted.outcomes:
        mask &= _ended(snapshot, wanted.outcomes)
    matches = np.flatnonzero(mask)
    first, last = min(offset, MOST_SKIPPED), min(offset, MOST_SKIPPED) + min(limit, MOST_ROWS)
    rewards = snapshot.columns["reward"][matches]
    known = rewards[~np.isnan(rewards)]
    chosen = _first(snapshot, matches, order, last)[first:last]
    mean = float(known.mean()) if len(known) else None
    return Page(tuple(map(int, chosen)), len(matches), outcomes, mean, searched, searched_at)


def _mask(snapshot: Snapshot, wanted: Filter) -> Mask:
    mask = np.ones(len(snapshot), dtype=bool)
    for name, allowed in wanted.ranges.items():
        mask &= allowed(snapshot.columns[name])
    if wanted.problem:
        hits = np.array([wanted.problem in id.lower() for id in list(snapshot.problems)], dtype=bool)
        mask &= hits[snapshot.columns["problem"]] if len(hits) else False
    return mask


def _ended(snapshot: Snapshot, wanted: frozenset[str]) -> Mask:
    """Which rollouts ended in one of the ways that are wanted."""
    codes = [index for index, name in enumerate(OUTCOMES) if name in wanted]
    if Shown.UNSCORED in wanted:  # as `rlvr view --outcome unscored`: whatever has no score
        codes.append(OUTCOMES.index(Shown.VERIFIER_ERROR))
    chosen: Mask = np.isin(snapshot.columns["outcome"], codes)
    return chosen | (snapshot.columns["truncated"] == 1) if TRUNCATED in wanted else chosen


def _outcomes(snapshot: Snapshot, mask: Mask) -> dict[str, int]:
    counts = np.bincount(snapshot.columns["outcome"][mask], minlength=len(OUTCOMES))
    found = {name.value: int(count) for name, count in zip(OUTCOMES, counts, strict=True) if count}
    truncated = int(np.count_nonzero(snapshot.columns["truncated"][mask]))
    return {**found, TRUNCATED: truncated} if truncated else found


def _first(snapshot: Snapshot, matches: npt.NDArray[np.intp], order: Order, count: int) -> npt.NDArray[np.intp]:
    """The first `count` of `matches` in `order`; equal ones newest step first. Rows without the value come last."""
    if order.by == "step" and order.is_descending:
        return matches[:count]
    keys = _keys(snapshot, order.by)[matches].astype(np.float64)
    keys = np.where(np.isnan(keys), np.inf, -keys if order.is_descending else keys)
    if len(keys) > 4 * count:
        # Sorting a million keys takes longer than finding which could be on the page.
        threshold = np.partition(keys, count)[count]
        less = np.flatnonzero(keys < threshold)
        equal = np.flatnonzero(keys == threshold)[: count - len(less)]
        candidates = np.sort(np.concatenate([less, equal]))
        matches, keys = matches[candidates], keys[candidates]
    return matches[np.argsort(keys, kind="stable")][:count]


def _keys(snapshot: Snapshot, by: str) -> npt.NDArray[np.float64]:
    if by != "problem":
        return snapshot.columns[by]
    ids = list(snapshot.problems)
    ranks = np.empty(len(ids), dtype=np.float64)
    ranks[sorted(range(len(ids)), key=lambda number: _natural(ids[number]))] = np.arange(len(ids))
    return ranks[snapshot.columns["problem"]]


def _natural(id: str) -> tuple[tuple[int, int, str], ...]:
    """`problem-9` before `problem-10`."""
    parts = re.split(r"([0-9]{1,18})", id)
    return tuple((1, int(part), "") if part.isdecimal() and part.isascii() else (0, 0, part) for part in parts)
