from __future__ import annotations

import itertools
from collections import Counter
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlvr.evaluation.passk import all_pass_at_k, pass_at_k
from rlvr.evaluation.selection import Ballot, Ranked, best_at_k, maj_at_k

ballots = st.lists(st.builds(Ballot, st.sampled_from(["a", "b", "c", None]), st.booleans()), min_size=1, max_size=7)
ranked = st.lists(st.builds(Ranked, st.sampled_from([0.0, 0.5, 1.0]), st.booleans()), min_size=1, max_size=7)


def voted(chosen: tuple[Ballot, ...], everyone: list[Ballot]) -> Fraction:
    """The written rule, word by word."""
    votes = Counter(one.vote for one in chosen if one.vote is not None)
    winners = [vote for vote, count in votes.items() if count == max(votes.values())]
    shares = []
    for winner in winners:
        verdicts = [one.is_correct for one in everyone if one.vote == winner]
        shares.append(Fraction(sum(verdicts), len(verdicts)))
    return sum(shares, Fraction(0)) / len(winners) if winners else Fraction(0)


@settings(max_examples=120, deadline=None)
@given(ballots, st.data())
def test_maj_at_k_is_the_mean_over_all_subsets_and_ties(everyone: list[Ballot], data: st.DataObject) -> None:
    k = data.draw(st.integers(1, len(everyone)))
    subsets = list(itertools.combinations(everyone, k))
    expected = sum((voted(chosen, everyone) for chosen in subsets), Fraction(0)) / len(subsets)
    assert maj_at_k(everyone, k) == pytest.approx(float(expected), abs=1e-12)


@settings(max_examples=120, deadline=None)
@given(ranked, st.data())
def test_best_at_k_is_the_mean_over_all_subsets_and_ties(everyone: list[Ranked], data: st.DataObject) -> None:
    k = data.draw(st.integers(1, len(everyone)))
    expected = Fraction(0)
    subsets = list(itertools.combinations(everyone, k))
    for chosen in subsets:
        best = [one.is_correct for one in chosen if one.score == max(other.score for other in chosen)]
        expected += Fraction(sum(best), len(best))
    assert best_at_k(everyone, k) == pytest.approx(float(expected / len(subsets)), abs=1e-12)


def test_a_vote_of_one_is_the_share_of_right_answers() -> None:
    everyone = [Ballot("1", True), Ballot("2", False), Ballot(None, False), Ballot("1", True)]
    assert maj_at_k(everyone, 1) == pytest.approx(0.5)


def test_samples_without_an_answer_cast_no_vote_and_win_nothing() -> None:
    assert maj_at_k([Ballot(None, False)] * 4, 3) == 0.0
    assert maj_at_k([Ballot(None, False)] * 3 + [Ballot("7", True)], 4) == pytest.approx(1.0)


def test_a_vote_of_many_samples_goes_to_the_answer_that_most_give() -> None:
    many = [Ballot("7", True)] * 140 + [Ballot(f"wrong {index % 30}", False) for index in range(120)]
    assert maj_at_k(many, 200) == pytest.approx(1.0, abs=1e-9)
    assert maj_at_k(many, 1) == pytest.approx(140 / 260)


def test_the_verifiers_own_score_makes_best_at_k_pass_at_k() -> None:
    own = [Ranked(float(index < 3), index < 3) for index in range(10)]
    assert best_at_k(own, 4) == pytest.approx(pass_at_k(10, 3, 4))


def test_a_scorer_that_prefers_wrong_answers_does_worse_the_more_it_may_choose_from() -> None:
    misled = [Ranked(float(index), index < 5) for index in range(10)]
    values = [best_at_k(misled, k) for k in (1, 2, 4)]
    assert values[0] == pytest.approx(0.5)
    assert values == sorted(values, reverse=True)


@pytest.mark.parametrize("k", [0, 3])
def test_more_votes_than_samples_are_refused(k: int) -> None:
    with pytest.raises(ValueError, match="between 1 and n"):
        maj_at_k([Ballot("1", True)] * 2, k)
    with pytest.raises(ValueError, match="between 1 and n"):
        best_at_k([Ranked(1.0, True)] * 2, k)


@pytest.mark.parametrize(("n", "correct", "k"), [(6, 4, 1), (6, 4, 3), (6, 2, 3), (6, 6, 6)])
def test_all_pass_is_the_share_of_subsets_that_are_right_throughout(n: int, correct: int, k: int) -> None:
    subsets = list(itertools.combinations([True] * correct + [False] * (n - correct), k))
    assert all_pass_at_k(n, correct, k) == pytest.approx(sum(map(all, subsets)) / len(subsets))
