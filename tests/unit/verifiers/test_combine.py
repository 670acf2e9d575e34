from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import Any

import pytest

from rlvr.config import VerifierConfig
from rlvr.errors import ConfigError, PluginError
from rlvr.types import JSON, Outcome, Problem, Rollout, Verdict
from rlvr.verifiers.runner import Grader, WeightedVerifier

FORMATTED = "<think>two and two</think><answer>4</answer>"


PARTS = Path(__file__).parent / "plugins" / "nested_parts.py"
SLOW = f"{PARTS.with_name('blaming.py')}:slow"
QUICK = f"{PARTS.with_name('blaming.py')}:quick"


def run(name: str, response: str, settings: dict[str, Any], *, answer: JSON = "4", timeout_s: float = 20.0) -> Verdict:
    async def graded() -> Verdict:
        rollout = Rollout.from_response(Problem("p", (), answer), response)
        async with Grader([WeightedVerifier(name, 1.0, settings)], workers=1, timeout_s=timeout_s) as grader:
            await grader.grade(rollout)
        return rollout.verdicts[name]

    return asyncio.run(graded())


def test_no_correctness_reward_without_the_format() -> None:
    settings = {"of": "number", "requires": ["format"]}
    assert run("gate", FORMATTED, settings).score == 1.0
    verdict = run("gate", "4", settings)
    assert verdict.score == 0.0
    assert verdict.reason.startswith("format is required: <think> occurs 0 times")
    assert [part["name"] for part in verdict.details["parts"]] == ["format"], "the gated part is not even asked"


def test_the_breakdown_names_every_part_with_version_and_score() -> None:
    verdict = run("weighted", "4", {"of": [{"name": "number", "weight": 3.0}, "format"]})
    assert [(part["name"], part["score"], part["version"]) for part in verdict.details["parts"]] == [
        ("number", 1.0, "1"),
        ("format", 0.0, "1"),
    ]
    assert verdict.score == 0.75
    json.dumps(dict(verdict.details))


def test_combinations_nest_and_show_their_parts() -> None:
    inner = {"name": "all_of", "args": {"of": ["number", "format"]}}
    verdict = run("max", "4", {"of": [inner, f"{PARTS}:half_sure"]})
    assert verdict.score == 0.5
    assert [part["name"] for part in verdict.details["parts"][0]["parts"]] == ["number", "format"]


def test_parts_in_this_process_stay_and_isolated_parts_go_to_a_worker() -> None:
    cheap = Grader([WeightedVerifier("gate", 1.0, {"of": "number", "requires": ["format"]})])
    assert not cheap.has_isolated
    settings = {"of": f"{PARTS}:tells_process", "requires": [{"name": "max", "args": {"of": ["format"]}}]}
    assert Grader([WeightedVerifier("gate", 1.0, settings)]).has_isolated
    verdict = run("gate", FORMATTED, settings)
    assert verdict.outcome is Outcome.CORRECT
    assert verdict.extracted != str(os.getpid())


def test_a_part_that_hangs_is_killed_and_the_others_keep_their_verdicts() -> None:
    verdict = run("all_of", FORMATTED, {"of": ["format", f"{PARTS}:never_ends"]}, timeout_s=0.5)
    assert verdict.outcome is Outcome.VERIFIER_ERROR
    assert "longer than 0.5 s" in verdict.reason
    assert [part["outcome"] for part in verdict.details["parts"]] == ["correct", "verifier_error"]


@pytest.mark.parametrize(
    ("name", "settings", "score"),
    [
        ("gate", {"of": SLOW, "requires": ["number"]}, 0.0),
        ("max", {"of": [SLOW, "number"]}, 1.0),
        ("all_of", {"of": ["number", SLOW]}, 0.0),
        ("weighted", {"of": [{"name": SLOW, "weight": 3.0}, "number"]}, 0.25),
        ("route", {"to": {"unknown": "number"}, "default": SLOW}, 0.0),
        ("max", {"of": [{"name": "gate", "args": {"of": SLOW, "requires": ["number"]}}, "number"]}, 1.0),
    ],
)
def test_a_part_whose_probe_blames_the_response_is_incorrect_and_the_rest_counts(
    name: str, settings: dict[str, Any], score: float
) -> None:
    verdict = run(name, "slow <answer>4</answer>", settings, timeout_s=0.5)
    assert verdict.score == score
    assert "takes too long" in json.dumps(verdict.details["parts"])


