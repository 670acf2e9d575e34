"""Training teaches: rewards rise where they can be earned, and only there."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from rlvr.envs.tasks import load_task
from rlvr.trainers.train import Run, train

pytestmark = pytest.mark.learning

VERIFIERS = '''
from rlvr.seeding import rng
from rlvr.types import Verdict
from rlvr.verifiers.base import verifier


@verifier("share_of_sevens", isolated=False)
def share_of_sevens(problem, rollout):
    share = rollout.response.count("7") / max(1, len(rollout.response))
    return Verdict.correct() if share == 1 else Verdict.partial(share) if share else Verdict.incorrect()


@verifier("coin", isolated=False)
def coin(problem, rollout):
    """A label that has nothing to do with the response."""
    heads = rng("coin", problem.id, rollout.sample_index).random() < 0.5
    return Verdict.correct() if heads else Verdict.incorrect()
'''


@pytest.fixture(scope="session")
def verifiers(tmp_path_factory: pytest.TempPathFactory) -> str:
    file = tmp_path_factory.mktemp("verifiers") / "learning_verifiers.py"
    file.write_text(VERIFIERS)
    return str(file)


def curve(run: Run, name: str) -> list[float]:
    return [json.loads(line)[name] for line in (run.folder / "metrics.jsonl").read_text().splitlines()]


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def bandit(out: Path, graded_by: list[dict[str, Any]], algorithm: str, seed: int = 0, **arguments: Any) -> Run:
    """Write sevens: a random model, 25 steps of 8 x 8 rollouts of six tokens."""
    return train(
        model="new:tiny",
        task="chains",
        steps=25,
        seed=seed,
        threads=1,
        verifiers=graded_by,
        rollout={"group_size": 8, "problems_per_step": 8, "max_tokens": 6},
        algorithm={"name": algorithm, **arguments},
        optim={"lr": 3e-3},
        data={"problems": 50},
        eval={"problems": 0},
        checkpoint={"every": 0},
        out=str(out),
    )


ALGORITHMS: dict[str, dict[str, Any]] = {
    "grpo": {},
    "dr_grpo": {},
    "dapo": {"overlong": False},
    "rloo": {},
    "reinforce": {},
    "reinforce_pp": {},
    "gspo": {},
    "cispo": {},
}


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_every_algorithm_learns_what_is_rewarded(tmp_path: Path, verifiers: str, algorithm: str) -> None:
    graded_by = [{"name": f"{verifiers}:share_of_sevens"}]
    rewards = curve(bandit(tmp_path / "run", graded_by, algorithm, **ALGORITHMS[algorithm]), "reward_mean")
    assert mean(rewards[:3]) < 0.15
    assert mean(rewards[-3:]) > 0.5


@pytest.mark.parametrize("seed", [0, 1])
def test_labels_that_mean_nothing_teach_nothing(tmp_path: Path, verifiers: str, seed: int) -> None:
    graded_by = [{"name": f"{verifiers}:coin"}, {"name": f"{verifiers}:share_of_sevens", "weight": 0.0}]
    run = bandit(tmp_path / "run", graded_by, "grpo", seed)
    assert mean(curve(run, "verifier_share_of_sevens")[-3:]) < 0.3
    assert 0.4 < mean(curve(run, "reward_mean")[-3:]) < 0.6


def test_grpo_teaches_a_base_that_often_guesses_to_work_chains_out(tmp_path: Path) -> None:
    """The quickstart in small: chains of two digits, a base that guesses in 60 % of its responses."""
    chains = {"terms": [2, 2], "low": 0, "high": 9, "guess_share": 0.6, "misread_share": 0.0, "slip_share": 0.0}
    task = load_task("chains", chains)
    shown = [task.demonstration("train", index, seed) for seed in range(40) for index in range(40)]
    pairs = [{"prompt": one.problem.prompt[-1].content, "response": one.response} for one in shown]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    base = train(
        kind="sft",
        model="new:tiny",
        task="chains",
        task_args=chains,
        data=str(tmp_path / "pairs.jsonl"),
        steps=300,
        sequences_per_step=32,
        threads=1,
        optim={"lr": 4e-3, "schedule": "cosine", "warmup_steps": 20},
        checkpoint={"every": 0},
        out=str(tmp_path / "base"),
    )
    assert curve(base, "loss")[-1] < 0.5 * curve(base, "loss")[0]
    trained = train(
        model=str(base.checkpoint),
        task="chains",
        task_args=chains,
        steps=30,
        threads=1,
        data={"problems": 40},
        rollout={"group_size": 8, "problems_per_step": 16, "max_tokens": 24},
        optim={"lr": 3e-4},
        eval={"problems": 40, "n": 8, "k": [1], "split": "train"},
        checkpoint={"every": 0},
        out=str(tmp_path / "trained"),
    )
    before, after = (trained.summary[when]["pass@1"]["mean"] for when in ("before", "after"))
    assert 0.2 < before < 0.7
    assert after > before + 0.2
    assert trained.summary["gain"]["pass@1"]["low"] > 0
    assert mean(curve(trained, "tokens_mean")[-3:]) > mean(curve(trained, "tokens_mean")[:3])  # it thinks more often
