"""The best weights, early stopping, and the held-out series."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import AutoModelForCausalLM

from rlvr.errors import ConfigError
from rlvr.evaluation.measure import ProblemResult
from rlvr.seeding import seed
from rlvr.trainers.run.best import Measured, best_of, keep_best, kept_step, why_stop
from rlvr.trainers.train import train

MakeRecipe = Callable[..., dict[str, Any]]


def measured(step: int, rate: float, problems: int = 200) -> Measured:
    draws = np.random.default_rng(seed("best", step)).binomial(8, rate, size=problems)
    results = tuple(ProblemResult(str(index), 8, int(count), 3.0) for index, count in enumerate(draws))
    mean = float(draws.mean() / 8)
    return Measured(step, "pass@1", mean, mean - 0.03, mean + 0.03, results)


def test_training_goes_on_while_a_gain_can_be_claimed() -> None:
    rising = [measured(step, 0.2 + 0.1 * step) for step in range(6)]
    assert [why_stop(rising[: count + 1], 2) for count in range(6)] == [""] * 6


def test_a_plateau_ends_it_after_as_many_measurements_as_patience_says() -> None:
    flat = [measured(0, 0.2), measured(1, 0.5), measured(2, 0.5), measured(3, 0.5), measured(4, 0.5)]
    stops = [bool(why_stop(flat[: count + 1], 3)) for count in range(5)]
    assert stops == [False, False, False, False, True]
    assert "no gain over step 1 that can be claimed" in why_stop(flat, 3)
    assert "eval.patience" in why_stop(flat, 3)


def test_a_lower_point_alone_stops_nothing() -> None:
    assert why_stop([measured(0, 0.5), measured(1, 0.3), measured(2, 0.6), measured(3, 0.8)], 2) == ""


def test_no_patience_means_never() -> None:
    assert why_stop([measured(step, 0.5) for step in range(20)], 0) == ""


def test_of_equal_means_the_earliest_is_best() -> None:
    first, later = measured(3, 0.5), measured(4, 0.5)
    assert best_of([later, Measured(3, "pass@1", later.mean, 0, 1, first.results)]).step == 3


def test_the_kept_weights_are_replaced_as_a_whole(tmp_path: Path) -> None:
    for step in (1, 2):
        checkpoint = tmp_path / f"step-{step}"
        checkpoint.mkdir()
        (checkpoint / "model.safetensors").write_text(f"weights {step}")
        (checkpoint / "trainer.pt").write_text("state")
        keep_best(tmp_path, checkpoint, measured(step, 0.5))
    assert (tmp_path / "best" / "model.safetensors").read_text() == "weights 2"
    assert sorted(path.name for path in (tmp_path / "best").iterdir()) == ["best.json", "model.safetensors"]
    assert kept_step(tmp_path) == 2
    assert not list(tmp_path.glob(".best.*"))


def test_what_a_crash_left_of_the_record_is_not_trusted(tmp_path: Path) -> None:
    (tmp_path / "best").mkdir()
    (tmp_path / "best" / "best.json").write_text('{"st')
    assert kept_step(tmp_path) is None


def test_a_run_keeps_its_best_weights_and_writes_both_accuracies(recipe: MakeRecipe) -> None:
    run = train(recipe(steps=4, optim={"lr": 3e-3}, eval={"problems": 4, "n": 4, "k": [1], "every": 1, "greedy": False}))
    rows = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    assert [row["held_out_step"] for row in rows] == [0, 1, 2, 3]
    for row in rows:
        assert row["held_out_pass@1_low"] <= row["held_out_pass@1"] <= row["held_out_pass@1_high"]
        assert "correct_share" in row
    means = [
        json.loads(path.read_text())["held-out"]["pass@1"]["mean"] for path in sorted((run.folder / "evaluations").glob("*.json"))
    ]
    best = max(range(5), key=lambda step: (means[step], -step))
    assert kept_step(run.folder) == (best or None)
    if best:
        AutoModelForCausalLM.from_pretrained(run.folder / "best")
        assert run.summary["best"]["step"] == best


def test_a_run_without_a_gain_ends_early(recipe: MakeRecipe) -> None:
    settings = {"problems": 3, "n": 2, "k": [1], "every": 1, "patience": 2, "greedy": False}
    run = train(recipe(steps=9, optim={"lr": 1e-9}, eval=settings))
    assert "that can be claimed" in run.summary["early_end"]
    assert run.summary["steps"] == 2
    assert run.checkpoint.name == "step-000002"


def test_patience_without_measurements_is_refused(recipe: MakeRecipe) -> None:
    with pytest.raises(ConfigError, match=r"set eval\.every"):
        train(recipe(eval={"problems": 3, "n": 2, "k": [1], "patience": 2}))
