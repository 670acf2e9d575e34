from __future__ import annotations

from typing import Any

import pytest

from rlvr.evaluation.health.rules import HeldOut, History
from rlvr.evaluation.health.settings import BUILT_IN, build_rule


def row(step: int, **values: float) -> dict[str, float]:
    usual = {
        "reward_mean": 0.5, "correct_share": 0.5, "tokens_mean": 100.0, "entropy": 0.5, "clip_share": 0.01, "policy_kl": 0.001,
        "ref_kl": 0.05, "truncated_share": 0.02, "repetition_share": 0.0, "mixed_script_share": 0.0, "form_only_share": 0.1,
        "groups": 8.0, "groups_without_signal": 2.0, "second_refused_share": 0.0, "sampling_kl": 0.0001,
    }  # fmt: skip
    return {"step": float(step), **usual, **values}


def changed(before: dict[str, float], after: dict[str, float], *, steps: int = 30) -> History:
    """A run that is `before` for its first half and `after` from then on."""
    return History([row(step, **(before if step <= steps // 2 else after)) for step in range(1, steps + 1)])


def climbing(held_out: tuple[float, float]) -> History:
    """Reward rises from 0.2 to 0.8; held-out pass@1 is measured before and after."""
    rows = [row(step, reward_mean=0.2 + 0.6 * step / 30) for step in range(1, 31)]
    return History(rows, [HeldOut(step, mean, mean - 0.05, mean + 0.05) for step, mean in zip((0, 30), held_out, strict=True)])


# rule -> (a run in which it speaks, a word of what it says, a run like it in which it must not)
CASES: dict[str, tuple[History, str, History]] = {
    "reward_without_gain": (climbing((0.4, 0.41)), "not the task", climbing((0.4, 0.7))),
    "length_blowup": (
        changed({"tokens_mean": 100}, {"tokens_mean": 300}), "from 100 to 300 tokens",
        changed({"tokens_mean": 100, "correct_share": 0.3}, {"tokens_mean": 300, "correct_share": 0.6}),
    ),
    "entropy_collapse": (
        changed({"entropy": 0.5}, {"entropy": 0.01}), "stopped exploring",
        changed({"entropy": 0.5}, {"entropy": 0.01, "correct_share": 0.99}),
    ),
    "clipped_tokens": (changed({}, {"clip_share": 0.3}), "30.0% of the tokens", changed({}, {"clip_share": 0.15})),
    "policy_kl": (changed({}, {"policy_kl": 0.2}), "0.2 nats", changed({}, {"policy_kl": 0.05})),
    "reference_kl": (changed({}, {"ref_kl": 2.0}), "2 nats", changed({}, {"ref_kl": 0.5})),
    "truncation": (
        changed({}, {"truncated_share": 0.4}), "cut at the limit",
        changed({"truncated_share": 0.4}, {"truncated_share": 0.4}),  # always so: the limit was chosen
    ),
    "repetition": (changed({}, {"repetition_share": 0.3}), "repeat themselves", changed({}, {"repetition_share": 0.1})),
    "mixed_language": (
        changed({}, {"mixed_script_share": 0.2}), "mix scripts",
        changed({"mixed_script_share": 0.2}, {"mixed_script_share": 0.2}),  # the task's own language does
    ),
    "form_only": (changed({}, {"form_only_share": 0.7}), "form alone", changed({}, {"form_only_share": 0.3})),
    "no_gradient": (changed({}, {"groups_without_signal": 7}), "87.5% of the groups", changed({}, {"groups_without_signal": 5})),
    "second_opinion": (changed({}, {"second_refused_share": 0.25}), "refuses 25.0%", changed({}, {"second_refused_share": 0.05})),
    "mismatch": (changed({}, {"sampling_kl": 0.05}), "disagree by 0.05", changed({}, {"sampling_kl": 0.001})),
}  # fmt: skip


def test_every_rule_has_a_run_in_which_it_speaks_and_one_in_which_it_does_not() -> None:
    assert set(CASES) == set(BUILT_IN)


@pytest.mark.parametrize("name", CASES)
def test_a_rule_speaks_when_it_should(name: str) -> None:
    history, word, _ = CASES[name]
    said = build_rule(name, {}).check(history)
    assert said is not None
    assert word in said


@pytest.mark.parametrize("name", CASES)
def test_a_rule_is_silent_where_nothing_is_wrong(name: str) -> None:
    assert build_rule(name, {}).check(CASES[name][2]) is None


@pytest.mark.parametrize("name", CASES)
def test_one_odd_step_says_nothing(name: str) -> None:
    healthy = changed({}, {})
    odd: dict[str, Any] = dict(CASES[name][0].rows[-1])
    assert build_rule(name, {}).check(History([*healthy.rows[:-1], odd], healthy.held_out)) is None


@pytest.mark.parametrize("name", CASES)
def test_a_metric_that_was_not_written_says_nothing(name: str) -> None:
    assert build_rule(name, {}).check(History([{"step": float(step)} for step in range(1, 31)])) is None
    assert build_rule(name, {}).check(History([])) is None


def test_thresholds_are_data() -> None:
    history = changed({}, {"clip_share": 0.15})
    assert build_rule("clipped_tokens", {"limit": 0.1}).check(history) is not None
