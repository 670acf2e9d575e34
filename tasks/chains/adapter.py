"""Chains of digits with + and -: `8+5-6+7?`, worked out as `<think>8+5=13;13-6=7;7+7=14</think><answer>14</answer>`.

The expert of the warm start is a mix on purpose. Half of its responses guess near the answer; the others work the chain out,
some reading every minus as plus, each step with a small chance of a slip. The base therefore can work chains out, but often
does not: what reinforcement has to teach is to do it, and to do it right.
"""

from __future__ import annotations

import itertools
import random
from typing import Annotated

from pydantic import Field, model_validator

from rlvr.envs.tasks import Draft, Generator
from rlvr.envs.tasks.adapter import MAX_VARIED
from rlvr.types import Problem

Share = Annotated[float, Field(ge=0.0, le=1.0)]
TAGS = 6  # tokens of a response beside its steps: four tags, an answer of mostly two digits, the end, less a semicolon


class Adapter(Generator):
    """`terms`: fewest and most digits; every running value lies in `low`..`high`. The others shape the demonstrations."""

    terms: tuple[int, int]
    low: int
    high: int
    guess_share: Share  # responses that do not think and guess
    guess_spread: Annotated[int, Field(ge=0)]  # farthest that a guess lies from the answer
    misread_share: Share  # worked responses that read minus as plus
    slip_share: Share  # worked steps whose result is one off
    recheck: tuple[Annotated[int, Field(ge=0)], Annotated[int, Field(ge=0)]] = (0, 0)  # times that worked steps are written again
    target_noise: Share = 0.3  # how far a response to a prompt that asks for a length misses it

    @model_validator(mode="after")
    def _is_possible(self) -> Adapter:
        if not 2 <= self.terms[0] <= self.terms[1]:
            raise ValueError(f"terms = {list(self.terms)}, but fewest and most digits are needed, e.g. [4, 5], with at least 2")
        if self.recheck[0] > self.recheck[1]:
            raise ValueError(f"recheck = {list(self.recheck)}, but the fewest times come first")
        if self.low > 1 or self.high < self.low + 9:
            raise ValueError(f"low = {self.low}, high = {self.high}, but low must be at most 1 and high at least low + 9")
        return self

    def draw(self, rng: random.Random) -> Draft:
        value = rng.randint(max(1, self.low), min(9, self.high))
        text = str(value)
        terms = rng.randint(*self.terms)
        for _ in range(terms - 1):
            steps = [s for s in range(-9, 10) if s and self.low <= value + s <= self.high]
            step = rng.choice(steps)
            value += step
            text += f"{step:+d}"
        return Draft(f"{text}?", str(value), metadata={"terms": terms}, content=text)

    def vary(self, problem: Problem, rng: random.Random) -> Draft | None:
        """The same signs with other digits."""
        _, *steps = _terms(problem)
        for _ in range(MAX_VARIED):
            value = rng.randint(max(1, self.low), min(9, self.high))
            text = str(value)
            for step in steps:
                sign = 1 if step > 0 else -1
                sizes = [size for size in range(1, 10) if self.low <= value + sign * size <= self.high]
                if not sizes:
                    break
                change = sign * rng.choice(sizes)
                value += change
                text += f"{change:+d}"
            else:
                return Draft(f"{text}?", str(value), metadata={"terms": 1 + len(steps)}, content=text)
        return None

    def demonstrate(self, problem: Problem, rng: random.Random) -> str:
        if problem.metadata.get("thinking") == "off":
            return f"<answer>{problem.answer}</answer>"
        if rng.random() < self.guess_share:
            answer = int(problem.answer)
            nearest, farthest = max(self.low, answer - self.guess_spread), min(self.high, answer + self.guess_spread)
            return respond([], rng.randint(nearest, farthest))
        misreads = rng.random() < self.misread_share
        value, *steps = _terms(problem)
        worked = []
        for step in steps:
            read = abs(step) if misreads else step
            slip = rng.choice((-1, 1)) if rng.random() < self.slip_share else 0
            worked.append(f"{value}{read:+d}={value + read + slip}")
            value += read + slip
        return respond(self._lengthened(worked, problem, rng), value)

    def _lengthened(self, worked: list[str], problem: Problem, rng: random.Random) -> list[str]:
        """The steps, and some of them again from the first on: `recheck` times all, or until the asked length is near."""
        target = problem.metadata.get("target_tokens")
        if target is None:
            return worked * (1 + (rng.randint(*self.recheck) if any(self.recheck) else 0))
        wanted = float(target) * (1 + rng.uniform(-self.target_noise, self.target_noise))
        steps, spent = list(worked), TAGS + _tokens(worked)
        for step in itertools.cycle(worked):
            if spent + _tokens([step]) / 2 > wanted:
                return steps
            steps.append(step)
            spent += _tokens([step])
        return steps

    def gold_response(self, problem: Problem) -> str:
        if problem.metadata.get("thinking") == "off":
            return f"<answer>{problem.answer}</answer>"
        value, *steps = _terms(problem)
        worked = []
        for step in steps:
            worked.append(f"{value}{step:+d}={value + step}")
            value += step
        return respond(worked, value)


def respond(worked: list[str], answer: int) -> str:
    return f"<think>{';'.join(worked)}</think><answer>{answer}</answer>"


def _tokens(worked: list[str]) -> int:
    """Of steps with the semicolons between them; a character is a token."""
    return sum(len(step) + 1 for step in worked)


def _terms(problem: Problem) -> list[int]:
    """The digits with their signs: `8+5-6?` is [8, 5, -6]."""
    chain = problem.prompt[-1].content.partition("?")[0]  # what follows may say how long to think
    return [int(term) for term in chain.replace("-", "+-").split("+")]