def test_a_part_whose_probe_blames_the_gold_answer_fails() -> None:
    verdict = run("weighted", "slow", {"of": [SLOW, "exact"]}, answer="slow", timeout_s=0.5)
    assert verdict.outcome is Outcome.VERIFIER_ERROR
    assert "longer than 0.5 s" in verdict.reason


def test_what_every_part_finds_quickly_needs_no_worker() -> None:
    async def graded(response: str) -> tuple[Verdict, bool]:
        rollout = Rollout.from_response(Problem("p", (), "4"), response)
        settings = {"of": QUICK, "requires": [{"name": "max", "args": {"of": [QUICK, "exact"]}}]}
        async with Grader([WeightedVerifier("gate", 1.0, settings)], workers=1) as grader:
            await grader.grade(rollout)
            return rollout.verdicts["gate"], grader._pool is not None

    verdict, needed_worker = asyncio.run(graded("4"))
    assert (verdict.score, needed_worker) == (1.0, False)
    verdict, needed_worker = asyncio.run(graded("5"))
    assert (verdict.score, needed_worker) == (0.0, True)


def test_a_combination_called_as_a_function_gives_the_same_verdict() -> None:
    from rlvr.verifiers.combine import weighted

    settings: dict[str, Any] = {"of": [{"name": "number", "weight": 3.0}, "format"]}
    problem = Problem("p", (), "4")
    called, graded = weighted(problem, Rollout.from_response(problem, "4"), **settings), run("weighted", "4", settings)
    assert (called.outcome, called.score, called.reason, called.details) == (
        graded.outcome,
        graded.score,
        graded.reason,
        graded.details,
    )


def test_a_failing_part_is_our_fault_unless_the_score_is_settled_without_it() -> None:
    words = {"of": ["number", "exact"]}  # 'number' fails on a gold answer in words
    assert run("max", "<answer>cat</answer>", words, answer="cat").score == 1.0
    assert run("max", "<answer>dog</answer>", words, answer="cat").score is None
    assert run("all_of", "<answer>dog</answer>", words, answer="cat").score == 0.0
    assert run("all_of", "<answer>cat</answer>", words, answer="cat").score is None
    assert run("weighted", "<answer>cat</answer>", words, answer="cat").score is None


@pytest.mark.parametrize(
    ("name", "settings", "complaint"),
    [
        ("gate", {"of": "numbr", "requires": ["format"]}, "numbr"),
        ("gate", {"of": {"name": "number", "args": {"tolernce": 1}}, "requires": ["format"]}, "tolernce"),
        ("gate", {"of": "number", "requires": []}, "at least one"),
        ("gate", {"of": {"nam": "number"}, "requires": ["format"]}, "'nam'"),
        ("max", {"of": []}, "at least one"),
        ("weighted", {"of": [{"name": "number", "weight": 0}]}, "positive"),
        ("route", {"to": {}}, "at least one"),
        ("gate", {"of": "number"}, "requires"),
    ],
)
def test_what_is_wrong_in_a_part_is_said_before_anything_is_graded(name: str, settings: dict[str, Any], complaint: str) -> None:
    with pytest.raises((ConfigError, PluginError), match=complaint):
        Grader([WeightedVerifier(name, 1.0, settings)])


def test_endless_nesting_is_refused() -> None:
    part: Any = "format"
    for _ in range(10):
        part = {"name": "max", "args": {"of": [part]}}
    with pytest.raises(ConfigError, match="more than 8 deep"):
        Grader([WeightedVerifier("max", 1.0, part["args"])])


def test_a_combination_is_written_in_toml() -> None:
    import tomllib

    text = """
    name = "route"
    [args]
    key = "kind"
    default = "exact"
    [args.to]
    maths = { name = "gate", args = { of = { name = "number", args = { tolerance = 0.01 } }, requires = ["format"] } }
    """
    config = VerifierConfig.model_validate(tomllib.loads(text))
    problem = Problem("p", (), "4", {"kind": "maths"})
    rollout = Rollout.from_response(problem, FORMATTED.replace("4", "4.001"))
    grader = Grader([WeightedVerifier(config.name, config.weight, config.args)])
    asyncio.run(grader.grade(rollout))
    assert rollout.reward == 1.0
