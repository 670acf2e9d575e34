from __future__ import annotations

import re
from collections import Counter

import pytest

from rlvr.envs.tasks import load_task
from rlvr.errors import TaskError


def terms(prompt: str) -> list[int]:
    return [int(term) for term in re.findall(r"[+-]?\d+", prompt)]


def running(numbers: list[int]) -> list[int]:
    return [sum(numbers[: i + 1]) for i in range(len(numbers))]


@pytest.mark.parametrize("split", ["train", "test"])
def test_answer_is_the_sum_and_running_values_stay_in_range(split: str) -> None:
    for problem in load_task("chains").problems(split, limit=400):
        prompt = problem.prompt[-1].content
        assert re.fullmatch(r"\d([+-]\d){3,4}\?", prompt)
        values = running(terms(prompt))
        assert str(values[-1]) == problem.answer
        assert all(0 <= value <= 30 for value in values)


def test_terms_set_the_length() -> None:
    lengths = Counter(
        len(terms(p.prompt[-1].content)) for p in load_task("chains", {"terms": [6, 8]}).problems("test", limit=200)
    )
    assert set(lengths) == {6, 7, 8}


def test_longer_chains_share_no_test_problem_with_training() -> None:
    train = {p.prompt for p in load_task("chains", {"terms": [3, 5]}).problems("train", limit=1000)}
    test = {p.prompt for p in load_task("chains").problems("test", limit=300)}
    assert not train & test


def responses(count: int = 4000, **args: float) -> list[tuple[str, str, int]]:
    """(chain, response, seed)"""
    task = load_task("chains", args)
    shown = [task.demonstration("train", i % 500, i) for i in range(count)]
    return [(d.problem.prompt[-1].content, d.response, int(d.problem.answer)) for d in shown]


def test_worked_response_without_errors_works_the_chain_out() -> None:
    for prompt, response, answer in responses(200, guess_share=0, misread_share=0, slip_share=0):
        first, *steps = terms(prompt)
        worked, value = [], first
        for step in steps:
            worked.append(f"{value}{step:+d}={value + step}")
            value += step
        assert response == f"<think>{';'.join(worked)}</think><answer>{answer}</answer>"


def test_guesses_do_not_think_and_lie_near_the_answer_within_the_range() -> None:
    for _, response, answer in responses(500, guess_share=1):
        guess = int(response.removeprefix("<think></think><answer>").removesuffix("</answer>"))
        assert abs(guess - answer) <= 4
        assert 0 <= guess <= 30


def test_misread_responses_add_every_digit() -> None:
    for prompt, response, _ in responses(100, guess_share=0, misread_share=1, slip_share=0):
        assert response.endswith(f"<answer>{sum(map(abs, terms(prompt)))}</answer>")


def test_shares_of_the_mix_are_as_asked() -> None:
    shown = responses()
    guesses = sum("<think></think>" in response for _, response, _ in shown) / len(shown)
    assert guesses == pytest.approx(0.55, abs=0.03)
    worked = [(prompt, response) for prompt, response, _ in shown if "<think></think>" not in response and "-" in prompt]
    misread = sum("-" not in response for _, response in worked) / len(worked)
    assert misread == pytest.approx(0.25, abs=0.03)


def test_share_of_right_responses_leaves_room_to_learn() -> None:
    right = sum(response.endswith(f"<answer>{answer}</answer>") for _, response, answer in responses())
    assert 0.3 < right / 4000 < 0.5


def test_slips_are_off_by_one_and_carried_on() -> None:
    for prompt, response, _ in responses(100, guess_share=0, misread_share=0, slip_share=1):
        value = terms(prompt)[0]
        for line, step in zip(response.split("<think>")[1].split("</think>")[0].split(";"), terms(prompt)[1:], strict=True):
            left, result = line.split("=")
            assert left == f"{value}{step:+d}"
            assert abs(int(result) - value - step) == 1
            value = int(result)
        assert response.endswith(f"<answer>{value}</answer>")


def test_demonstration_depends_on_its_index_and_seed_alone() -> None:
    task, again = load_task("chains"), load_task("chains")
    assert task.demonstration("train", 7, 3) == again.demonstration("train", 7, 3)
    assert len({task.demonstration("train", 7, seed).response for seed in range(20)}) > 3


def test_every_response_is_written_in_the_tiny_models_alphabet_and_fits_its_limits() -> None:
    task = load_task("chains", {"terms": [4, 8]})
    assert task.tiny is not None
    tags = re.compile("|".join(map(re.escape, task.tiny.tags)))
    for i in range(500):
        shown = task.demonstration("train", i, i)
        text = shown.problem.prompt[-1].content + shown.response
        assert set(tags.sub("", text)) <= set(task.tiny.alphabet)
        assert len(tags.sub("#", shown.response)) < task.max_tokens
        assert len(tags.sub("#", text)) < task.tiny.context


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"terms": [5, 4]}, r"terms = \[5, 4\]"),
        ({"low": 5}, r"low = 5, high = 30"),
        ({"high": 8}, r"high = 8"),
        ({"slip_share": 1.5}, r"slip_share = 1.5"),
    ],
)
def test_impossible_arguments_are_refused(args: dict[str, float], message: str) -> None:
    with pytest.raises(TaskError, match=message):
        load_task("chains", args)
