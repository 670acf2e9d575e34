"""The parts of a report that choose and count: what the reward is made of, lengths, and which rollouts are shown."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from rlvr.evaluation.health.watch import Finding
from rlvr.evaluation.ledger import StoredRollout, rollout_to_json, write_rollouts
from rlvr.evaluation.report.charts import paired_histogram
from rlvr.evaluation.report.reward import length_histogram, reward_breakdown
from rlvr.evaluation.report.run import write_report
from rlvr.evaluation.report.samples import ends_of, extremes, most_improved, suspected
from rlvr.evaluation.run_folder import RunFolder
from rlvr.types import Completion, FinishReason, Message, Problem, Rollout, Stop, Turn, Verdict


def rollout(name: str, index: int, reward: float | None, tokens: int, *, right: bool = False) -> Rollout:
    turn = Turn((1,), Completion((5,) * tokens, (-0.5,) * tokens, FinishReason.STOP), Message("assistant", f"{name} {index}"))
    verdict = Verdict.correct("7") if right else Verdict.incorrect("8", "another number")
    return Rollout(Problem(name, (Message("user", "?"),), "7"), index, [turn], Stop.STOP, {"number": verdict}, reward)


def stored(folder: Path, step: int, *rollouts: Rollout) -> None:
    rows = [rollout_to_json(one, step=step, advantage=0.0) for one in rollouts]
    write_rollouts(folder / "rollouts" / f"step-{step:06d}.jsonl.gz", rows)


def cells(html: str) -> list[list[str]]:
    rows = re.findall(r"<tr[^>]*>(.*?)</tr>", html)
    return [[re.sub(r"<[^>]+>", "", cell) for cell in re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row)] for row in rows]


def test_the_reward_is_the_verifiers_scores_times_their_weights_and_what_shaping_took() -> None:
    rows = [
        {"step": float(step), "reward_mean": 0.5 if step <= 2 else 0.9, "verifier_number": 0.4 if step <= 2 else 0.8,
         "verifier_polite": 1.0} for step in range(1, 9)
    ]  # fmt: skip
    recipe = {"verifiers": [{"name": "number"}, {"name": "checks/manners.py:polite", "weight": 0.2}]}
    assert cells(reward_breakdown(rows, recipe))[1:] == [
        ["number", "1", "0.400", "0.800", "0.400", "0.800"],
        ["polite", "0.2", "1.000", "1.000", "0.200", "0.200"],
        ["shaping, and rollouts without a score", "", "", "", "-0.100", "-0.100"],
        ["reward", "", "", "", "0.500", "0.900"],
    ]


def test_where_weights_are_unknown_nothing_is_added_up() -> None:
    rows = [{"step": 1.0, "reward_mean": 0.5, "verifier_number": 0.4}]
    assert cells(reward_breakdown(rows, {}))[1:] == [["number", "", "0.400", "0.400", "", ""]]
    assert reward_breakdown([{"step": 1.0, "loss": 0.5}], {}) == ""
    assert reward_breakdown([], {"verifiers": "damaged"}) == ""


def test_lengths_of_the_first_and_the_last_step_stand_side_by_side(tmp_path: Path) -> None:
    stored(tmp_path, 1, rollout("p", 0, 0.0, 3))
    assert length_histogram(ends_of(RunFolder(tmp_path))) == ""  # one step has nothing beside it
    stored(tmp_path, 5, rollout("p", 0, 0.0, 30), rollout("p", 1, 0.0, 31))
    drawn = length_histogram(ends_of(RunFolder(tmp_path)))
    assert "step 1" in drawn
    assert "step 5" in drawn
    assert drawn.count('class="bar before"') == 1
    assert 'class="bar after"' in drawn


@pytest.mark.parametrize("values", [([0.0], [0.0]), ([1.0] * 9, [1e6]), ([0.5, 3], [2.0])])
def test_a_histogram_of_anything_stays_in_its_frame(values: tuple[list[float], list[float]]) -> None:
    drawn = paired_histogram(*values, "lengths")
    for x, y, width, height in re.findall(
        r'<rect class="bar \w+" x="([^"]+)" y="([^"]+)" width="([^"]+)" height="([^"]+)"', drawn
    ):
        assert 0 <= float(x) <= 340 - float(width)
        assert 0 <= float(y) <= 168 - float(height)


def test_the_best_is_the_shortest_of_the_highest_reward_and_the_worst_the_longest_of_the_lowest() -> None:
    every = [
        rollout("a", 0, 1.0, 9, right=True),
        rollout("a", 1, 1.0, 4, right=True),
        rollout("a", 2, 0.0, 5),
        rollout("a", 3, 0.0, 8),
    ]
    shown = extremes([StoredRollout(one, {}) for one in [*every, rollout("a", 4, None, 99)]])
    assert [(one.why, one.stored.rollout.sample_index) for one in shown] == [("best", 1), ("worst", 3)]
    assert extremes([StoredRollout(every[0], {}), StoredRollout(every[1], {})]) == []  # equal rewards: neither


def test_what_a_rule_named_and_what_was_paid_though_wrong_is_suspected(tmp_path: Path) -> None:
    stored(tmp_path, 2, rollout("a/b", 0, 0.0, 3), rollout("a/b", 1, 0.2, 3))
    last = [
        StoredRollout(one, {}) for one in (rollout("c", 0, 0.3, 3), rollout("c", 1, 0.6, 3), rollout("c", 2, 1.0, 3, right=True))
    ]
    findings = [
        Finding("form_only", 2, "by form", ("step 2: a/b #1",)),
        Finding("second_opinion", 9, "gone", ("step 9: a/b #1", "no place")),  # of a step that is not stored
        Finding("truncation", 2, "cut", ("step 2: a/b #0",)),  # no sign of a hack
    ]
    shown = suspected(RunFolder(tmp_path), last, findings)
    assert [(one.why, one.stored.rollout.problem.id, one.stored.rollout.sample_index) for one in shown] == [
        ("named by the rule form_only", "a/b", 1),
        ("paid though it is not correct", "c", 1),
    ]


def test_the_problem_that_gained_most_is_shown_wrong_before_and_right_after(tmp_path: Path) -> None:
    (tmp_path / "evaluations").mkdir()
    correct = {0: {"p": 0, "q": 1}, 8: {"p": 2, "q": 2}}
    for step, by_problem in correct.items():
        results = [{"id": name, "scored": 2, "correct": count} for name, count in by_problem.items()]
        (tmp_path / "evaluations" / f"step-{step:06d}.json").write_text(json.dumps({"held-out": {"results": results}}))
        rollouts = [rollout(name, i, 0.0, 3, right=i < count) for name, count in by_problem.items() for i in range(2)]
        rows = [rollout_to_json(one, mode="sampled") for one in rollouts]
        write_rollouts(tmp_path / "evaluations" / f"step-{step:06d}.held-out.jsonl.gz", rows)
    shown = most_improved(RunFolder(tmp_path))
    assert [(one.stored.rollout.problem.id, one.stored.rollout.is_correct) for one in shown] == [("p", False), ("p", True)]
    assert shown[0].why == "step 0, where 0% of its samples are correct"
    assert shown[1].why == "step 8, where 100% of its samples are correct"


def test_a_run_whose_problems_got_no_better_shows_none(tmp_path: Path) -> None:
    (tmp_path / "evaluations").mkdir()
    for step in (0, 8):
        results = [{"id": "p", "scored": 2, "correct": 1}, {"damaged": True}, "damaged"]
        (tmp_path / "evaluations" / f"step-{step:06d}.json").write_text(json.dumps({"held-out": {"results": results}}))
    assert most_improved(RunFolder(tmp_path)) == []
    assert most_improved(RunFolder(tmp_path / "empty")) == []


def test_the_page_has_them_all_and_says_why_a_run_ended(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text('task = "sums"\n[[verifiers]]\nname = "number"\n')
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "reward_mean": 0.5, "verifier_number": 0.5}\n')
    (tmp_path / "summary.json").write_text('{"early_end": "health: <form_only>, step 1"}')
    for step in (1, 2):
        stored(tmp_path, step, rollout("a", 0, 0.5, 3), rollout("a", 1, 1.0, 3, right=True))
    page = write_report(tmp_path).path.read_text(encoding="utf-8")
    for said in ("What the reward is made of", "Response length, tokens", "best", "worst", "Suspected hacks"):
        assert said in page
    assert "Ended early: health: &lt;form_only&gt;, step 1" in page
