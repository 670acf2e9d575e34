"""Plain data travels unchanged in both directions, and the two ends of the wire agree on its form."""

from __future__ import annotations

import json
import math
from collections import deque
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlvr.sandbox import plain
from rlvr.sandbox.plain import NotPlainError, Opaque

INSIDE: ModuleType


@pytest.fixture(autouse=True, scope="module")
def _inside(runner_module: Callable[[str], ModuleType]) -> None:
    global INSIDE
    INSIDE = runner_module("values")


hashable = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary()
    | st.fractions()
    | st.complex_numbers(allow_nan=False),
    lambda inner: st.tuples(inner, inner) | st.frozensets(inner, max_size=4),
    max_leaves=6,
)
values = st.recursive(
    hashable
    | st.decimals(allow_nan=False)
    | st.builds(bytearray, st.binary())
    | st.builds(range, st.integers(-9, 9), st.integers(-9, 9)),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(hashable, inner, max_size=4)
        | st.sets(hashable, max_size=4)
        | st.builds(deque, st.lists(inner, max_size=3))
    ),
    max_leaves=12,
)


@given(values)
def test_a_value_comes_back_as_it_went(value: Any) -> None:
    sent = json.loads(json.dumps(plain.encode(value)))
    inside = INSIDE.decode(sent)
    assert inside == value
    back = plain.decode(json.loads(json.dumps(INSIDE.encode(inside))))
    assert back == value
    assert type(back) is type(value)


@pytest.mark.parametrize(
    "value",
    [math.inf, -math.inf, 10**400, -(10**5000), {"~": 1}, {1: 2, "1": 3}, (), set(), Decimal("-0.10")],
    ids=["inf", "-inf", "long", "longer", "tag", "keys", "tuple", "set", "decimal"],
)
def test_awkward_values_come_back_too(value: Any) -> None:
    back = plain.decode(json.loads(json.dumps(INSIDE.encode(INSIDE.decode(json.loads(json.dumps(plain.encode(value))))))))
    assert back == value
    assert type(back) is type(value)


def test_nan_stays_nan() -> None:
    assert math.isnan(plain.decode(INSIDE.encode(math.nan)))


def test_a_subclass_becomes_the_value_that_it_holds() -> None:
    class Liar(int):
        def __eq__(self, other: object) -> bool:
            return True

        __hash__ = int.__hash__

    class Listing(list):  # type: ignore[type-arg]
        def __iter__(self) -> Any:
            return iter(["forged"])

    back = plain.decode(INSIDE.encode(Liar(3)))
    assert type(back) is int
    assert back == 3
    assert plain.decode(INSIDE.encode(Listing([1, 2]))) == [1, 2]


def test_any_other_object_is_opaque_and_equals_nothing() -> None:
    opaque = plain.decode(INSIDE.encode(object()))
    assert isinstance(opaque, Opaque)
    assert opaque != opaque
    assert opaque not in ([], 0, None, "opaque")


def test_what_is_not_plain_is_refused_on_the_way_in() -> None:
    for value in (object(), lambda: 1, [print]):
        with pytest.raises(NotPlainError, match="plain data"):
            plain.encode(value)
    deep: list[Any] = []
    for _ in range(500):
        deep = [deep]
    with pytest.raises(NotPlainError, match="nests"):
        plain.encode(deep)


def test_keys_that_were_made_to_collide_are_refused() -> None:
    modulus = 2**61 - 1
    colliding = {"~": "set", "v": [index * modulus for index in range(1000)]}
    with pytest.raises(NotPlainError, match="one hash"):
        plain.decode(colliding)


def test_fractions_keep_their_sign() -> None:
    assert plain.decode(INSIDE.encode(Fraction(-3, 7))) == Fraction(-3, 7)
