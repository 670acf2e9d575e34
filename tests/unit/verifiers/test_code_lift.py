"""Asserts as calls and rules: a rule decides what the assert itself would have decided, or says that it cannot."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlvr.errors import VerifierError
from rlvr.sandbox.jobs import Call
from rlvr.sandbox.plain import Opaque
from rlvr.verifiers.code_interpret import NeedsChecksError
from rlvr.verifiers.code_lift import LiftedAssert, lift_asserts, lift_check

LIFTED = [
    "f(1) == 2",
    "2 == f(1)",
    "f(1) != 2",
    "f(1) is None",
    "f(1) is True",
    "f(1) is not False",
    "f(1)",
    "not f(1)",
    "f(1) in [1, 2, 'a']",
    "f(1) not in {1, 2}",
    "1 in f(1)",
    "f(1) < 3",
    "0 <= f(1) <= 2",
    "abs(f(1) - 2.5) < 1e-6",
    "math.isclose(f(1), 2.0, rel_tol=1e-3)",
    "round(f(1), 1) == 2.0",
    "set(f(1)) == {1, 2}",
    "set(f(1)) == set([1, 2])",
    "sorted(f(1)) == [1, 2]",
    "sorted(f(1), reverse=True) == [2, 1]",
    "len(f(1)) == 2",
    "tuple(f(1)) == (1, 2)",
    "list(f(1)) == [1, 2]",
    "f(1)[0] == 1",
    "f(1)[-1:] == [2]",
    "f(1)[0][1] == 2",
    "isinstance(f(1), int)",
    "isinstance(f(1), (list, str))",
    "sum(f(1)) == 3",
    "max(f(1)) == 2 and min(f(1)) == 1",
    "f(1) == 2 or f(2) == 1",
    "int(f(1)) == 2",
    "float(f(1)) == 2.0",
    "f(1) == -0 + 2 ** 1",
    "f(1) == {'a': [1, (2, 3)], 1: {4}}",
    "f(1) == 'a' * 2 + 'b'",
    "f(1) == [0] * 2",
    "all(f(1))",
    "f(1) % 2 == 0",
    "f(1) + 1 == 3",
    "-f(1) == -2",
    "f(1) == int",
    "f(1) == math.pi",
]
VALUES: list[Any] = [
    None, True, False, 0, 1, 2, 2.0, 2.5, 2.4999999, -2, 10**30, math.inf, math.nan, "", "a", "aab", "12", b"a", 1 + 2j,
    [], [1], [1, 2], [2, 1], [2], (1, 2), (2,), {1, 2}, {2}, set(), {}, {1: 1, 2: 2}, {"a": [1, (2, 3)], 1: {4}}, [[1, 2]],
    [0, 0], [1, "a"], ["a", None], [[1], [2]], math.pi, int, range(1, 3),
]  # fmt: skip


def lift(expression: str) -> LiftedAssert:
    found = lift_asserts("", (f"assert {expression}",))
    assert found is not None, expression
    return found.asserts[0]


def asserted(expression: str, value: Any) -> bool:
    """What Python says; the expression is one of this file's."""
    try:
        return bool(eval(expression, {"f": lambda *args: value, "math": math}))  # noqa: S307
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
        return False


def decided(expression: str, values: list[Any]) -> Iterator[tuple[Any, bool]]:
    rule = lift(expression)
    for value in values:
        try:
            yield value, rule.holds([value] * len(rule.calls))
        except NeedsChecksError:
            continue


@pytest.mark.parametrize("expression", LIFTED)
def test_a_rule_decides_what_the_assert_would(expression: str) -> None:
    found = list(decided(expression, VALUES))
    assert len(found) > len(VALUES) // 2
    for value, holds in found:
        assert holds == asserted(expression, value), (expression, value)


numbers = st.one_of(st.integers(), st.floats(), st.booleans(), st.none(), st.text(max_size=3))


@given(st.sampled_from(LIFTED), st.one_of(numbers, st.lists(numbers, max_size=3), st.lists(numbers, max_size=3).map(tuple)))
def test_a_rule_decides_what_the_assert_would_for_any_value(expression: str, value: Any) -> None:
    for seen, holds in decided(expression, [value]):
        if not _has_nan(seen):  # Python's lists look at the identity of a NaN, which does not travel
            assert holds == asserted(expression, seen), (expression, seen)


def _has_nan(value: Any) -> bool:
    return any(isinstance(one, float) and math.isnan(one) for one in (value if isinstance(value, (list, tuple)) else [value]))


def test_the_calls_carry_their_arguments_and_nothing_that_is_expected() -> None:
    found = lift_asserts("import math", ("assert f([1, -2], k='a' * 3, t=int) == 123456", "assert f(*()) == 1")[:1])
    assert found is not None
    assert found.function == "f"
    assert found.asserts[0].calls == (Call(([1, -2],), {"k": "aaa", "t": int}),)
    assert "123456" not in repr(found.asserts[0].calls)


