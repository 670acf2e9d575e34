"""Which groups an update leaves out."""

from __future__ import annotations

from typing import Any

import pytest

from rlvr.config import RunConfig, load_recipe
from rlvr.errors import ConfigError
from rlvr.trainers.group_filters import FILTERS, build_filters
from rlvr.types import Group, Message, Problem, Rollout, Stop, Verdict


def group(*scores: float | None, truncated: int = 0) -> Group:
    problem = Problem("p", (Message("user", "?"),), "")
    rollouts = []
    for index, score in enumerate(scores):
        verdict = Verdict.error("down") if score is None else Verdict.correct() if score == 1 else Verdict.incorrect()
        stop = Stop.LENGTH if index < truncated else Stop.STOP
        rollouts.append(Rollout(problem, index, stop=stop, verdicts={"v": verdict}, reward=score))
    return Group(problem, tuple(rollouts))


def drops(name: str, of: Group, **arguments: Any) -> bool:
    recipe = load_recipe({"model": "m", "task": "t", "filters": [{"name": name, **arguments}]})
    assert isinstance(recipe, RunConfig)
    return build_filters(recipe.filters)[name].drops(of)


@pytest.mark.parametrize(
    ("name", "arguments", "dropped", "kept"),
    [
        ("zero_variance", {}, group(1, 1, None), group(1, 0, None)),
        ("too_easy", {}, group(1, 1, 1), group(1, 1, 0)),
        ("too_easy", {"above": 0.5}, group(1, 1, 0), group(1, 0)),
        ("too_hard", {}, group(0, 0, 0), group(0, 0, 1)),
        ("too_hard", {"below": 0.6}, group(1, 0), group(1, 1, 0)),
        ("too_long", {}, group(0, 1, 0, truncated=2), group(0, 1, 0, 0, truncated=2)),
        ("too_long", {"truncated": 0.0}, group(0, 1, truncated=1), group(0, 1)),
        ("unscored", {}, group(1, 0, None), group(1, 0)),
        ("unscored", {"share": 0.5}, group(1, None, None), group(1, None)),
    ],
)
def test_each_filter_drops_what_it_names_and_keeps_the_rest(name: str, arguments: Any, dropped: Group, kept: Group) -> None:
    assert drops(name, dropped, **arguments)
    assert not drops(name, kept, **arguments)


@pytest.mark.parametrize("name", ["too_easy", "too_hard"])
def test_a_group_without_verdicts_is_neither_easy_nor_hard(name: str) -> None:
    assert not drops(name, group(None, None))


def test_every_filter_says_in_words_what_it_does() -> None:
    assert all("are left out" in kind().words for kind in FILTERS.values())


@pytest.mark.parametrize(
    ("filters", "message"),
    [
        (["too_eezy"], "filters name 'too_eezy'; choose from zero_variance, too_easy"),
        (["too_easy", {"name": "too_easy", "above": 0.5}], "'too_easy' twice"),
        ([{"name": "too_easy", "abov": 0.5}], "did you mean 'above'"),
        ([{"name": "too_easy", "above": 1.5}], "above = 1.5; give a share between 0 and 1"),
    ],
)
def test_wrong_filters_are_named(filters: list[Any], message: str) -> None:
    recipe = load_recipe({"model": "m", "task": "t", "filters": filters})
    assert isinstance(recipe, RunConfig)
    with pytest.raises(ConfigError, match=message):
        build_filters(recipe.filters)
