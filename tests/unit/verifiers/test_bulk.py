"""Lines in, verdict lines out, by chunks: `alone_cpu_s=0` lets the workers begin at once."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Generator, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from rlvr.errors import TaskError
from rlvr.verifiers.bulk import MAX_SENT_CHARS, Graded, grade_lines
from rlvr.verifiers.runner import WeightedVerifier

TWO_WAYS = f"{Path(__file__).parent / 'plugins' / 'two_ways.py'}:two_ways"

pytestmark = pytest.mark.processes


def line(identity: int, response: str, answer: str = "yes") -> str:
    return json.dumps({"id": identity, "answer": answer, "response": response}) + "\n"


def grading(lines: Iterable[str], verifier: str = TWO_WAYS, timeout_s: float = 20.0) -> Generator[Graded, None, None]:
    return grade_lines(lines, "in", WeightedVerifier(verifier), workers=2, timeout_s=timeout_s, alone_cpu_s=0.0)


def rows(graded: Iterable[Graded]) -> list[dict[str, Any]]:
    return [json.loads(text) for one in graded for text in one.text.splitlines()]


def children() -> set[str]:
    found = " ".join(path.read_text() for path in Path("/proc/self/task").glob("*/children")).split()
    commands = {pid: Path(f"/proc/{pid}/cmdline").read_bytes() for pid in found if os.path.exists(f"/proc/{pid}/cmdline")}
    return {pid for pid, command in commands.items() if b"rlvr.verifiers.worker" in command}


def test_what_the_quick_way_leaves_open_takes_its_place_among_the_rest() -> None:
    responses = [("yes", "no", "open", "yes", "open")[number % 5] for number in range(2_000)]
    found = rows(grading(line(*item) for item in enumerate(responses)))
    assert [row["id"] for row in found] == list(range(2_000))
    assert [row["reason"] for row in found] == ["worker" if response == "open" else "quick" for response in responses]
    assert [row["outcome"] for row in found] == ["correct" if response == "yes" else "incorrect" for response in responses]


def test_counts_and_causes_are_those_of_the_lines() -> None:
    graded = list(grading([line(0, "yes"), line(1, "open for ever"), line(2, "no"), line(3, "open")], timeout_s=0.5))
    counts = [one.outcomes for one in graded]
    assert {key: sum(count.get(key, 0) for count in counts) for key in ("correct", "incorrect", "verifier_error")} == {
        "correct": 1,
        "incorrect": 2,
        "verifier_error": 1,
    }
    assert [one.cause for one in graded if one.cause] == ["verifier 'two_ways' took longer than 0.5 s and was killed"]


def test_a_quick_way_that_ends_its_process_costs_no_verdict() -> None:
    found = rows(grading([line(0, "yes"), line(1, "exit"), line(2, "no"), "\n", line(3, "yes")]))
    assert [row["id"] for row in found] == [0, 1, 2, 3]
    assert found[1]["reason"] == "worker"


def test_a_line_from_a_pipe_is_graded_before_the_next_one_comes() -> None:
    answered = threading.Semaphore(0)

    def conversation() -> Iterator[str]:
        for number in range(5):
            yield line(number, "open" if number % 2 else "yes")
            assert answered.acquire(timeout=60)

    seen: list[int] = []
    for one in grading(conversation()):
        for row in rows([one]):
            seen.append(row["id"])
            answered.release()
    assert seen == [0, 1, 2, 3, 4]


def test_a_bad_line_is_named_after_the_verdicts_before_it() -> None:
    graded = grading([line(0, "yes"), line(1, "open"), "\n", '{"id": 2}\n', line(3, "yes")])
    found: list[Graded] = []
    with pytest.raises(TaskError, match="in:4 has no 'answer'"):
        found.extend(graded)
    assert [row["id"] for row in rows(found)] == [0, 1]


def test_a_response_that_is_too_long_to_send_is_settled_here() -> None:
    found = rows(grading([line(0, "x" * MAX_SENT_CHARS), line(1, "yes")]))
    assert [row["outcome"] for row in found] == ["unparsed", "correct"]


def test_whoever_stops_early_leaves_no_worker_behind() -> None:
    before = children()

    def endless() -> Iterator[str]:
        number = 0
        while True:
            yield line(number, "open" if number % 100 == 0 else "yes")
            number += 1

    graded = grading(endless())
    next(graded)
    assert children() - before
    graded.close()
    assert not children() - before


def test_math_agrees_with_itself_in_chunks_and_alone() -> None:
    pairs = [("\\frac{1}{2}", "0.5"), ("x^2-1", "(x-1)(x+1)"), ("\\sqrt{2}", "1.5"), ("\\int_0^1 x dx", "1/2"), ("7", "none")]
    lines = [line(number, f"\\boxed{{{answer}}}", gold) for number, (gold, answer) in enumerate(pairs * 20)]
    alone = grade_lines(lines, "in", WeightedVerifier("math"), workers=1, timeout_s=20.0)
    said = [[(row["id"], row["outcome"], row["reason"]) for row in rows(found)] for found in (alone, grading(lines, "math"))]
    assert said[0] == said[1]
    assert {outcome for _, outcome, _ in said[0]} >= {"correct", "incorrect"}