@pytest.mark.parametrize(
    "asserts",
    [
        ("assert f(f(1)) == 1",),
        ("assert f(1) == g(1)",),
        ("assert f(1) == 1", "assert g(1) == 1"),
        ("assert f(x) == 1",),
        ("assert f(*[1]) == 1",),
        ("assert f(**{'a': 1}) == 1",),
        ("assert f(1).lower() == 'a'",),
        ("assert f(lambda x: x) == 1",),
        ("assert [x for x in f(1)] == [1]",),
        ("assert f(1) is 5",),
        ("x = 1",),
        ("x = 1\nassert f(1) == 1",),
        ("for i in range(3):\n    assert f(i) == i",),
        ("assert str(f(1)) == '1'",),
        ("assert sys.getsizeof(f(1)) == 3",),
        ("assert f(open('x')) == 1",),
        ("assert f(10 ** 10 ** 10) == 1",),
        ("assert f('a' * 10 ** 12) == 1",),
        ("assert f(range(10 ** 12)[0]) == 1",),
        ("assert len([1]) == 1",),
        ("assert f(1) ==",),
        ("assert sorted(f(1), key=len) == []",),
    ],
)
def test_what_cannot_be_said_of_plain_values_is_not_lifted(asserts: tuple[str, ...]) -> None:
    assert lift_asserts("", asserts) is None


@pytest.mark.parametrize(
    "setup",
    ["def sorted(x): return 1", "len = 3", "import os as abs", "from math import sqrt as set", "x = g(1)", "f(1)", "del x"],
)
def test_a_setup_that_gives_known_names_another_meaning_is_not_lifted(setup: str) -> None:
    assert lift_asserts(setup, ("assert f(1) == 1",)) is None


@pytest.mark.parametrize("setup", ["import math", "'text'", "x = 3\ny = [1, 2]", "pass", "from typing import List", "\r\n"])
def test_an_idle_setup_does_no_harm(setup: str) -> None:
    assert lift_asserts(setup, ("assert f(1) == 1",)) is not None


def test_a_check_is_lifted_with_its_functions_name() -> None:
    found = lift_check(
        "METADATA = {'author': 'x'}\n\ndef check(candidate):\n    'doc'\n    assert True, 'this one is for free'\n"
        "    assert candidate(1) == 2, 'message'\n    assert candidate(2, [3]) == 4\n",
        "double",
    )
    assert found is not None
    assert found.function == "double"
    assert [one.source for one in found.asserts] == ["candidate(1) == 2", "candidate(2, [3]) == 4"]


@pytest.mark.parametrize(
    "code",
    [
        "def check(candidate):\n    for i in range(3):\n        assert candidate(i) == i\n",
        "def check(candidate):\n    assert candidate(1) == helper(1)\n",
        "def check(a, b):\n    assert a(1) == 1\n",
        "def helper(x): return x\ndef check(candidate):\n    assert candidate(1) == 1\n",
        "@decorated\ndef check(candidate):\n    assert candidate(1) == 1\n",
        "def test(candidate):\n    assert candidate(1) == 1\n",
        "def check(candidate):\n    pass\n",
        "def check(candidate:\n",
    ],
)
def test_a_check_that_does_more_is_not_lifted(code: str) -> None:
    assert lift_check(code, "f") is None


def test_an_assert_that_calls_nothing_and_fails_is_a_broken_test() -> None:
    with pytest.raises(VerifierError, match=r"`assert 1 == 2` cannot pass"):
        lift_asserts("", ("assert f(1) == 1", "assert 1 == 2"))


def test_objects_of_the_submission_equal_nothing_but_are_true() -> None:
    opaque = Opaque("C")
    assert not lift("f(1) == 2").holds([opaque])
    assert not lift("f(1) == f(2)").holds([opaque, opaque])
    assert not lift("f(1) is None").holds([opaque])
    assert lift("f(1)").holds([opaque])
    assert not lift("not f(1)").holds([opaque])
    assert not lift("isinstance(f(1), int)").holds([opaque])


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("abs(f(1)) == 1", Opaque("C")),
        ("sorted(f(1)) == []", Opaque("generator")),
        ("list(f(1)) == [1, 2]", {1, 2}),
        ("sum(f(1)) == 0.3", [0.1, 0.2]),
        ("f(1) * [0] == []", 10**12),
        ("f(1) * f(1) == 1", 10**1_000_000),
        ("f(1) ** 2 == 1", 10**1_000_000),
        ("2 ** f(1) == 1", 10**9),
        ("set(f(1)) == {1}", [(2**61 - 1) * n for n in range(1000)]),
        ("len(f(1)) == 1", [0] * 600_000),
        ("f(1) < 3", [[[]] * 3] * 200_000),
    ],
    ids=lambda given: given if isinstance(given, str) else "",
)
def test_what_depends_on_the_other_process_or_takes_long_is_left_to_it(expression: str, value: Any) -> None:
    rule = lift(expression)
    with pytest.raises(NeedsChecksError):
        rule.holds([value] * len(rule.calls))
