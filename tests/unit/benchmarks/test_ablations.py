"""The ablations' arithmetic and pages, on run folders that are written here."""

from __future__ import annotations

import json
import math
import xml.etree.ElementTree
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rlvr.config import RunConfig
from rlvr.envs.tasks import load_task
from rlvr.evaluation.ledger import rollout_to_json, write_rollouts
from rlvr.trainers.plan import algorithm_of, check_recipe
from rlvr.types import Completion, FinishReason, Message, Outcome, Problem, Rollout, Stop, Turn, Verdict

STEPS, EVERY, SAMPLES = 4, 2, 8
# Metrics of a training step that the ablations read.
STEP = {"tokens": 100, "time_step_s": 0.5, "entropy": 0.25, "clip_share": 0.0}


def answer(tokens: int, outcome: Outcome) -> dict[str, Any]:
    problem = Problem("p", (Message("user", "1+1?"),), "2")
    completion = Completion(tuple(range(tokens)), (0.0,) * tokens, FinishReason.STOP, 0)
    turn = Turn((1,), completion, Message("assistant", "2"))
    score = {Outcome.CORRECT: 1.0, Outcome.INCORRECT: 0.0}.get(outcome)
    rollout = Rollout(problem, 0, [turn], Stop.STOP, {"number": Verdict(outcome, score)}, score)
    return rollout_to_json(rollout, mode="sampled")


