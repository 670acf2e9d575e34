"""A model that cannot multiply learns to ask the calculator, and only the loss mask lets it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rlvr.trainers.train import Run, train

pytestmark = pytest.mark.learning

# Factors of two digits: the task in small. The base knows how to ask and how to copy, and mostly guesses.
PRODUCTS = {"digits": [2, 2], "tool_share": 0.4, "slip_share": 0.1}
UNMASKED = f"{Path(__file__).parent / 'unmasked.py'}:Unmasked"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = train(
        kind="sft",
        model="new:tiny",
        task="products",
        task_args=PRODUCTS,
        steps=1100,
        sequences_per_step=32,
        threads=1,
        optim={"lr": 4e-3, "schedule": "cosine", "warmup_steps": 50},
        checkpoint={"every": 0},
        out=str(tmp_path_factory.mktemp("products") / "base"),
    )
    return run.checkpoint


def reinforced(base: Path, out: Path, **settings: Any) -> Run:
    rollout = {"group_size": 16, "problems_per_step": 8, **settings.pop("rollout", {})}
    return train(
        model=str(base),
        task="products",
        task_args=PRODUCTS,
        steps=40,
        threads=1,
        rollout=rollout,
        algorithm={"name": "grpo", "aggregate": "token_mean"},
        optim={"schedule": "linear"},
        eval={"problems": 60, "n": 8, "k": [1], "greedy": False},
        checkpoint={"every": 0},
        out=str(out),
        **settings,
    )


def test_it_learns_to_ask_with_the_mask_and_not_without(base: Path, tmp_path: Path) -> None:
    masked = reinforced(base, tmp_path / "masked").summary
    before, after = masked["before"], masked["after"]
    assert 0.15 < before["pass@1"]["mean"] < 0.5
    assert masked["gain"]["pass@1"]["low"] > 0.1
    assert after["useful_call_share"] > before["useful_call_share"] + 0.15

    # The same steps with the same rollouts, but what the tool said is trained on as if the model had said it.
    unmasked = reinforced(
        base, tmp_path / "unmasked", env="single_turn", engine={"name": UNMASKED}, rollout={"max_tokens": 60}
    ).summary
    assert abs(unmasked["before"]["pass@1"]["mean"] - before["pass@1"]["mean"]) < 0.1
    assert unmasked["gain"]["pass@1"]["mean"] < 0.5 * masked["gain"]["pass@1"]["mean"]
    first = [json.loads((tmp_path / name / "metrics.jsonl").read_text().splitlines()[0]) for name in ("masked", "unmasked")]
    assert first[1]["grad_norm"] > 2 * first[0]["grad_norm"]  # what no policy can predict drowns what it can learn


def test_without_the_tool_there_is_nothing_to_learn(base: Path, tmp_path: Path) -> None:
    # It would give up by itself, because no group has a signal.
    summary = reinforced(base, tmp_path / "alone", env="single_turn", rollout={"patience": 40}).summary
    assert summary["before"]["pass@1"]["mean"] < 0.05
    assert summary["after"]["pass@1"]["mean"] < 0.1
