from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rlvr.errors import ConfigError, PluginError
from rlvr.evaluation.health.check import check_health_rule
from rlvr.evaluation.health.rules import History
from rlvr.evaluation.health.settings import BUILT_IN, health_settings
from rlvr.evaluation.health.signals import signals
from rlvr.evaluation.health.watch import Watch, replayed, stored_findings
from rlvr.evaluation.report.run import write_report
from rlvr.registry import register
from rlvr.types import Completion, FinishReason, Message, Problem, Rollout, Stop, Turn, Verdict

EVIDENCE = {"clip_share": ("step 9: p #1",)}


def row(step: int, clipped: float) -> dict[str, float]:
    return {"step": float(step), "clip_share": clipped}


def rollout(text: str, index: int = 0, *, problem: str = "p", **verdicts: Verdict) -> Rollout:
    turn = Turn((1,), Completion((5,), (-0.5,), FinishReason.STOP), Message("assistant", text))
    return Rollout(Problem(problem, (Message("user", "?"),), "7"), index, [turn], Stop.STOP, verdicts, reward=1.0)


def test_a_rule_speaks_once_and_again_only_after_it_was_silent() -> None:
    watch = Watch(health_settings({"clipped_tokens": {"window": 2}}), History([]))
    said = [
        bool(watch.step(row(step, value), EVIDENCE)) for step, value in enumerate([0, 0.5, 0.5, 0.5, 0, 0, 0.5, 0.5], start=1)
    ]
    assert said == [False, True, False, False, False, False, True, False]


def test_a_finding_names_the_rollouts_that_show_it_and_whether_it_ends_the_run() -> None:
    settings = health_settings({"clipped_tokens": {"window": 1}, "stop": "clipped_tokens"})
    (found,) = Watch(settings, History([])).step(row(9, 0.5), EVIDENCE)
    assert (found.rule, found.step, found.rollouts, found.stops) == ("clipped_tokens", 9, ("step 9: p #1",), True)
    assert "step 9: p #1" in found.sentence


def test_a_resumed_run_does_not_say_everything_again() -> None:
    settings = health_settings({"clipped_tokens": {"window": 2}})
    watch = Watch(settings, History([row(1, 0.5), row(2, 0.5)]))
    assert watch.holding == ("clipped_tokens",)
    assert watch.step(row(3, 0.5), EVIDENCE) == []


