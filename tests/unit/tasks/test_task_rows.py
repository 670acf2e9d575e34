from __future__ import annotations

import os
from typing import Any

import pytest

from rlvr.envs.tasks import Draft, load_task
from rlvr.envs.tasks.adapter import RowReader

needs_data = pytest.mark.skipif(not os.environ.get("RLVR_DATA"), reason="RLVR_DATA names no folder with data")
SCHEMA_ROW: dict[str, Any] = {
    "id": "gsm8k/train/00007",
    "prompt": "How many?",
    "answer": "1200",
    "meta": {"split": "train", "orig": {"answer": "It is <<3*400=1200>>1200.\n#### 1,200"}},
}


def read(name: str, row: dict[str, Any]) -> Draft | None:
    adapter = load_task(name).adapter
    assert isinstance(adapter, RowReader)
    return adapter.read(row)


@pytest.mark.parametrize("row", [SCHEMA_ROW, {"question": "How many?", "answer": "It is <<3*400=1200>>1200.\n#### 1,200"}])
def test_gsm8k_reads_question_answer_and_working(row: dict[str, Any]) -> None:
    assert read("gsm8k", row) == Draft("How many?", "1200", metadata={"working": "It is 1200."})


@pytest.mark.parametrize(
    ("solution", "answer"),
    [
        (r"first \boxed{1}, no: $\boxed{\frac{1}{\sqrt{2}}}$.", r"\frac{1}{\sqrt{2}}"),
        (r"there are $\boxed 7$ ways", "7"),
        (r"thus $\fbox{B}$", "B"),
        (r"never closed \boxed{3", ""),
        ("nothing", ""),
    ],
)
def test_math_answer_is_what_the_solution_boxes_last(solution: str, answer: str) -> None:
    row = {"problem": "p", "solution": solution, "level": "Level 5", "type": "Algebra"}
    details = {"subject": "Algebra", "level": "Level 5", "solution": solution}
    assert read("math", row) == Draft("p", answer, metadata=details)


def test_math_500_rows_bring_their_answer_and_id() -> None:
    row = {"problem": "p", "solution": r"so $\boxed{3.0}$", "answer": "3", "unique_id": "test/algebra/1.json", "level": 2}
    draft = read("math", row)
    assert draft is not None
    assert (draft.answer, draft.id, draft.metadata["level"]) == ("3", "math/test/algebra/1.json", 2)


@pytest.mark.parametrize("answer", [7, "7", "007"])
def test_aime_answers_are_plain_integers(answer: int | str) -> None:
    assert read("aime", {"problem": "p", "answer": answer}) == Draft("p", "7")


@pytest.mark.parametrize(
    ("number", "answer"), [("145.00", "145"), (51.0, "51"), ("0.5", "0.5"), (12000.0, "12000"), (1234567, "1234567")]
)
def test_svamp_joins_body_and_question(number: float | str, answer: str) -> None:
    draft = read("svamp", {"Body": "He had 3 .", "Question": "How many?", "Answer": number, "ID": "chal-9"})
    assert draft == Draft("He had 3. How many?", answer, id="svamp/chal-9")


def test_olympiadbench_reads_hub_rows_and_leaves_out_what_cannot_be_checked() -> None:
    hub = {"id": 1610, "question": "q", "final_answer": [r"$\frac{1}{2}$"], "subfield": "Algebra"}
    assert read("olympiadbench", hub) == Draft("q", r"\frac{1}{2}", id="olympiadbench/1610", metadata={"subfield": "Algebra"})
    assert read("olympiadbench", {"id": "a", "prompt": "q", "answer": "2", "meta": {"auto_verifiable": False}}) is None


@needs_data
def test_gsm8k_rows_are_all_read_and_divided() -> None:
    task = load_task("gsm8k")
    train, test = task.problems("train"), task.problems("test")
    assert len({problem.id for problem in [*train, *test]}) == len(train) + len(test) == 7473
    assert all(problem.answer.lstrip("-").isdigit() for problem in [*train, *test])
    assert all("<<" not in problem.metadata["working"] for problem in train)


@needs_data
def test_gsm8k_demonstrations_end_with_the_boxed_gold() -> None:
    task = load_task("gsm8k")
    for index in range(100):
        shown = task.demonstration("train", index, 0)
        assert shown.response.endswith(f"\\boxed{{{shown.problem.answer}}}.")
