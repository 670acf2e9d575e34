"""Prompts with drawn constraints: a topic, a form of text, and one to several constraints that can be followed together."""

from __future__ import annotations

import json
import random

from pydantic import model_validator

from rlvr.envs.tasks import Draft, Generator
from rlvr.types import Problem
from rlvr.verifiers.instruction.english import word_list
from rlvr.verifiers.instruction.generate import KINDS, sample_constraints

_FORMS = (
    "Write a short story about {}.",
    "Write a letter to a friend about {}.",
    "Explain to a child what is interesting about {}.",
    "Write an advertisement for a museum of {}.",
    "Write a diary entry of someone who has just discovered {}.",
    "Give advice to someone who wants to learn about {}.",
    "Write a dialogue between two neighbours about {}.",
    "Describe a dream about {}.",
    "Write a speech in praise of {}.",
    "Write a report for a town council on {}.",
    "What should everyone know about {}?",
    "Why do some people love {} and others not?",
    "Compare how people saw {} a hundred years ago and today.",
    "Write a poem about {}.",
    "Propose a school project on {}.",
    "Write a review of a book about {}.",
)
_TOPICS = word_list(
    """
    bees bicycles black_holes bread bridges butterflies castles caves chess chocolate clocks coral_reefs deserts
    dolphins earthquakes eclipses elevators fairy_tales fireworks folk_music football glaciers gravity green_tea
    handwriting hot-air_balloons icebergs ink jazz kites knots languages libraries lighthouses lightning maps
    markets mirrors mosses mountains mushrooms night_trains old_photographs origami owls paper pencils penguins
    postage_stamps puppets puzzles rainbows rivers robots salt shadows silence snow spices spiders stars
    street_musicians submarines swimming the_calendar the_history_of_zero the_smell_of_rain tides traffic_lights
    umbrellas violins volcanoes weather_forecasts whales wind winter wolves yeast
    """
)  # "_" stands for a space


class Adapter(Generator):
    """`constraints`: fewest and most of a prompt; `kinds`: ids to draw from, empty for all of IFEval's that can be drawn."""

    constraints: tuple[int, int]
    kinds: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _is_possible(self) -> Adapter:
        if not 1 <= self.constraints[0] <= self.constraints[1] <= 6:
            raise ValueError(f"constraints = {list(self.constraints)}, but fewest and most are needed, from 1 to 6")
        if unknown := set(self.kinds) - set(KINDS):
            raise ValueError(f"kinds = {sorted(unknown)} cannot be drawn; allowed: {', '.join(KINDS)}")
        return self

    def vary(self, problem: Problem, rng: random.Random) -> Draft | None:
        """None: the numbers of constraints are no answers that could be known by heart."""
        return None

    def draw(self, rng: random.Random) -> Draft | None:
        request = rng.choice(_FORMS).format(rng.choice(_TOPICS).replace("_", " "))
        sample = sample_constraints(rng, rng.randint(*self.constraints), kinds=self.kinds or KINDS)
        answer = sample.answer()
        return Draft(
            f"{request}\n\n{sample.text}",
            answer,
            content=json.dumps([request, sorted(map(json.dumps, answer["constraints"]))]),
            metadata={"witness": sample.witness},
        )

    def gold_response(self, problem: Problem) -> str:
        witness: str = problem.metadata["witness"]
        return witness