def test_a_rule_that_is_off_says_nothing() -> None:
    watch = Watch(health_settings({"clipped_tokens": False}), History([]))
    assert [watch.step(row(step, 1.0), {}) for step in range(1, 30)] == [[]] * 29


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"lenght_blowup": {}}, "did you mean 'length_blowup'"),
        ({"clipped_tokens": {"limits": 1}}, "did you mean 'limit'"),
        ({"clipped_tokens": {"limit": "high"}}, "a number, 0 or more"),
        ({"clipped_tokens": {"window": 0}}, "a number of steps"),
        ({"clipped_tokens": 3}, "a table of thresholds, or false"),
        ({"stop": ["nothing"]}, "no rule that is on"),
        ({"stop": ["repetition"], "repetition": False}, "no rule that is on"),
        ({"second": {"args": {}}}, "a verifier's name"),
        ({"sample": 0}, "health.sample = 0"),
    ],
)
def test_a_section_that_is_wrong_is_refused_with_what_would_be_right(section: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        health_settings(section)


def test_rollouts_that_loop_or_mix_scripts_are_named() -> None:
    loop = rollout("the answer is seven because " * 30, 1)
    mixed = rollout(
        "first we add the two numbers up \u7136\u540e\u6211\u4eec\u518d\u628a\u5b83\u4eec\u76f8\u4e58 and then we are done", 2
    )
    found = signals([rollout("seven", 0), loop, mixed, rollout("the angle \u03b1 is seven", 3)], step=4)
    assert found.values == {"repetition_share": 0.25, "mixed_script_share": 0.25}
    assert found.evidence["repetition_share"] == ("step 4: p #1",)
    assert found.evidence["mixed_script_share"] == ("step 4: p #2",)


def test_reward_that_comes_from_form_alone_is_told_from_reward_for_the_answer() -> None:
    form, right = (
        rollout("x", 0, math=Verdict.incorrect("8"), format=Verdict.correct()),
        rollout("y", 1, math=Verdict.correct("7")),
    )
    wrong = rollout("z", 2, math=Verdict.incorrect("8"), format=Verdict.incorrect())
    found = signals([form, right, wrong], step=1, form=["format"])
    assert found.values["form_only_share"] == 0.5  # of the two that earn something
    assert found.evidence["form_only_share"] == ("step 1: p #0",)
    assert "form_only_share" not in signals([form, right], step=1).values


def test_the_report_shows_what_the_rules_said(tmp_path: Path) -> None:
    said = {"rule": "clipped_tokens", "words": "50% of <tokens> are clipped", "rollouts": ["step 2: p #1"], "stops": True}
    rows = [{"step": 1, "clip_share": 0.5}, {"step": 2, "clip_share": 0.5, "health": [said]}]
    text = "".join(json.dumps(one) + "\n" for one in rows) + '{"step": 3, "heal'
    (tmp_path / "metrics.jsonl").write_text(text)
    (found,) = stored_findings(tmp_path / "metrics.jsonl")
    assert (found.rule, found.step, found.stops) == ("clipped_tokens", 2, True)
    page = write_report(tmp_path).path.read_text()
    assert "50% of &lt;tokens&gt; are clipped" in page
    assert "step 2: p #1" in page


def test_other_thresholds_can_be_tried_on_a_run_that_is_over() -> None:
    rows = [row(step, 0.15) for step in range(1, 20)]
    assert replayed(health_settings({}), rows, []) == []
    (found,) = replayed(health_settings({"clipped_tokens": {"limit": 0.1, "window": 5}}), rows, [])
    assert found.step == 5


class Raises:
    signal = "clip_share"

    def check(self, history: History) -> str | None:
        return None if len(history.rows) != 2 else str(1 / 0)


def test_a_rule_that_raises_says_so_once_and_stops_neither_the_run_nor_the_other_rules() -> None:
    settings = health_settings({"clipped_tokens": {"window": 1}, "stop": ["clipped_tokens"]})
    settings = replace(settings, rules={"raises": Raises(), **settings.rules}, stop=frozenset({"raises", "clipped_tokens"}))
    watch = Watch(settings, History([]))
    found = [watch.step(row(step, 0.5 if step == 4 else 0.0), EVIDENCE) for step in range(1, 6)]
    assert [[one.rule for one in said] for said in found] == [[], ["raises"], [], ["clipped_tokens"], []]
    (failed,) = found[1]
    assert "ZeroDivisionError" in failed.words
    assert (failed.stops, failed.rollouts) == (False, ())


RULE = '''
from dataclasses import dataclass

@dataclass(frozen=True)
class Quiet:
    """Speaks when the metric is low."""
    limit: float = 1.0
    word: str = "low"
    signal = "reward_mean"

    def check(self, history):
        value = history.last("reward_mean", 1)
        return None if value is None or value >= self.limit else f"{self.word}: {value}"

def policy_kl():
    return Quiet()

def nothing():
    return 7

number = 7
'''


@pytest.fixture
def own(tmp_path: Path) -> str:
    (tmp_path / "own_rules.py").write_text(RULE)
    return str(tmp_path / "own_rules.py")


def test_a_rule_of_a_file_stands_beside_the_built_in_ones_and_may_end_the_run(own: str) -> None:
    settings = health_settings({f"{own}:Quiet": {"limit": 0.5, "word": "down"}, "stop": "Quiet"})
    assert list(settings.rules) == [*BUILT_IN, "Quiet"]
    (found,) = Watch(settings, History([])).step({"step": 1.0, "reward_mean": 0.25}, {})
    assert (found.rule, found.words, found.stops) == ("Quiet", "down: 0.25", True)


@pytest.mark.usefixtures("own_plugins")
def test_an_installed_rule_watches_only_where_it_is_named() -> None:
    @register("health", "always")
    class Always:
        signal = "reward_mean"

        def check(self, history: History) -> str | None:
            return "always"

    assert "always" not in health_settings({}).rules
    assert "always" in health_settings({"always": True}).rules


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"{own}:Quiet": {"limits": 1}}, "did you mean 'limit'"),
        ({"{own}:Quiet": {"limit": "low"}}, "give a number, 0 or more"),
        ({"{own}:policy_kl": True}, "there is a rule 'policy_kl' already"),
        ({"{own}:nothing": True}, "a rule has check"),
        ({"{own}:number": True}, "a class or function that makes a rule"),
        ({"{own}:Quite": True}, "did you mean Quiet"),
        ({"Quiet": True}, "path/file.py:name"),
    ],
)
def test_a_rule_that_cannot_be_had_is_refused_before_a_run(own: str, section: dict[str, Any], message: str) -> None:
    with pytest.raises((ConfigError, PluginError), match=message):
        health_settings({key.replace("{own}", own): value for key, value in section.items()})


SICK, WELL = [{"reward_mean": 0.25}] * 4, [{"reward_mean": 2.0}] * 4


def test_a_rule_that_keeps_the_rules_passes_its_check(own: str) -> None:
    assert check_health_rule(f"{own}:Quiet", sick=SICK, well=WELL) == "low: 0.25"
    assert check_health_rule(f"{own}:Quiet", sick=SICK, well=WELL, thresholds={"word": "down"}) == "down: 0.25"


class Broken:
    signal = "reward_mean"

    def __init__(self) -> None:
        self.count = 0

    def check(self, history: History) -> str | None:
        self.count += 1
        if history.rows and "reward_mean" in history.rows[0]:
            history.rows[0]["seen"] = 1.0  # type: ignore[index]
        return f"{self.count}" if history.rows else str(history.rows[0])


def test_what_a_broken_rule_does_wrong_is_listed() -> None:
    with pytest.raises(AssertionError) as caught:
        check_health_rule(Broken(), sick=SICK, well=WELL)
    said = str(caught.value)
    for wrong in (
        "speaks of the run that is well",
        "raises on a run before its first step",
        "metrics were not written",
        "says something else",
        "changes the rows",
    ):
        assert wrong in said
    with pytest.raises(AssertionError, match="silent about the sick run"):
        check_health_rule("clipped_tokens", sick=WELL, well=WELL)
    with pytest.raises(PluginError, match="is no health rule"):
        check_health_rule(lambda: 7, sick=SICK, well=WELL)  # type: ignore[arg-type, return-value]
