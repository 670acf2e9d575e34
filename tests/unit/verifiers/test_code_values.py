"""Comparing returned values: Python's own equality over plain data, JSON's for JSON tests, and neither can be fooled or hung."""

from __future__ import annotations

import math
import time
from collections import deque
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlvr.sandbox.plain import Opaque
from rlvr.verifiers.code_values import hashes_collide, is_small_and_plain, json_equal, python_equal, show

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 3),
    st.floats(allow_nan=False, width=16),
    st.sampled_from(["", "a", "b"]),
    st.sampled_from([b"", b"a"]),
    st.sampled_from([Fraction(1, 2), Decimal("0.5"), Decimal(1), 1 + 0j, range(2)]),
)
hashable = st.one_of(scalars, st.tuples(scalars, scalars))
values = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
        st.lists(inner, max_size=2).map(deque),
        st.sets(hashable, max_size=3),
        st.frozensets(hashable, max_size=3),
        st.dictionaries(hashable, inner, max_size=3),
    ),
    max_leaves=6,
)


@given(values, values)
def test_python_equality_is_pythons_own_over_plain_data(one: Any, other: Any) -> None:
    assert python_equal(one, other) == (one == other)
    assert python_equal(one, one)


def test_nan_equals_nothing_even_inside_a_container() -> None:
    assert not python_equal(math.nan, math.nan)
    assert not python_equal([math.nan], [math.nan])  # Python's list would look at the identity
    assert not json_equal([math.nan], [math.nan])


class AlwaysEqual:
    def __eq__(self, other: object) -> bool:
        return True

    def __hash__(self) -> int:
        return 1


@pytest.mark.parametrize("fake", [AlwaysEqual(), Opaque("Forged"), type("Int", (int,), {"__eq__": lambda a, b: True})(7)])
def test_an_object_of_a_class_equals_nothing(fake: Any) -> None:
    for expected in (1, "a", None, [1], {1}, True):
        assert not python_equal(fake, expected)
        assert not json_equal(fake, expected)
    assert not python_equal([fake], [1])
    assert not python_equal({"a": fake}, {"a": 1})


@pytest.mark.parametrize(
    ("value", "expected", "equal"),
    [
        (1, 1, True),
        (True, 1, False),
        (1, True, False),
        (True, True, True),
        (2.0, 2, True),
        (2, 2.0, True),
        (0.1 + 0.2, 0.3, False),
        ((1, (2,)), [1, [2]], True),
        ({1}, [1], False),
        ("1", 1, False),
        (b"a", "a", False),
        ({"a": 1}, {"a": 1}, True),
        ({1: 1}, {"1": 1}, False),
        (None, None, True),
        (Decimal(1), 1, False),
        (math.inf, 1e308, False),
    ],
)
def test_json_equality_is_strict_about_types(value: Any, expected: Any, equal: bool) -> None:
    assert json_equal(value, expected) is equal


def test_a_tolerance_reaches_floats_but_never_whole_numbers() -> None:
    assert json_equal([0.1 + 0.2], [0.3], 1e-9)
    assert json_equal(3, 3.0000000001, 1e-9)
    assert not json_equal(10**15, 10**15 + 1, 1e-6)
    assert not json_equal(0.31, 0.3, 1e-9)
    assert not json_equal(10**400, 1.5, 1e-9)
    assert not json_equal(math.inf, 1.0, 1e-9)


def test_numbers_that_python_cannot_compare_are_unequal_instead_of_an_error() -> None:
    assert not python_equal(Decimal("sNaN"), 1)
    assert not python_equal(Decimal("1e999999999"), 1)


def nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


def test_values_that_are_deep_or_large_are_told_without_recursion() -> None:
    deep = nested(100_000)
    assert not python_equal(deep, [1])
    assert not python_equal(deep, nested(3))
    assert not json_equal(deep, nested(3))
    assert not is_small_and_plain(deep)
    assert is_small_and_plain(nested(50))
    assert not is_small_and_plain([0] * 600_000)
    assert not is_small_and_plain([Opaque("C")])
    assert len(show(deep)) < 200


def test_a_comparison_is_bounded_by_what_is_expected() -> None:
    start = time.process_time()
    assert not python_equal(list(range(2_000_000)), [1])
    assert not python_equal({i: i for i in range(100_000)}, {1: 1})
    assert not python_equal("a" * 10_000_000, "b")
    assert time.process_time() - start < 5.0


def test_keys_made_to_collide_are_found_and_equal_ones_are_not() -> None:
    prime = 2**61 - 1  # the hash of an integer is its remainder by this
    assert hashes_collide([prime * n for n in range(1000)])
    assert not hashes_collide([5] * 100_000)
    assert not hashes_collide(range(10_000))
    with pytest.raises(TypeError):
        hashes_collide([[1]])


@given(values)
def test_every_value_is_shown_shortly(value: Any) -> None:
    assert len(show(value, 60)) <= 62


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (10**100_000, "an integer of 332193 bits"),
        ("x" * 1_000_000, "'" + "x" * 117 + " …"),
        (Opaque("Evil"), "an object of class Evil"),
        ({3, 1, 2}, "{1, 2, 3}"),
        ((1,), "(1,)"),
        (set(), "set()"),
        ({"a": [1, 2]}, "{'a': [1, 2]}"),
        (deque([1]), "deque([1])"),
        (Fraction(1, 3), "Fraction(1/3)"),
        (Decimal("1.50"), "Decimal(1.50)"),
        (range(1, 5, 2), "range(1, 5, 2)"),
        (int, "int"),
    ],
    ids=lambda given: given[:30] if isinstance(given, str) else "",
)
def test_values_are_shown_as_python_writes_them(value: Any, shown: str) -> None:
    assert show(value) == shown
