from __future__ import annotations

import itertools

import pytest

from rlvr.errors import ConfigError
from rlvr.seeding import rng
from rlvr.verifiers.instruction.generate import KINDS, are_compatible, sample_constraints
from rlvr.verifiers.instruction.registry import constraints, read_constraints
from rlvr.verifiers.instruction.satisfy import satisfy


def test_every_sample_has_a_response_that_follows_all_of_it() -> None:
    seen = set()
    for index in range(150):
        sample = sample_constraints(rng("every", index), 1 + index % 5)
        bound = read_constraints(sample.answer())
        assert len(bound) == 1 + index % 5
        assert all(constraint.follows(sample.witness) for constraint in bound)
        seen |= {constraint.constraint.id for constraint in bound}
    assert seen == set(KINDS)


def test_samples_depend_on_the_generator_alone() -> None:
    assert sample_constraints(rng("a"), 3) == sample_constraints(rng("a"), 3)
    assert sample_constraints(rng("a"), 3) != sample_constraints(rng("b"), 3)


def test_samples_say_every_constraint() -> None:
    sample = sample_constraints(rng("say"), 4)
    assert len(sample.text) > 80
    for constraint in sample.constraints:
        for value in constraint.kwargs.values():
            if isinstance(value, int):
                assert str(value) in sample.text


def test_compatible_kinds_can_be_followed_in_pairs() -> None:
    for left, right in itertools.combinations(KINDS, 2):
        assert are_compatible(left, right) == are_compatible(right, left)
        if are_compatible(left, right):
            sample = sample_constraints(rng("pairs", left, right), 2, kinds=(left, right))
            assert {constraint.constraint.id for constraint in sample.constraints} == {left, right}


def test_kinds_that_contradict_each_other_are_never_drawn_together() -> None:
    with pytest.raises(ConfigError, match="no 2 compatible"):
        sample_constraints(rng("no"), 2, kinds=("change_case:english_capital", "change_case:english_lowercase"))


@pytest.mark.parametrize(("count", "kinds"), [(0, KINDS), (1, ("count:numbers",)), (1, ("nothing",))])
def test_impossible_requests_are_refused(count: int, kinds: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError):
        sample_constraints(rng("x"), count, kinds=kinds)


def test_only_kinds_of_ifeval_are_drawn() -> None:
    assert {constraints()[kind].source for kind in KINDS} == {"ifeval"}


def test_contradictions_have_no_response() -> None:
    capital, lower = ({"id": f"change_case:english_{case}", "kwargs": {}} for case in ("capital", "lowercase"))
    assert satisfy(read_constraints([capital, lower])) is None
