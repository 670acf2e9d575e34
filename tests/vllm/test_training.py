"""A run with vLLM learns what the same run learns with the native engine."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rlvr.trainers.train import Run, train

STEPS = 40
VERIFIER = """
from rlvr.types import Verdict
from rlvr.verifiers.base import verifier


@verifier("share_of_sevens", isolated=False)
def share_of_sevens(problem, rollout):
    share = rollout.response.count("7") / max(1, len(rollout.response))
    return Verdict.correct() if share == 1 else Verdict.partial(share) if share else Verdict.incorrect()
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One for all: a verifier has one file in a process."""
    made = tmp_path_factory.mktemp("sevens")
    (made / "sevens.py").write_text(VERIFIER)
    return made


def column(run: Run, name: str) -> list[float]:
    """A metric of every step that has it; steps without signal were not learned from."""
    rows = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    return [row[name] for row in rows if name in row]


def test_the_same_recipe_ends_as_well_with_vllm_and_its_weights_never_lag_behind(folder: Path) -> None:
    """A random model is to write sevens: less than a tenth of its tokens are at first, more than nine tenths at the end."""
    runs = {name: sevens(folder, name) for name in ("native", "vllm")}
    rewards = {name: column(run, "reward_mean") for name, run in runs.items()}
    ends = {name: sum(values[-5:]) / 5 for name, values in rewards.items()}
    for name, values in rewards.items():
        assert values[0] < 0.1, name
        assert ends[name] > 0.9, name
    assert abs(ends["vllm"] - ends["native"]) < 0.08
    assert max(column(runs["vllm"], "engine_gap_mean")) < 1e-4
    assert len(column(runs["vllm"], "engine_gap_max")) == STEPS
    assert column(runs["vllm"], "engine_restarts")[-1] == 0
    # The engine's logprobs of the rollouts are the policy's own: the run is on-policy with either.
    assert max(map(abs, column(runs["vllm"], "sampling_kl"))) < 1e-6
    assert "engine_gap_mean" not in (runs["native"].folder / "metrics.jsonl").read_text()


def test_vllm_generates_while_the_trainer_updates_and_learns_as_well(folder: Path) -> None:
    run = sevens(folder, "vllm", max_staleness=1)
    rewards = column(run, "reward_mean")
    assert rewards[0] < 0.1
    assert sum(rewards[-5:]) / 5 > 0.9
    assert set(column(run, "staleness_max")) == {0, 1}
    assert max(column(run, "engine_gap_mean")) < 1e-4
    assert len(column(run, "time_generate_idle_s")) == STEPS


def sevens(folder: Path, engine: str, max_staleness: int = 0) -> Run:
    return train(
        model="new:tiny",
        task="chains",
        steps=STEPS,
        threads=1,
        engine={"name": engine},
        verifiers=[{"name": f"{folder / 'sevens.py'}:share_of_sevens"}],
        rollout={"group_size": 8, "problems_per_step": 8, "max_tokens": 6, "max_staleness": max_staleness},
        algorithm={"name": "grpo"},
        optim={"lr": 3e-3},
        data={"problems": 50},
        eval={"problems": 0},
        checkpoint={"every": 0},
        out=str(folder / f"{engine}-{max_staleness}"),
    )
