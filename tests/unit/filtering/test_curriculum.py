"""Curricula: what they draw, what they remember, and when they give up."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from rlvr.errors import ConfigError, PluginError
from rlvr.filtering.curriculum import Course, Curriculum, StarvedError, Uniform, make_curriculum
from rlvr.filtering.posterior import SolveRates
from rlvr.types import Completion, FinishReason, Group, Message, Problem, Rollout, Stop, Turn, Verdict

EVERY = [
    ("uniform", {}),
    ("window", {}),
    ("learnability", {}),
    ("easy_to_hard", {}),
    ("easy_to_hard", {"by": "level"}),
    ("mixture", {"by": "source"}),
    ("mixture", {"by": "source", "weights": "progress", "within": "learnability"}),
    ("mixture", {"by": "source", "weights": "learnability"}),
    ("mixture", {"by": "source", "weights": "learnability_per_token", "sharpness": 2.0}),
    ("retire", {"within": {"name": "window", "low": 0.1}}),
]


def problem(index: int) -> Problem:
    return Problem(f"p{index}", (Message("user", str(index)),), "", {"level": index, "source": "abc"[index % 3]})


PROBLEMS = [problem(index) for index in range(30)]


def group(asked: Problem, correct: int, wrong: int, tokens: int = 1) -> Group:
    rollouts = []
    for index in range(correct + wrong):
        turn = Turn((1,), Completion((2,) * tokens, (0.0,) * tokens, FinishReason.STOP), Message("assistant", ""))
        verdict = Verdict.correct() if index < correct else Verdict.incorrect()
        rollouts.append(Rollout(asked, index, [turn], Stop.STOP, {"v": verdict}, verdict.score))
    return Group(asked, tuple(rollouts))


def course(found: dict[int, tuple[int, int]] | None = None, problems: list[Problem] = PROBLEMS, **settings: Any) -> Course:
    """`found`: (correct, wrong) of the problems that were tried, at step 0."""
    rates = SolveRates((one.id for one in problems), half_life=50.0)
    rates.observe_groups([group(problems[index], *counts) for index, counts in (found or {}).items()], step=0)
    return Course(problems, rates, **settings)


def ids(curriculum: Curriculum, count: int, step: int = 0) -> list[str]:
    return [one.id for one in curriculum.next(count, step)]


def draws(curriculum: Curriculum, steps: int = 200, count: int = 6) -> Counter[str]:
    return Counter(one for step in range(steps) for one in ids(curriculum, count, step))


def test_uniform_brings_every_problem_once_in_each_epoch_in_a_new_order() -> None:
    curriculum = Uniform(course(seed=3))
    first, second = ids(curriculum, 30), ids(curriculum, 30)
    assert sorted(first) == sorted(second) == sorted(one.id for one in PROBLEMS)
    assert first != second
    assert curriculum.metrics(0) == {"epoch": 2.0}


@pytest.mark.parametrize(("name", "arguments"), EVERY)
def test_the_seed_decides_what_is_drawn(name: str, arguments: dict[str, Any]) -> None:
    made = [make_curriculum(course(seed=seed), name, arguments) for seed in (0, 0, 1)]
    drawn = [[ids(one, 5, step) for step in range(4)] for one in made]
    assert drawn[0] == drawn[1] != drawn[2]


@pytest.mark.parametrize(("name", "arguments"), EVERY)
@pytest.mark.parametrize("steps", [0, 3, 11])
def test_a_restored_curriculum_goes_on_where_it_was(name: str, arguments: dict[str, Any], steps: int) -> None:
    def advance(curriculum: Curriculum, of: Course, first: int, last: int) -> list[list[str]]:
        drawn = []
        for step in range(first, last):
            problems = curriculum.next(5, step) + curriculum.next(2, step)
            drawn.append([one.id for one in problems])
            groups = [group(one, int(one.id[1:]) % 5, 4 - int(one.id[1:]) % 5) for one in problems]
            curriculum.observe(groups, step)
            of.rates.observe_groups(groups, step)
        return drawn

    of = course(seed=7)
    whole = make_curriculum(of, name, arguments)
    advance(whole, of, 0, steps)
    again = course(seed=7)
    again.rates.load_state_dict(of.rates.state_dict())
    restored = make_curriculum(again, name, arguments)
    restored.load_state_dict(whole.state_dict())
    assert advance(restored, again, steps, steps + 6) == advance(whole, of, steps, steps + 6)


@pytest.mark.parametrize(("name", "arguments"), EVERY)
def test_shares_are_of_the_whole_and_say_what_is_drawn(name: str, arguments: dict[str, Any]) -> None:
    of = course({0: (8, 0), 1: (0, 8), 2: (4, 4), 9: (7, 1)})
    curriculum = make_curriculum(of, name, arguments)
    shares = curriculum.shares(0)
    assert sum(shares) == pytest.approx(1.0)
    # One at a time, so that drawing without replacement does not flatten the shares.
    counts = Counter(
        make_curriculum(course({0: (8, 0), 1: (0, 8), 2: (4, 4), 9: (7, 1)}, seed=seed), name, arguments).next(1, 0)[0].id
        for seed in range(500)
    )
    for one, share in zip(PROBLEMS, shares, strict=True):
        assert counts[one.id] / 500 == pytest.approx(share, abs=0.05)


@pytest.mark.parametrize(("name", "arguments"), [case for case in EVERY if case[0] not in ("uniform", "mixture", "easy_to_hard")])
def test_no_problem_comes_twice_in_a_step_while_there_are_others(name: str, arguments: dict[str, Any]) -> None:
    curriculum = make_curriculum(course(), name, arguments)
    drawn = ids(curriculum, 20) + ids(curriculum, 10)
    assert len(set(drawn)) == 30
    assert len(ids(curriculum, 5)) == 5  # and again from the beginning, where a step needs more than there are


def test_the_window_draws_what_is_likely_inside_it() -> None:
    curriculum = make_curriculum(course({0: (16, 0), 1: (0, 16), 2: (8, 8)}), "window")
    always, never, half, unknown = curriculum.shares(0)[:4]
    assert half > 1.5 * unknown > 0
    assert max(always, never) < 0.01 * half


def test_what_was_left_out_is_tried_again_when_it_is_forgotten() -> None:
    curriculum = make_curriculum(course({0: (16, 0)}), "window")
    assert curriculum.shares(0)[0] < 0.002 < 0.02 < curriculum.shares(500)[0]


def test_learnability_is_the_expected_variance_of_an_outcome() -> None:
    of = course({0: (8, 0), 1: (4, 4)})
    shares = make_curriculum(of, "learnability").shares(0)
    # E[p (1 - p)] = ab / ((a + b)(a + b + 1)) with a = 8.5, b = 0.5 and with a = b = 4.5.
    assert shares[0] / shares[1] == pytest.approx((8.5 * 0.5) / (4.5 * 4.5))
    sharper = make_curriculum(of, "learnability", {"sharpness": 2.0}).shares(0)
    assert sharper[0] / sharper[1] == pytest.approx(((8.5 * 0.5) / (4.5 * 4.5)) ** 2)


def test_easy_to_hard_goes_from_what_is_solved_to_what_is_not() -> None:
    found = {index: (29 - index, index) for index in range(30)}
    curriculum = make_curriculum(course(found, steps=101), "easy_to_hard", {"width": 0.05})
    likeliest = [max(range(30), key=lambda index, step=step: curriculum.shares(step)[index]) for step in (0, 50, 100)]
    assert likeliest[0] < 9 < likeliest[1] < 20 < likeliest[2]


def test_easy_to_hard_by_a_number_lets_harder_problems_in_step_by_step() -> None:
    curriculum = make_curriculum(course(steps=101), "easy_to_hard", {"by": "level", "first": 0.1, "until": 0.5})
    allowed = [sum(share > 0 for share in curriculum.shares(step)) for step in (0, 25, 50, 100)]
    assert allowed == [3, 17, 30, 30]
    assert {one.id for one in curriculum.next(3, 0)} == {"p0", "p1", "p2"}


def test_a_mixture_keeps_its_weights() -> None:
    curriculum = make_curriculum(course(), "mixture", {"by": "source", "weights": {"a": 3, "b": 1}})
    counts = draws(curriculum)
    of_source = Counter({name: sum(counts[one.id] for one in PROBLEMS if one.metadata["source"] == name) for name in "abc"})
    assert of_source["a"] / of_source["b"] == pytest.approx(3.0, rel=0.15)
    assert of_source["c"] == 0


def test_the_bandit_goes_where_the_solve_rate_moves_and_still_looks_elsewhere() -> None:
    curriculum = make_curriculum(course(), "mixture", {"by": "source", "weights": "progress", "explore": 0.3})
    for step in range(20):
        moving = min(8, step // 2)
        curriculum.observe([group(PROBLEMS[0], moving, 8 - moving), group(PROBLEMS[1], 8, 0), group(PROBLEMS[2], 0, 8)], step)
    metrics = curriculum.metrics(20)
    assert metrics["curriculum_share_a"] == pytest.approx(0.8)
    assert metrics["curriculum_share_b"] == metrics["curriculum_share_c"] == pytest.approx(0.1)


def test_by_learnability_sources_are_drawn_by_the_variance_inside_their_groups() -> None:
    curriculum = make_curriculum(course(), "mixture", {"by": "source", "weights": "learnability", "explore": 0.3})
    before = curriculum.metrics(0)
    assert list(before.values()) == pytest.approx([1 / 3] * 3)
    for step in range(400):
        # Of `b` half of the problems are always solved and half never: its solve rate is 1/2, and it teaches nothing.
        b = group(PROBLEMS[1], 8, 0) if step % 2 else group(PROBLEMS[4], 0, 8)
        curriculum.observe([group(PROBLEMS[0], 4, 4), b, group(PROBLEMS[2], 1, 7)], step)
    metrics = curriculum.metrics(400)
    variances = {"a": 4 * 4 / 56, "b": 0.0, "c": 1 * 7 / 56}
    for name, variance in variances.items():
        assert metrics[f"curriculum_share_{name}"] == pytest.approx(0.1 + 0.7 * variance / sum(variances.values()))


def test_learnability_per_token_leaves_more_to_what_is_short() -> None:
    follows = {"by": "source", "weights": "learnability_per_token", "explore": 0.3}
    curriculum = make_curriculum(course(), "mixture", follows)
    for step in range(400):
        curriculum.observe([group(PROBLEMS[0], 4, 4, tokens=10), group(PROBLEMS[1], 4, 4, tokens=40)], step)
    shares = curriculum.metrics(400)
    # Nobody tried `c`: it is believed to be worth 1/8 for each of the usual 25 tokens.
    worth = {"a": 16 / 56 / 10, "b": 16 / 56 / 40, "c": 1 / 8 / 25}
    for name, value in worth.items():
        assert shares[f"curriculum_share_{name}"] == pytest.approx(0.1 + 0.7 * value / sum(worth.values()))


def test_sharpness_leaves_less_to_many_sources_that_are_solved_by_luck() -> None:
    shares = []
    for sharpness in (1.0, 2.0):
        curriculum = make_curriculum(
            course(), "mixture", {"by": "source", "weights": "learnability", "explore": 0.3, "sharpness": sharpness}
        )
        for step in range(400):
            curriculum.observe([group(PROBLEMS[0], 4, 4), group(PROBLEMS[1], 1, 7), group(PROBLEMS[2], 1, 7)], step)
        shares.append(curriculum.metrics(400)["curriculum_share_b"])
    assert shares == [pytest.approx(0.1 + 0.7 * 7 / 30), pytest.approx(0.1 + 0.7 * 49 / (256 + 2 * 49))]


def test_one_unlucky_group_does_not_end_a_source() -> None:
    curriculum = make_curriculum(course(), "mixture", {"by": "source", "weights": "learnability", "explore": 0.3})
    curriculum.observe([group(PROBLEMS[0], 0, 4), group(PROBLEMS[1], 2, 2)], 0)
    shares = curriculum.metrics(0)
    unlucky, lucky, untried = (2 * 0.125 + 0.0) / 3, (2 * 0.125 + 1 / 3) / 3, 0.125
    assert shares["curriculum_share_a"] == pytest.approx(0.1 + 0.7 * unlucky / (unlucky + lucky + untried))
    assert shares["curriculum_share_c"] == pytest.approx(0.1 + 0.7 * untried / (unlucky + lucky + untried))


def test_solved_problems_are_retired_and_some_are_tried_again() -> None:
    found = dict.fromkeys(range(10), (60, 0))
    never = make_curriculum(course(found), "retire", {"revisit": 0.0})
    assert set(draws(never, steps=1, count=60)) == {f"p{index}" for index in range(10, 30)}
    assert never.metrics(0)["curriculum_retired"] == 10.0
    some = [make_curriculum(course(found, seed=seed), "retire", {"revisit": 0.2}) for seed in range(100)]
    again = sum(int(one[1:]) < 10 for curriculum in some for one in ids(curriculum, 10))
    assert again / 1000 == pytest.approx(0.2, abs=0.04)


def test_the_retired_come_back_when_they_are_forgotten() -> None:
    curriculum = make_curriculum(course(dict.fromkeys(range(30), (60, 0))), "retire")
    with pytest.raises(StarvedError, match=r"30 of 30 problems are retired.*raise curriculum\.above"):
        curriculum.next(4, 0)
    assert len(curriculum.next(4, 300)) == 4


@pytest.mark.parametrize("name", ["window", "learnability"])
def test_a_curriculum_that_starves_says_with_numbers_what_is_left(name: str) -> None:
    found = {index: (400, 0) if index < 20 else (0, 400) for index in range(30)}
    with pytest.raises(StarvedError, match=r"at step 0: of 30 problems 20 are believed .* 10 less than 20 %, and 0 lie between"):
        make_curriculum(course(found), name).next(4, 0)


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("window", {"low": 0.8, "high": 0.2}, "low = 0.8 and high = 0.2"),
        ("window", {"lower": 0.2}, "lower"),
        ("learnability", {"sharpness": 0}, "sharpness = 0"),
        ("easy_to_hard", {"by": "terms"}, "metadata terms = None: a number is needed"),
        ("easy_to_hard", {"last": 2.0}, "last = 2.0"),
        ("mixture", {"by": "topic"}, "has level, source; name one of those"),
        ("mixture", {"by": "source", "weights": {"d": 1}}, "weights name 'd', but the problems' source is one of a, b, c"),
        ("mixture", {"by": "source", "weights": {"a": 0}}, "not all of them 0"),
        ("mixture", {"by": "source", "explore": 0}, "explore = 0"),
        ("mixture", {"by": "source", "weights": "learnability", "sharpness": 0}, "sharpness = 0"),
        ("mixture", {"by": "source", "weights": "speed"}, '"learnability_per_token" or a table'),
        ("retire", {"above": 1.0}, "above = 1.0"),
        ("retire", {"revisit": 1.0}, "revisit = 1.0"),
    ],
)
def test_wrong_arguments_are_named(name: str, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_curriculum(course(), name, arguments)


def test_no_problems_is_an_error() -> None:
    with pytest.raises(ConfigError, match="no problems to train on"):
        make_curriculum(course(problems=[]))


def test_two_problems_with_one_id_are_an_error() -> None:
    with pytest.raises(ConfigError, match="two problems have the id 'p0'"):
        make_curriculum(course(problems=[PROBLEMS[0], PROBLEMS[1], PROBLEMS[0]]))


def test_an_unknown_curriculum_is_an_error_with_the_closest_names() -> None:
    with pytest.raises(PluginError, match="did you mean 'window'"):
        make_curriculum(course(), "windows")


@pytest.mark.parametrize(("name", "arguments"), EVERY)
def test_every_curriculum_says_in_words_what_it_does(name: str, arguments: dict[str, Any]) -> None:
    assert len(make_curriculum(course(), name, arguments).words) > 30
