"""Fifty thousand rollouts: that the answers are right, not how fast they come (`benchmarks/view_speed.py` measures that)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from rlvr.evaluation.ledger import rollout_to_json, write_rollouts
from rlvr.evaluation.view.book import Book
from rlvr.seeding import rng
from rlvr.types import Verdict

from .conftest import make_rollout

STEPS, PER_STEP = 50, 1_000


@dataclass(frozen=True, slots=True)
class Known:
    """What a rollout was written with."""

    step: int
    line: int
    problem: int
    reward: float
    tokens: int
    word: str


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> tuple[Book, list[Known]]:
    folder = tmp_path_factory.mktemp("many")
    draw = rng("many", 0)
    written: list[Known] = []

    def rows(step: int) -> Iterator[dict[str, Any]]:
        template = rollout_to_json(make_rollout(verdict=Verdict.partial(0.5)), step=step)
        for line in range(PER_STEP):
            known = Known(
                step, line, draw.randrange(500), draw.randrange(11) / 10, draw.randrange(40), f"w{draw.randrange(2_000)}z"
            )
            written.append(known)
            row = json.loads(json.dumps(template))
            row["problem"]["id"] = f"p/{known.problem}"
            row["reward"] = known.reward
            row["turns"][0]["completion"] |= {"token_ids": [1] * known.tokens, "logprobs": [-0.5] * known.tokens}
            row["turns"][0]["message"]["content"] = f"the word is {known.word}"
            yield row

    for step in range(1, STEPS + 1):
        write_rollouts(folder / "rollouts" / f"step-{step:06d}.jsonl.gz", rows(step))
    book = Book([folder])
    book.refresh()
    return book, sorted(written, key=lambda one: (-one.step, one.line))


def found(book: Book, **asked: str) -> tuple[int, list[tuple[int, int]]]:
    """(how many, places of the first hundred)."""
    page = book.rollouts(0, asked, 0, 100)
    while page["searched"] < 1:
        page = book.rollouts(0, asked, 0, 100)
    return page["total"], [(row["step"], row["line"]) for row in page["rows"]]


def expected(known: list[Known]) -> tuple[int, list[tuple[int, int]]]:
    return len(known), [(one.step, one.line) for one in known[:100]]


def test_fifty_thousand_rollouts_are_found_by_number_problem_and_text(many: tuple[Book, list[Known]]) -> None:
    book, known = many
    assert found(book) == expected(known)
    assert found(book, reward=">0.7", tokens="5..20") == expected(
        [one for one in known if one.reward > 0.7 and 5 <= one.tokens <= 20]
    )
    assert found(book, problem="p/49") == expected([one for one in known if str(one.problem).startswith("49")])
    assert found(book, text="WORD IS w7z") == expected([one for one in known if one.word == "w7z"])
    by_tokens = sorted((one for one in known if one.step <= 25), key=lambda one: -one.tokens)
    assert found(book, step="<=25", sort="tokens", direction="down") == expected(by_tokens)
    by_problem = sorted(known, key=lambda one: one.problem)
    assert found(book, sort="problem", direction="up") == expected(by_problem)


def test_pages_of_fifty_thousand_rollouts_join_without_gap_or_repeat(many: tuple[Book, list[Known]]) -> None:
    book, known = many
    wanted = sorted((one for one in known if one.reward == 0.5), key=lambda one: one.tokens)
    asked = {"reward": "0.5", "sort": "tokens", "direction": "up"}
    places: list[tuple[int, int]] = []
    for offset in range(0, len(wanted), 500):
        places += [(row["step"], row["line"]) for row in book.rollouts(0, asked, offset, 500)["rows"]]
    assert places == [(one.step, one.line) for one in wanted]
