"""Knights and knaves: random claims, kept where exactly one assignment of kinds to people agrees with all of them.

A claim is `["knight", i]`, `["knave", i]`, `["not", s]`, or `["and" | "or" | "if" | "iff", s, t]`, where i is a person's number.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import Field, model_validator

from rlvr.envs.tasks import Draft, DrawnOrRead
from rlvr.types import JSON, Problem

NAMES = (
    *("Ada", "Bela", "Cora", "Dov", "Edna", "Femi", "Gus", "Hana", "Ivo", "Jun", "Kofi", "Lena", "Milo", "Nia", "Otto", "Pia"),
    *("Quin", "Rosa", "Saul", "Tove", "Uma", "Vito", "Wanda", "Yuri", "Zora"),
)
VERBS = ("says", "claims", "states", "tells you", "remarks")
PAIRS = ("and", "or", "if", "iff")
MAX_CANONICAL = 4  # people; beyond, two puzzles that differ in the order of people alone practically never meet
Claim = list[Any]


class Adapter(DrawnOrRead):
    """`people`: fewest and most, 2 to 8; `depth` of claims: 1 joins plain facts, 2 joins claims of depth 1; `rows`: local data.

    Plain facts alone (depth 0) never have exactly one solution: with everyone's kind reversed they fit as well.
    """

    people: tuple[int, int]
    depth: Annotated[int, Field(ge=1, le=2)]

    @model_validator(mode="after")
    def _is_possible(self) -> Adapter:
        if not 2 <= self.people[0] <= self.people[1] <= 8:
            raise ValueError(f"people = {list(self.people)}, but fewest and most are needed, from 2 to 8")
        return self

    def draw(self, rng: random.Random) -> Draft | None:
        count = rng.randint(*self.people)
        claims = [random_claim(speaker, count, self.depth, rng) for speaker in range(count)]
        worlds = solutions(claims)
        if len(worlds) != 1:
            return None
        names = rng.sample(NAMES, count)
        kinds = ["knight" if is_knight else "knave" for is_knight in worlds[0]]
        said = [
            f"{name} {rng.choice(VERBS)}: “{_sentence(spoken(claim, names))}”" for name, claim in zip(names, claims, strict=True)
        ]
        return Draft(
            f"On an island, knights only say what is true and knaves only say what is false; everyone is one or the other. "
            f"You meet {_listed(names)}.\n\n" + "\n".join(said) + "\n\nWho is a knight and who is a knave?",
            dict(zip(names, kinds, strict=True)),
            content=canonical(claims),
            metadata={"names": names, "statements": claims},
        )

    def read(self, row: Mapping[str, JSON]) -> Draft:
        """Rows with the roles as `answer`, and `names` and `statements` in `meta`."""
        meta = row["meta"]
        return Draft(row["prompt"], row["answer"], metadata={"names": meta["names"], "statements": meta["statements"]})

    def demonstrate(self, problem: Problem, rng: random.Random) -> str:
        return self.gold_response(problem)

    def gold_response(self, problem: Problem) -> str:
        worked = "\n".join(reasoning(problem.metadata["statements"], problem.metadata["names"]))
        kinds = "\n".join(f"{name}: {kind}" for name, kind in problem.answer.items())
        return f"<think>\n{worked}\n</think>\n<answer>\n{kinds}\n</answer>"


def random_claim(speaker: int, count: int, depth: int, rng: random.Random) -> Claim:
    if depth == 0 or rng.random() < 0.25:
        other = rng.choice([person for person in range(count) if person != speaker])
        return [rng.choice(("knight", "knave")), other]
    if rng.random() < 0.1:
        return ["not", random_claim(speaker, count, depth - 1, rng)]
    parts = [_part(count, depth - 1, rng), _part(count, depth - 1, rng)]
    # "A and A" says no more than "A".
    return [rng.choice(PAIRS), *parts] if parts[0][1:] != parts[1][1:] else parts[0]


def _part(count: int, depth: int, rng: random.Random) -> Claim:
    speaker = rng.randrange(count)  # parts of a claim may speak of the speaker too
    if depth == 0:
        return [rng.choice(("knight", "knave")), speaker]
    return random_claim(speaker, count, depth, rng)


def holds(claim: Claim, world: Sequence[bool]) -> bool:
    """Whether a claim is true where `world[i]` says that person i is a knight."""
    match claim:
        case ["knight", person]:
            return world[person]
        case ["knave", person]:
            return not world[person]
        case ["not", part]:
            return not holds(part, world)
        case ["and", left, right]:
            return holds(left, world) and holds(right, world)
        case ["or", left, right]:
            return holds(left, world) or holds(right, world)
        case ["if", left, right]:
            return not holds(left, world) or holds(right, world)
        case ["iff", left, right]:
            return holds(left, world) == holds(right, world)
    raise ValueError(f"unknown claim {claim!r}")


def solutions(claims: Sequence[Claim]) -> list[tuple[bool, ...]]:
    """All worlds in which exactly the knights' claims are true."""
    worlds = itertools.product((True, False), repeat=len(claims))
    return [world for world in worlds if all(holds(claim, world) == world[i] for i, claim in enumerate(claims))]


