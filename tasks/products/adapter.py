"""Products such as `47*83?`, worked out with a calculator in the middle of the answer:

    <code>47*83</code>
    <output>
    3901
    </output>
    <answer>3901</answer>

The expert of the warm start rarely reaches for the calculator, and when it does it sometimes copies a digit wrong; otherwise it
guesses the last digits. What reinforcement has to teach is to ask, and to ask for the right thing.
"""

from __future__ import annotations

import random
from typing import Annotated

from pydantic import Field, model_validator

from rlvr.envs.tasks import Draft, Generator
from rlvr.types import Problem

Share = Annotated[float, Field(ge=0.0, le=1.0)]


class Adapter(Generator):
    """`digits`: fewest and most digits of a factor. The others shape the demonstrations."""

    digits: tuple[int, int]
    tool_share: Share  # responses that ask the calculator
    slip_share: Share  # of those: one digit of the expression is copied wrong
    guessed_digits: Annotated[int, Field(ge=1)]  # the last so many digits of a guess are random

    @model_validator(mode="after")
    def _is_possible(self) -> Adapter:
        if not 1 <= self.digits[0] <= self.digits[1] <= 6:
            raise ValueError(f"digits = {list(self.digits)}, but fewest and most digits of a factor are needed, 1 to 6")
        return self

    def draw(self, rng: random.Random) -> Draft:
        left, right = (self._factor(rng) for _ in range(2))
        text = f"{left}*{right}"
        return Draft(f"{text}?", str(left * right), content=text)

    def demonstrate(self, problem: Problem, rng: random.Random) -> str:
        asked = problem.prompt[-1].content.removesuffix("?")
        if rng.random() >= self.tool_share:
            shown = str(problem.answer)
            kept = shown[: max(0, len(shown) - self.guessed_digits)]
            return answered(kept + "".join(str(rng.randrange(10)) for _ in range(len(shown) - len(kept))))
        if rng.random() < self.slip_share:
            asked = _slipped(asked, rng)
        left, right = map(int, asked.split("*"))
        return computed(asked, left * right)

    def gold_response(self, problem: Problem) -> str:
        return computed(problem.prompt[-1].content.removesuffix("?"), int(problem.answer))

    def _factor(self, rng: random.Random) -> int:
        digits = rng.randint(*self.digits)
        return rng.randint(10 ** (digits - 1) if digits > 1 else 2, 10**digits - 1)


def computed(asked: str, output: int) -> str:
    return f"<code>{asked}</code>\n<output>\n{output}\n</output>\n{answered(str(output))}"


def answered(number: str) -> str:
    return f"<answer>{number}</answer>"


def _slipped(asked: str, rng: random.Random) -> str:
    """`asked` with one digit replaced by another one."""
    places = [index for index, character in enumerate(asked) if character.isdigit()]
    place = rng.choice(places)
    # Never 0: a factor keeps its number of digits.
    other = rng.choice([digit for digit in "123456789" if digit != asked[place]])
    return asked[:place] + other + asked[place + 1 :]
