from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlvr.errors import ConfigError
from rlvr.evaluation.view.files import open_source
from rlvr.evaluation.view.index import RunIndex, Snapshot
from rlvr.evaluation.view.query import SORTS, Filter, Order, Range, Searches, find, parse_filter, parse_order

from .conftest import make_rollout, write_step


@pytest.fixture
def snapshot(run: Path) -> Snapshot:
    index = RunIndex(open_source(run))
    index.refresh()
    return index.snapshot


def places(snapshot: Snapshot, values: dict[str, str], order: Order | None = None) -> list[tuple[int, int]]:
    """(step, line) of what a filter finds."""
    page = find(snapshot, parse_filter(values), order or Order(), Searches())
    return [(int(snapshot.columns["step"][index]), int(snapshot.columns["line"][index])) for index in page.indices]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"step": "2"}, [(2, 0), (2, 1), (2, 2), (2, 3), (2, 4)]),
        ({"tokens": "21..23"}, [(3, 2), (2, 2), (1, 2)]),
        ({"tokens": ">32"}, [(3, 3)]),
        ({"tokens": ">=32"}, [(3, 3), (2, 3)]),
        ({"reward": "..0.4", "step": "1"}, [(1, 1), (1, 2)]),
        ({"reward": "0.5"}, [(3, 3), (2, 3), (1, 3)]),
        ({"advantage": "<1", "tokens": "1"}, [(1, 0), (1, 4)]),
        ({"calls": ">0", "step": "2..3"}, [(3, 3), (2, 3)]),
        ({"problem": "P9", "step": "1"}, [(1, 0), (1, 1)]),
        ({"outcome": "partial,unparsed", "step": "3"}, [(3, 2), (3, 3)]),
        ({"outcome": "truncated", "step": "3"}, [(3, 2)]),
        ({"outcome": "unscored", "step": "3"}, [(3, 4)]),
        ({"text": "five", "step": "2"}, [(2, 1)]),
        ({"text": "five", "reward": "1"}, []),
        ({"problem": "nothing like it"}, []),
    ],
)
def test_filters_find_what_they_say(snapshot: Snapshot, values: dict[str, str], expected: list[tuple[int, int]]) -> None:
    assert places(snapshot, values) == expected


def test_a_page_counts_all_matches(snapshot: Snapshot) -> None:
    page = find(snapshot, parse_filter({"step": "1..2"}), Order(), Searches(), offset=3, limit=4)
    assert page.total == 10
    assert len(page.indices) == 4
    assert page.outcomes == {"correct": 2, "partial": 2, "incorrect": 2, "unparsed": 2, "unscored": 2, "truncated": 2}
    assert page.mean_reward == pytest.approx((1 + 0 + 0 + 0.5) / 4)


def test_outcomes_are_counted_as_if_none_were_chosen(snapshot: Snapshot) -> None:
    page = find(snapshot, parse_filter({"step": "1", "outcome": "correct", "text": "task/p9"}), Order(), Searches())
    assert page.total == 1
    assert page.outcomes == {"correct": 1, "incorrect": 1}


def test_a_page_after_the_last_is_empty(snapshot: Snapshot) -> None:
    assert find(snapshot, Filter(), Order(), Searches(), offset=10_000).indices == ()


@pytest.mark.parametrize("by", SORTS)
@pytest.mark.parametrize("is_descending", [True, False])
@pytest.mark.parametrize("limit", [2, 100])
def test_every_order_is_that_of_a_stable_sort_with_unknown_values_last(
    snapshot: Snapshot, by: str, is_descending: bool, limit: int
) -> None:
    def key(index: int) -> tuple[bool, float]:
        value = float(snapshot.columns[by][index])
        if by == "problem":
            value = float(snapshot.problems[int(value)].removeprefix("task/p"))
        return math.isnan(value), -value if is_descending else value

    expected = sorted(range(len(snapshot)), key=key)
    assert list(find(snapshot, Filter(), Order(by, is_descending), Searches(), limit=limit).indices) == expected[:limit]


@given(
    values=st.lists(st.one_of(st.just(math.nan), st.integers(0, 3).map(float)), min_size=1, max_size=60), limit=st.integers(1, 9)
)
def test_the_top_of_many_equal_values_is_that_of_a_whole_sort(values: list[float], limit: int) -> None:
    empty = Snapshot()
    columns = {name: np.zeros(len(values), dtype=column.dtype) for name, column in empty.columns.items()}
    snapshot = Snapshot(columns={**columns, "reward": np.array(values)})
    expected = sorted(range(len(values)), key=lambda index: (math.isnan(values[index]), -values[index]))[:limit]
    assert list(find(snapshot, Filter(), Order("reward"), Searches(), limit=limit).indices) == expected


@pytest.mark.parametrize("text", ["abc", "--3", "5 apples", "nan", "1e9999x", "__import__('os')", ">", "..", "1..2..3"])
def test_a_range_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"is no range; write 5, 5\.\.10, >5 or <=5"):
        parse_filter({"tokens": text})


def test_a_range_may_be_open_or_far_away() -> None:
    assert parse_filter({"tokens": "1.."}).ranges["tokens"] == Range(1.0, math.inf)
    assert parse_filter({"tokens": "9" * 400}).ranges["tokens"] == Range(math.inf, math.inf)
    assert parse_filter({"advantage": "-0.5..-.25"}).ranges["advantage"] == Range(-0.5, -0.25)


def test_an_unknown_outcome_and_order_are_refused() -> None:
    with pytest.raises(ConfigError, match="outcome 'good' is unknown; known: correct, partial"):
        parse_filter({"outcome": "good"})
    with pytest.raises(ConfigError, match="sort by 'length'"):
        parse_order("length", "down")


def test_a_long_search_answers_in_parts_and_goes_on_where_it_was(run: Path) -> None:
    for step in range(4, 9):
        write_step(run, step, [make_rollout(text="needle")])
    index = RunIndex(open_source(run))
    index.refresh()
    searches, wanted = Searches(), parse_filter({"text": "needle"})
    shares, totals = [], []
    for _ in range(8):
        page = find(index.snapshot, wanted, Order(), searches, budget_s=-1.0)
        shares.append(page.searched)
        totals.append(page.total)
    assert shares == [pytest.approx(part / 8) for part in range(1, 9)]
    assert totals == [1, 2, 3, 4, 5, 5, 5, 5], "newest steps first"


def test_a_search_leaves_time_for_what_follows_it() -> None:
    searches = Searches()
    searches.answered(0.4)
    assert searches.rest_s == 0.4  # a slow answer counts at once
    searches.answered(0.1)
    assert 0.1 < searches.rest_s < 0.4  # a fast one little by little
    for _ in range(40):
        searches.answered(0.1)
    assert searches.rest_s == pytest.approx(0.1, abs=1e-3)


def test_a_search_goes_on_where_it_was_however_long_the_rest_takes(run: Path) -> None:
    for step in range(4, 9):
        write_step(run, step, [make_rollout(text="needle")])
    index = RunIndex(open_source(run))
    index.refresh()
    searches, wanted = Searches(), parse_filter({"text": "needle"})
    searches.answered(1e6)
    page = find(index.snapshot, wanted, Order("tokens"), searches, budget_s=1e-9)
    answers = 1
    while page.searched < 1.0:
        assert page.searched_at is not None
        page = find(index.snapshot, wanted, Order("tokens"), searches, budget_s=1e-9)
        answers += 1
        assert answers <= len(index.snapshot.shards) + 1
    assert page.total == 5