def canonical(claims: Sequence[Claim]) -> str:
    """The same text for puzzles that differ in the order of people, or in the order of what "and", "or" and "iff" join."""
    orders = itertools.permutations(range(len(claims))) if len(claims) <= MAX_CANONICAL else [tuple(range(len(claims)))]
    return min(str([_ordered(claims[person], order) for person in order]) for order in orders)


def _ordered(claim: Claim, order: Sequence[int]) -> Claim:
    kind, *parts = claim
    if kind in ("knight", "knave"):
        return [kind, order.index(parts[0])]
    parts = [_ordered(part, order) for part in parts]
    return [kind, *(parts if kind in ("not", "if") else sorted(parts, key=str))]


def spoken(claim: Claim, names: Sequence[str]) -> str:
    match claim:
        case ["knight" | "knave" as kind, person]:
            return f"{names[person]} is a {kind}"
        case ["not", part]:
            return f"it is not true that {_inside(part, names)}"
        case ["and", left, right]:
            return f"{_inside(left, names)} and {_inside(right, names)}"
        case ["or", left, right]:
            return f"{_inside(left, names)} or {_inside(right, names)}, or both"
        case ["if", left, right]:
            return f"if {_inside(left, names)}, then {_inside(right, names)}"
        case ["iff", left, right]:
            return f"{_inside(left, names)} if and only if {_inside(right, names)}"
    raise ValueError(f"unknown claim {claim!r}")


def _inside(claim: Claim, names: Sequence[str]) -> str:
    text = spoken(claim, names)
    return text if claim[0] in ("knight", "knave") else f"({text})"


def reasoning(claims: Sequence[Claim], names: Sequence[str]) -> list[str]:
    """A search that supposes a kind for one person after another and turns back at the first contradiction."""
    lines: list[str] = []
    people = [people_in(claim) | {speaker} for speaker, claim in enumerate(claims)]

    def suppose(world: tuple[bool, ...]) -> bool:
        if len(world) == len(claims):
            return True
        person = len(world)
        for is_knight in (True, False):
            trial = (*world, is_knight)
            lines.append(f"Suppose {names[person]} is a {'knight' if is_knight else 'knave'}.")
            decided = [i for i in range(len(claims)) if max(people[i]) == person]
            wrong = next((i for i in decided if holds(claims[i], trial) != trial[i]), None)
            if wrong is not None:
                truth, kind = ("true", "knave") if holds(claims[wrong], trial) else ("false", "knight")
                lines.append(f"Then what {names[wrong]} says is {truth}, but {names[wrong]} is a {kind}: contradiction.")
            elif suppose(trial):
                return True
        if world:
            lines.append(f"Neither kind fits {names[person]}, so I go back.")
        return False

    suppose(())
    lines.append("Everything that was said agrees with this.")
    return lines


def people_in(claim: Claim) -> set[int]:
    kind, *parts = claim
    return {parts[0]} if kind in ("knight", "knave") else set().union(*(people_in(part) for part in parts))


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."


def _listed(names: Sequence[str]) -> str:
    return f"{', '.join(names[:-1])} and {names[-1]}"