def run_folder(path: Path, correct: list[int], *, wrong_tokens: int = 20, metrics: dict[str, Any] | None = None) -> Path:
    """A run that got `correct[i]` of eight samples right at its i-th measurement of one problem."""
    path.mkdir(parents=True)
    rows = [{"step": step, **STEP, **(metrics or {})} for step in range(1, STEPS + 1)]
    (path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (path / "evaluations").mkdir()
    for index, right in enumerate(correct):
        file = path / "evaluations" / f"step-{index * EVERY:06d}.json"
        results = [{"id": "p", "scored": SAMPLES, "correct": right, "tokens_mean": 12.0, "greedy_correct": None}]
        file.write_text(json.dumps({"held-out": {"results": results, "samples_per_problem": SAMPLES}}))
        kinds = [(10, Outcome.CORRECT)] * right + [(wrong_tokens, Outcome.INCORRECT)] * (SAMPLES - right)
        write_rollouts(file.with_suffix(".held-out.jsonl.gz"), [answer(*kind) for kind in kinds])
    (path / "summary.json").write_text("{}")
    return path


def test_a_run_folder_is_read_as_measurements_and_what_they_had_cost(tmp_path: Path) -> None:
    from ablation_results import read_series

    series = read_series(run_folder(tmp_path / "run", [2, 4, 6]), seed=7)
    assert [(point.step, point.sampled_tokens, point.wall_s) for point in series.points] == [
        (0, 0, 0.0),
        (2, 200, 1.0),
        (4, 400, 2.0),
    ]
    assert [point.values["pass@1"] for point in series.points] == pytest.approx([0.25, 0.5, 0.75])
    assert (series.final("pass@8"), series.final("wrong_tokens"), series.final("right_tokens")) == (1.0, 20.0, 10.0)
    assert series.final("mean pass@1") == pytest.approx((0.5 + 0.75) / 2)
    assert "entropy" not in series.points[0].values
    assert series.final("entropy") == 0.25
    assert math.isnan(series.final("ref_kl"))


def test_what_the_offline_filter_sampled_counts_from_the_first_measurement_on(tmp_path: Path) -> None:
    from ablation_results import read_series

    cost = tmp_path / "cost.json"
    cost.write_text(json.dumps({"tokens": 1000, "wall_s": 3.0, "kept": 5}))
    series = read_series(run_folder(tmp_path / "run", [2, 4, 6]), seed=7, cost=cost)
    assert [(point.sampled_tokens, point.wall_s) for point in series.points] == [(1000, 3.0), (1200, 4.0), (1400, 5.0)]


def test_answers_that_could_not_be_scored_are_neither_wrong_nor_right(tmp_path: Path) -> None:
    from ablation_results import read_series

    folder = run_folder(tmp_path / "run", [8])
    rows = [answer(10, Outcome.CORRECT), answer(500, Outcome.VERIFIER_ERROR)]
    write_rollouts(folder / "evaluations" / "step-000000.held-out.jsonl.gz", rows)
    values = read_series(folder, seed=0).points[0].values
    assert values["right_tokens"] == 10.0
    assert "wrong_tokens" not in values


def test_a_run_without_measurements_is_refused(tmp_path: Path) -> None:
    from ablation_results import read_series

    with pytest.raises(ValueError, match="holds no measurement"):
        read_series(run_folder(tmp_path / "run", []), seed=0)


def test_the_cost_of_a_target_lies_between_the_measurements_around_it(tmp_path: Path) -> None:
    from ablation_results import read_series

    series = read_series(run_folder(tmp_path / "run", [2, 4, 6]), seed=0)
    assert series.cost_of(0.25, "sampled_tokens") == 0.0
    assert series.cost_of(0.375, "sampled_tokens") == pytest.approx(100.0)
    assert series.cost_of(0.625, "wall_s") == pytest.approx(1.5)
    assert series.cost_of(0.8, "sampled_tokens") == math.inf


def test_a_target_over_two_measurements_is_not_reached_by_one_lucky_measurement(tmp_path: Path) -> None:
    from ablation_results import read_series

    series = read_series(run_folder(tmp_path / "run", [2, 6, 4]), seed=0)  # 0.25, 0.75 and 0.5 after 0, 200 and 400 tokens
    assert series.cost_of(0.6, "sampled_tokens") == pytest.approx(200 * 0.35 / 0.5)
    assert series.cost_of(0.6, "sampled_tokens", over=2) == pytest.approx(200 + 200 * 0.1 / 0.125)
    assert series.cost_of(0.5, "sampled_tokens", over=2) == 200.0
    assert series.cost_of(0.75, "sampled_tokens", over=2) == math.inf


def test_a_mean_over_a_budget_of_tokens_counts_what_came_before_the_first_measurement(tmp_path: Path) -> None:
    from ablation_results import read_series

    series = read_series(run_folder(tmp_path / "run", [2, 4, 6]), seed=0)
    assert series.mean_until(200, "pass@1") == pytest.approx(0.375)
    assert series.mean_until(300, "pass@1") == pytest.approx((200 * 0.375 + 100 * 0.5625) / 300)
    assert math.isnan(series.mean_until(401, "pass@1"))
    assert series.value_at(300, "pass@1") == pytest.approx(0.625)
    assert math.isnan(series.value_at(401, "pass@1"))
    cost = tmp_path / "cost.json"
    cost.write_text(json.dumps({"tokens": 200, "wall_s": 0.0, "kept": 1}))
    filtered = read_series(tmp_path / "run", seed=0, cost=cost)
    assert filtered.mean_until(400, "pass@1") == pytest.approx((200 * 0.25 + 200 * 0.375) / 400)


def test_differences_are_paired_by_seed_and_a_seed_without_a_partner_does_not_count(tmp_path: Path) -> None:
    from ablation_results import paired, read_series

    ours = [read_series(run_folder(tmp_path / f"a{seed}", [right]), seed=seed) for seed, right in ((1, 2), (2, 4), (9, 8))]
    theirs = [read_series(run_folder(tmp_path / f"b{seed}", [right]), seed=seed) for seed, right in ((2, 6), (1, 3))]
    found = paired(ours, theirs, "pass@1")
    assert (found.mean, found.seeds) == (pytest.approx(0.1875), 2)


def test_the_interval_is_students_t() -> None:
    from ablation_results import difference, t_quantile

    assert [round(t_quantile(freedom), 3) for freedom in (1, 2, 4, 9, 30)] == [12.706, 4.303, 2.776, 2.262, 2.042]
    found = difference([1.0, 2.0, 3.0, 4.0, 5.0])
    assert (found.mean, found.low, found.high) == (3.0, pytest.approx(1.03676, abs=1e-4), pytest.approx(4.96324, abs=1e-4))
    assert found.is_clear
    assert not difference([-1.0, 2.0]).is_clear


def test_one_seed_has_no_interval_and_is_never_clear() -> None:
    from ablation_pages import signed
    from ablation_results import difference

    found = difference([0.5])
    assert math.isnan(found.low)
    assert not found.is_clear
    assert signed(found, 2) == "+0.50, one seed"
    assert signed(difference([]), 2) == "no pair"


def test_a_run_that_never_reached_the_target_makes_the_ratio_infinite_and_not_smaller(tmp_path: Path) -> None:
    from ablation_results import TO_TARGET, ratios, read_series

    assert 0 < (TO_TARGET["to_target_tokens"].gain or 0) < 1 / 8
    ours = [read_series(run_folder(tmp_path / f"a{seed}", [2, 4, 6]), seed=seed) for seed in (1, 2)]
    theirs = [
        read_series(run_folder(tmp_path / f"b{seed}", right), seed=seed) for seed, right in ((1, [2, 6, 6]), (2, [2, 2, 2]))
    ]
    quick, never = ratios(ours, theirs, "to_target_tokens")
    assert quick < 1
    assert never == math.inf
    assert ratios(theirs, ours, "to_target_tokens") == [pytest.approx(1 / quick)], "no ratio to a baseline that never came there"


def test_the_page_gets_its_table_and_a_plot_that_is_well_formed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from ablation_pages import write_pages
    from ablation_results import Comparison, read_series

    arms = {
        name: [read_series(run_folder(tmp_path / name / str(seed), right), seed=seed) for seed in (1, 2, 3)]
        for name, right in (("plain", [2, 4, 4]), ("better", [2, 4, 6]))
    }
    docs = tmp_path / "docs"
    docs.mkdir()
    (docs / "ablations.md").write_text("before\n<!-- ablation: x -->\nold\n<!-- end -->\nafter\n")
    arms["begun"] = arms["better"][:2]
    arms["plain"].append(read_series(run_folder(tmp_path / "plain" / "4", [8, 8, 8]), seed=4))  # a base that the others lack
    comparison = Comparison("x", "A & B", ("plain", "better", "begun", "absent"), metrics=("pass@1", "entropy"), curve="pass@1")
    words = {"plain": "plain", "better": "a < b", "begun": "begun", "absent": "absent"}
    write_pages([comparison], words, arms, docs)
    page = (docs / "ablations.md").read_text()
    assert page.startswith("before\n<!-- ablation: x -->\n| | seeds | pass@1 |")
    assert page.endswith("<!-- end -->\nafter\n")
    assert "old" not in page
    assert "begun" not in page, "two seeds are too few for an interval"
    assert "| plain | 3 | 0.500 | 0.250 |" in page
    assert "| a < b | 3 | 0.750 (**+0.250 [+0.250, +0.250]**) | 0.250 (+0.000 [+0.000, +0.000]) |" in page
    assert page.split("\n", 1)[1].startswith("<!-- ablation: x -->\n" + capsys.readouterr().out.split("\n\n")[1])
    drawn = xml.etree.ElementTree.parse(docs / "ablation-x.svg").getroot()
    space = "{http://www.w3.org/2000/svg}"
    assert len(drawn.findall(f"{space}polyline")) == 2 * (3 + 1), "every seed and the mean of two arms"
    assert {"plain", "a < b"} <= {text.text for text in drawn.findall(f"{space}text")}
    # Ends alone, where one metric is drawn over another one.
    write_pages([replace(comparison, over="tokens")], words, arms, docs)
    drawn = xml.etree.ElementTree.parse(docs / "ablation-x.svg").getroot()
    assert len(drawn.findall(f"{space}circle")) == 2 * (3 + 1)


def test_a_page_without_a_place_for_a_table_says_what_to_add() -> None:
    from ablation_pages import replaced

    with pytest.raises(ValueError, match="add <!-- ablation: kl -->"):
        replaced("nothing here", "kl", "table")


def test_targets_are_a_fixed_value_or_so_much_above_the_base(tmp_path: Path) -> None:
    from ablation_results import TO_TARGET, read_series

    series = read_series(run_folder(tmp_path / "run", [2, 4, 6]), seed=1)  # 0.25, 0.5 and 0.75 after 0, 200 and 400 tokens
    assert series.final("to_20_tokens") == pytest.approx(200 * 0.2 / 0.25)
    assert series.final("to_0.40_tokens") == pytest.approx(200 * 0.15 / 0.25)
    assert series.final("to_target_s") == pytest.approx(0.4)
    assert TO_TARGET["to_0.40_tokens"].words == "tokens sampled until pass@1 is 0.4"
    assert TO_TARGET["to_target_s"].words == "seconds of training until pass@1 is 10 points up"


def test_comparisons_name_arms_and_metrics_that_exist() -> None:
    from ablation_pages import METRICS
    from ablation_results import TO_TARGET
    from ablations import ARMS, COMPARISONS

    assert len({comparison.name for comparison in COMPARISONS}) == len(COMPARISONS)
    for comparison in COMPARISONS:
        assert set(comparison.arms) <= set(ARMS), comparison.name
        assert {*comparison.metrics, comparison.curve, comparison.over} <= set(METRICS), comparison.name
        settings = [ARMS[name].setting for name in comparison.arms]
        assert len({(setting.terms, setting.held_out) for setting in settings}) == 1, (
            "arms that are compared face the same problems"
        )
        if len({setting.steps for setting in settings}) > 1:
            at_the_end = {metric for metric in comparison.metrics if " " not in metric and metric not in TO_TARGET}
            assert not at_the_end, "ends after different numbers of steps are no comparison"


def test_every_arm_is_a_recipe_that_could_run(tmp_path: Path) -> None:
    from ablations import ARMS, Job, recipe_of

    for arm in ARMS.values():
        recipe = recipe_of(Job(arm, 3, tmp_path))
        assert isinstance(recipe, RunConfig)
        checked = check_recipe(recipe, load_task(recipe.task, recipe.task_args), algorithm_of(recipe))
        assert (checked.seed, checked.steps) == (3, arm.setting.steps)
        assert bool(recipe.data.pass_rates) == arm.is_filtered
        assert recipe_of(Job(arm, 3, tmp_path, steps=2)).steps == 2


def test_a_run_that_several_comparisons_share_is_made_once(tmp_path: Path) -> None:
    from ablations import COMPARISONS, jobs

    planned = [(job.arm.name, job.seed) for job in jobs(COMPARISONS, tmp_path, [1, 2], None)]
    assert len(planned) == len(set(planned))
    assert {name for name, _ in planned} == {name for comparison in COMPARISONS for name in comparison.arms}
