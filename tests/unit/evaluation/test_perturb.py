from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlvr.envs.tasks import load_task
from rlvr.errors import ConfigError
from rlvr.evaluation.perturb import perturbed, with_other_numbers
from rlvr.types import Message, Problem
from rlvr.verifiers.arithmetic import evaluate

CLIPS = Problem(
    "clips",
    (
        Message(
            "user", "Natalia sold 48 clips to friends in April, and half as many in May. She gave 5 away. How many did she sell?"
        ),
    ),
    "72",
    {"working": "In May she sold 48/2 = 24 clips.\nTogether she sold 48+24 = 72 clips."},
)


@pytest.mark.parametrize("task", ["chains", "products"])
def test_expressions_get_other_numbers_and_the_right_answer(task: str) -> None:
    problems = load_task(task).problems("test", limit=40)
    found = with_other_numbers(problems)
    assert len(found) >= 38
    by_id = {problem.id: problem for problem in problems}
    for changed in found:
        text, old = changed.prompt[-1].content, by_id[changed.id].prompt[-1].content
        assert text != old
        assert re.sub(r"\d", "0", text) == re.sub(r"\d", "0", old)  # as many digits everywhere
        assert changed.answer == str(evaluate(text.rstrip("?")).value)
        assert changed.answer != by_id[changed.id].answer


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000))
def test_a_word_problem_is_calculated_again(seed: int) -> None:
    changed = perturbed(CLIPS, seed)
    assert changed is not None
    sold, away = map(int, re.findall(r"\d+", changed.prompt[-1].content))
    assert away == 5  # nothing is calculated with it
    assert sold % 2 == 0
    assert changed.answer == str(sold + sold // 2)
    assert changed.id == "clips"
    assert sold != 48


@pytest.mark.parametrize(
    ("text", "answer", "working"),
    [
        ("48 clips, then 48 more?", "72", "48/2 = 24, 48+24 = 72"),  # which of the two is meant?
        ("7 days of 100 each?", "700", "7*100 = 700"),  # may count something else
        ("48 clips?", "73", "48/2 = 24, 48+24 = 72"),  # the working is not that of the answer
        ("48 clips?", "72", "48/2 = 25, 48+24 = 72"),  # the working is wrong
        ("48.5 clips?", "97", "48.5*2 = 97"),
        ("20% of 48?", "10", "no calculation"),
    ],
)
def test_what_cannot_be_changed_safely_is_left_out(text: str, answer: str, working: str) -> None:
    assert perturbed(Problem("p", (Message("user", text),), answer, {"working": working})) is None


def test_the_change_depends_on_problem_and_seed_alone() -> None:
    assert perturbed(CLIPS, 3) == perturbed(CLIPS, 3)
    assert len({perturbed(CLIPS, seed).answer for seed in range(20)}) > 3  # type: ignore[union-attr]


def test_problems_of_which_none_can_be_changed_are_refused() -> None:
    with pytest.raises(ConfigError, match="none of these problems"):
        with_other_numbers([Problem("p", (Message("user", "Prove it."),), "x")])
