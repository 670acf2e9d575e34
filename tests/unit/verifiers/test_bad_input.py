"""What nobody should feed to a verifier, through the grader and through `rlvr verify`: a verdict or a plain error, always."""

from __future__ import annotations

import asyncio
import json
import math
from pathlib import Path
from typing import Any

import pytest

from rlvr.cli.main import main
from rlvr.registry import resolve
from rlvr.types import Message, Outcome, Problem, Rollout, Verdict
from rlvr.verifiers.runner import Grader, WeightedVerifier

pytestmark = pytest.mark.processes

MISBEHAVING = f"{Path(__file__).parent / 'plugins' / 'misbehaving.py'}:misbehaving"
WITH_GOLD = ("math", "number", "exact", "choice", "countdown", "knights_knaves", "linear_equations")
UNREADABLE: tuple[Any, ...] = (None, True, math.nan, math.inf, "", " ", [], {}, ["5", None], {"a": {"b": 1}}, [[[]]])


def grade(name: str, answers: list[Any], response: str = "<answer>5</answer>", **limits: Any) -> list[Verdict]:
    rollouts = [
        Rollout.from_response(Problem(str(i), (Message("user", "?"),), answer), response) for i, answer in enumerate(answers)
    ]

    async def run() -> None:
        async with Grader([WeightedVerifier(name)], timeout_s=30.0, **limits) as grader:
            for rollout in rollouts:
                await grader.grade(rollout)

    asyncio.run(run())
    return [next(iter(rollout.verdicts.values())) for rollout in rollouts]


@pytest.mark.parametrize("name", WITH_GOLD)
def test_a_gold_answer_that_cannot_be_read_is_our_error_and_never_a_free_reward(name: str) -> None:
    for answer, verdict in zip(UNREADABLE, grade(name, list(UNREADABLE)), strict=True):
        assert verdict.outcome is not Outcome.CORRECT, answer
        assert verdict.reason, answer
    broken = grade(name, [None, [], {}, ""])
    assert [verdict.outcome for verdict in broken] == [Outcome.VERIFIER_ERROR] * 4
    assert [verdict.score for verdict in broken] == [None] * 4


@pytest.mark.parametrize("name", WITH_GOLD)
def test_a_gold_answer_of_bytes_or_objects_is_our_error(name: str) -> None:
    assert {verdict.outcome for verdict in grade(name, [b"5", object(), {5}])} == {Outcome.VERIFIER_ERROR}


@pytest.mark.parametrize("name", ["math", "number", "exact", "format"])
@pytest.mark.parametrize(
    "response", ["\ud800\udfff<answer>\ud800</answer>", "\x00" * 100, "<answer>nan</answer>", "\ufeff\u202e", "5" * 3_000_000]
)
def test_strange_and_large_responses_get_a_verdict(name: str, response: str) -> None:
    (verdict,) = grade(name, ["5"], response)
    assert verdict.outcome in (Outcome.INCORRECT, Outcome.UNPARSED)
    assert verdict.reason
    assert len(verdict.extracted or "") < 50_000


def test_a_response_of_ten_megabytes_is_refused_by_its_size() -> None:
    (verdict,) = grade("math", ["5"], "\\boxed{5}" + "x" * 10_000_000)
    assert verdict.outcome is Outcome.UNPARSED
    assert "characters" in verdict.reason


def test_a_response_that_is_no_text_is_our_error_not_the_models() -> None:
    for response in (b"5", 5, None, ["5"], math.nan):
        for name in ("number", "math"):
            (verdict,) = grade(name, ["5"], response)  # type: ignore[arg-type]
            assert verdict.outcome is Outcome.VERIFIER_ERROR, response
            assert "not text" in verdict.reason


def test_a_plugin_that_leaks_memory_is_stopped_and_replaced(tmp_path: Path) -> None:
    plugin = tmp_path / "leaky.py"
    plugin.write_text(
        "import os\nfrom rlvr import Verdict, verifier\n\nkept = []\n\n@verifier('leaky')\ndef leaky(problem, rollout):\n"
        "    kept.append(bytearray(100 * 2**20))\n    return Verdict.correct(str(os.getpid()))\n"
    )
    verdicts = grade(f"{plugin}:leaky", ["5"] * 20, workers=1, memory_mb=600, retries=1)
    assert [verdict.outcome for verdict in verdicts] == [
        Outcome.CORRECT
    ] * 20  # a full worker dies, and its rollout is tried again
    assert len({verdict.extracted for verdict in verdicts}) > 1


@pytest.mark.parametrize("command", ["raise", "print", "fork", "exit", "hog", "segfault", "no verdict", "odd details"])
def test_a_plugin_that_misbehaves_costs_one_line_of_rlvr_verify(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "in.jsonl"
    file.write_text(
        "".join(json.dumps({"id": i, "answer": 5, "response": text}) + "\n" for i, text in enumerate(("ok", command, "ok")))
    )
    assert main(["verify", MISBEHAVING, str(file), "--workers", "1"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["id"] for line in lines] == [0, 1, 2]
    fine = "correct" if command in ("print", "fork") else "verifier_error"
    assert [line["outcome"] for line in lines] == ["correct", fine, "correct"]
    assert lines[1]["score"] is (None if fine == "verifier_error" else lines[1]["score"])


def test_answers_of_any_json_reach_the_verifier_of_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    answers = ["NaN", "Infinity", "null", "[1, [2]]", '{"a": {"b": []}}', '"\\ud800"', "1e400", "123456789012345678901234567890"]
    file = tmp_path / "in.jsonl"
    file.write_text("".join(f'{{"id": {i}, "answer": {text}, "response": "5"}}\n' for i, text in enumerate(answers)))
    assert main(["verify", "number", str(file)]) == 0
    outcomes = [json.loads(line)["outcome"] for line in capsys.readouterr().out.splitlines()]
    assert outcomes == ["verifier_error"] * 7 + ["incorrect"]


def test_every_built_in_of_this_list_is_installed() -> None:
    assert all(resolve("verifiers", name).name == name for name in WITH_GOLD)
