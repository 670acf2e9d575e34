from __future__ import annotations

import re

import pytest

from rlvr.config import SftConfig
from rlvr.envs.renderer import Renderer
from rlvr.envs.tasks import load_task
from rlvr.errors import TaskError
from rlvr.trainers.model.tiny import tiny_tokenizer
from rlvr.trainers.sft import DemonstrationSampler

ASKED = re.compile(r"<code>(\d+)\*(\d+)</code>\n<output>\n(\d+)\n</output>\n<answer>(\d+)</answer>")


def factors(prompt: str) -> tuple[int, int]:
    found = re.fullmatch(r"(\d+)\*(\d+)\?", prompt)
    assert found is not None
    return int(found[1]), int(found[2])


@pytest.mark.parametrize("split", ["train", "test"])
def test_the_answer_is_the_product_of_factors_with_so_many_digits(split: str) -> None:
    for problem in load_task("products").problems(split, limit=300):
        left, right = factors(problem.prompt[-1].content)
        assert problem.answer == str(left * right)
        assert all(10 <= factor <= 999 for factor in (left, right))


def test_the_expert_mostly_guesses_and_slips_where_it_asks() -> None:
    task = load_task("products")
    shown = [task.demonstration("train", index % 500, index) for index in range(3000)]
    asked = [(one, found) for one in shown if (found := ASKED.fullmatch(one.response))]
    assert 0.17 < len(asked) / len(shown) < 0.23
    slips = 0
    for one, found in asked:
        left, right, output, answer = map(int, found.groups())
        assert left * right == output == answer
        slips += (left, right) != factors(one.problem.prompt[-1].content)
    assert 0.1 < slips / len(asked) < 0.2
    guesses = [one for one in shown if "<code>" not in one.response]
    right_ones = sum(f"<answer>{one.problem.answer}</answer>" == one.response for one in guesses)
    assert right_ones / len(guesses) < 0.02


def test_the_task_brings_its_tools_along() -> None:
    env = load_task("products").env
    assert env is not None
    assert (env.plugin, env.tools, env.format, env.limits.calls) == ("tool_use", ("calculator",), "code", 2)


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(TaskError, match="fewest and most digits of a factor"):
        load_task("products", {"digits": [3, 2]})


def test_what_a_tool_said_in_a_demonstration_carries_no_loss() -> None:
    task = load_task("products", {"tool_share": 1.0})
    assert task.tiny is not None
    tokenizer = tiny_tokenizer(task.tiny.alphabet, task.tiny.tags)
    recipe = SftConfig(model="new:tiny", task="products", sequences_per_step=8)
    for example in DemonstrationSampler(task, recipe, Renderer(tokenizer), tokenizer, 200).batch(0):
        rows = list(zip(example.token_ids, example.loss_mask, strict=True))
        said = tokenizer.decode([token for token, is_said in rows if is_said])
        masked = tokenizer.decode([token for token, is_said in rows if not is_said])
        assert re.fullmatch(r"<code>\d+\*\d+</code><answer>\d+</answer><eos>", said)
        assert re.fullmatch(r"\d+\*\d+\?\n\n<output>\n\d+\n</output>\n", masked)
