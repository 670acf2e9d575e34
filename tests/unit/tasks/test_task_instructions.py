from __future__ import annotations

import asyncio
import os
from typing import Any

import pytest

from rlvr.envs.tasks import Draft, load_task
from rlvr.envs.tasks.adapter import RowReader
from rlvr.envs.validate import validate
from rlvr.errors import TaskError

needs_data = pytest.mark.skipif(not os.environ.get("RLVR_DATA"), reason="RLVR_DATA names no folder with data")
COMMA = {"id": "punctuation:no_comma", "kwargs": {}}


def read(name: str, row: dict[str, Any]) -> Draft | None:
    adapter = load_task(name).adapter
    assert isinstance(adapter, RowReader)
    return adapter.read(row)


@pytest.mark.parametrize("name", ["ifeval", "ifbench"])
def test_rows_of_the_hub_and_of_files_are_read(name: str) -> None:
    hub = {"key": 7, "prompt": "p", "instruction_id_list": ["punctuation:no_comma"], "kwargs": [{"n": None}]}
    answer = {"instruction_id_list": ["punctuation:no_comma"], "kwargs": [{"n": None}]}
    assert read(name, hub) == Draft("p", answer, id=f"{name}/7")
    assert read(name, {"id": "a", "prompt": "p", "constraints": [COMMA]}) == Draft("p", {"constraints": [COMMA]}, id="a")


def test_generated_problems_pass_their_own_responses() -> None:
    reports = asyncio.run(validate(load_task("if_synth"), limit=40))
    assert [(report.problems, report.findings, report.without_gold) for report in reports] == [(40, (), 0)] * 2


def test_generated_problems_are_the_same_in_every_process_and_in_one_split() -> None:
    first, again = load_task("if_synth"), load_task("if_synth")
    train, test = first.problems("train", limit=60), first.problems("test", limit=30)
    assert train == again.problems("train", limit=80)[:60]
    assert not {problem.prompt for problem in train} & {problem.prompt for problem in test}
    assert all(1 <= len(problem.answer["constraints"]) <= 4 for problem in train)


def test_generated_problems_take_only_the_kinds_asked_for() -> None:
    task = load_task("if_synth", {"kinds": ["punctuation:no_comma", "startend:quotation"], "constraints": [2, 2]})
    for problem in task.problems("train", limit=10):
        assert {entry["id"] for entry in problem.answer["constraints"]} == {"punctuation:no_comma", "startend:quotation"}


@pytest.mark.parametrize("args", [{"constraints": [0, 2]}, {"constraints": [3, 2]}, {"kinds": ["count:numbers"]}])
def test_impossible_arguments_are_refused(args: dict[str, Any]) -> None:
    with pytest.raises(TaskError):
        load_task("if_synth", args)


@needs_data
def test_ifeval_validates_and_says_for_how_many_prompts_no_response_is_known() -> None:
    (report,) = asyncio.run(validate(load_task("ifeval"), limit=60))
    assert report.findings == ()
    assert report.without_gold < 10
