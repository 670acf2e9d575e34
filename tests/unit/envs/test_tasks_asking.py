"""Tasks around a task: prompts that say how long to think, or whether to."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlvr.envs.tasks import load_task
from rlvr.envs.tasks.asking import LengthTarget, Thinking
from rlvr.errors import TaskError
from rlvr.types import Message, Problem


def test_the_words_are_the_papers_and_the_target_is_on_record() -> None:
    plain, asked = (load_task(name).problems("test", limit=20) for name in ("chains", "length_target:chains"))
    for before, after in zip(plain, asked, strict=True):
        target = after.metadata["target_tokens"]
        assert 100 <= target <= 4000
        assert after.prompt[-1].content == f"{before.prompt[-1].content} Think for {target} tokens."
        assert (after.id, after.answer) == (before.id, before.answer)
    [most] = load_task("length_target:chains", {"target_text": "max", "targets": [64]}).problems("test", limit=1)
    assert most.prompt[-1].content.endswith("? Think for maximum 64 tokens.")


def test_targets_depend_on_the_seed_and_the_problem_and_on_nothing_else() -> None:
    def targets(limit: int, **args: Any) -> list[int]:
        return [p.metadata["target_tokens"] for p in load_task("length_target:chains", args).problems("train", limit=limit)]

    assert targets(50)[:10] == targets(10)
    assert targets(10) != targets(10, target_seed=1)
    task = load_task("length_target:chains")
    assert task.source.problem("train", 7) == task.problems("train", limit=8)[7]
    assert len(set(targets(50))) > 40


@given(st.integers(1, 500), st.integers(0, 500), st.text(min_size=1, max_size=20), st.integers(0, 9))
@settings(max_examples=60)
def test_targets_stay_in_their_range(low: int, width: int, id: str, seed: int) -> None:
    wish = LengthTarget(target_range=(low, low + width), target_seed=seed)
    problem = Problem(id, (Message("system", "s"), Message("user", "q")), 1, {"other": 2})
    asked = wish.ask(problem)
    assert low <= asked.metadata["target_tokens"] <= low + width
    assert asked.metadata["other"] == 2
    assert asked.prompt[0] == problem.prompt[0]
    assert wish.ask(problem) == asked


def test_discrete_targets_are_drawn_from_the_list_alone() -> None:
    problems = load_task("length_target:chains", {"targets": [16, 64]}).problems("train", limit=200)
    found = Counter(problem.metadata["target_tokens"] for problem in problems)
    assert set(found) == {16, 64}
    assert min(found.values()) > 60


def test_other_arguments_belong_to_the_task_inside_and_all_are_on_record() -> None:
    task = load_task("length_target:chains", {"terms": [6, 6], "targets": [9]})
    assert len(re.findall(r"\d", task.problems("test", limit=1)[0].prompt[0].content.partition("?")[0])) == 6
    assert task.args["terms"] == [6, 6]
    assert task.args["targets"] == [9]
    assert task.name == "length_target:chains"
    assert task.tiny == load_task("chains").tiny


@pytest.mark.parametrize(
    ("name", "args", "wrong"),
    [
        ("length_target:chains", {"target_text": "be brief"}, "text with {n} in it"),
        ("length_target:chains", {"target_range": [9, 3]}, "the fewest tokens come first"),
        ("length_target:chains", {"targets": [0]}, "targets.0 = 0"),
        ("length_target:chains", {"term": 3}, "no argument 'term'"),
        ("thinking:chains", {"modes": {"on": 0}}, "at least one mode a weight above 0"),
        ("thinking:chains", {"modes": {"onn": 1}}, "onn"),
        ("thinking:chains", {"modes": {"budget": 1}, "mode_texts": {"budget": "short"}}, "it must say {n}"),
        ("thinking:chians", {}, "did you mean 'chains'"),
    ],
)
def test_wrong_arguments_are_named(name: str, args: dict[str, Any], wrong: str) -> None:
    with pytest.raises(TaskError, match=wrong):
        load_task(name, args)


def test_modes_are_drawn_as_often_as_their_weights_say_and_stand_in_a_system_message() -> None:
    args = {"modes": {"on": 2, "off": 1, "budget": 1}, "targets": [30]}
    problems = load_task("thinking:chains", args).problems("train", limit=400)
    found = Counter(problem.metadata["thinking"] for problem in problems)
    assert found["on"] == pytest.approx(200, abs=45)
    assert found["off"] == pytest.approx(100, abs=40)
    for problem in problems:
        mode = problem.metadata["thinking"]
        texts = {"on": "/think", "off": "/no_think", "budget": "/think Think for at most 30 tokens."}
        assert problem.prompt[0] == Message("system", texts[mode])
        assert ("target_tokens" in problem.metadata) == (mode == "budget")


def test_a_mode_may_stand_behind_the_prompt_or_before_the_tasks_system_text() -> None:
    problem = Problem("p", (Message("system", "Be kind."), Message("user", "q")), 1)
    only_off = {"modes": {"off": 1.0}, "mode_texts": {"off": "No thoughts."}}
    assert Thinking(**only_off).ask(problem).prompt[0].content == "No thoughts.\n\nBe kind."  # type: ignore[arg-type]
    behind = Thinking(**only_off, mode_place="user").ask(problem)  # type: ignore[arg-type]
    assert behind.prompt == (Message("system", "Be kind."), Message("user", "q No thoughts."))


def test_wishes_nest_and_variants_of_the_task_inside_stay() -> None:
    task = load_task("thinking:length_target:chains", {"targets": [40]})
    problem = task.problems("test", limit=1)[0]
    assert {"thinking", "target_tokens"} <= set(problem.metadata)
    assert "longer" in task.variants


def test_the_verifier_of_the_mode_joins_the_tasks_own_behind_them() -> None:
    task = load_task("thinking:chains", {"mode_weight": 0.2, "mode_bare": True})
    assert [(one.name, one.weight) for one in task.verifiers] == [("number", 1.0), ("thinking", 0.2)]
    assert task.verifiers[1].args == {"bare": True}
    assert load_task("length_target:chains").verifiers == load_task("chains").verifiers


def test_demonstrations_follow_what_the_prompt_asks_for() -> None:
    args = {"guess_share": 0, "misread_share": 0, "slip_share": 0}
    exact = load_task("length_target:chains", {**args, "target_range": [30, 90], "target_noise": 0})
    for index in range(60):
        shown = exact.demonstration("train", index, index)
        tokens = len(re.sub(r"</?\w+>", "#", shown.response)) + 1
        shortest = len(shown.problem.prompt[-1].content.partition("?")[0]) * 4  # it cannot be shorter than worked once
        target = shown.problem.metadata["target_tokens"]
        assert abs(tokens - target) <= 6 or tokens <= shortest
        assert shown.response.endswith(f"<answer>{shown.problem.answer}</answer>")
    off = load_task("thinking:chains", {**args, "modes": {"off": 1}})
    shown = off.demonstration("train", 0, 0)
    assert shown.response == f"<answer>{shown.problem.answer}</answer>"


def test_a_demonstration_that_rechecks_writes_its_steps_again() -> None:
    args = {"guess_share": 0, "misread_share": 0, "slip_share": 0}
    once, thrice = (load_task("chains", {**args, "recheck": times}).demonstration("train", 3, 5) for times in ([0, 0], [2, 2]))
    steps = once.response.partition("<think>")[2].partition("</think>")[0]
    assert thrice.response == f"<think>{steps};{steps};{steps}</think><answer>{once.problem.answer}</answer>"
