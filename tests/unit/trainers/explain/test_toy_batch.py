from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from rlvr.cli.main import main
from rlvr.errors import ConfigError
from rlvr.trainers.algorithms import build
from rlvr.trainers.explain.toy_batch import ToyBatch, ToyResult, compute
from rlvr.trainers.loss import prepare, token_losses

BATCH: dict[str, Any] = {
    "logprobs": [[-1.0, -0.5, -2.0], [-0.3, -0.7], [-1.1, -0.2, -0.4, -3.0], [-0.9]],
    "old_logprobs": [[-1.5, -0.5, -1.2], [-0.3, -0.9], [-1.0, -0.2, -0.4, -3.0], [-0.9]],
    "mask": [[1, 0, 1], [1, 1], [1, 1, 1, True], [1]],
    "rewards": [1, 0, 1, 1],
    "groups": ["a", "a", 3, 3],
    "max_tokens": 8,
}


def result(name: str, batch: dict[str, Any] | None = None, **settings: Any) -> ToyResult:
    return compute(build(name, settings), ToyBatch.parse(BATCH if batch is None else batch))


def test_numbers_of_a_batch_by_hand() -> None:
    numbers = result("dr_grpo")
    assert numbers.advantages == [[0.5, 0.0, 0.5], [-0.5, -0.5], [0.0] * 4, [0.0]]
    assert numbers.weights == [[1 / 32, 0.0, 1 / 32], [1 / 32, 1 / 32], [1 / 32] * 4, [1 / 32]]
    # Row 0: ratio e^0.5 is clipped at 1.2, e^-0.8 is not; row 1: ratios 1 and e^0.2, both inside for A < 0.
    surrogate = 0.5 * 1.2 + 0.5 * math.exp(-0.8) - 0.5 - 0.5 * math.exp(0.2)
    assert numbers.loss == pytest.approx(-surrogate / 32)
    gradient = [[0, 0, -0.5 * math.exp(-0.8) / 32], [0.5 / 32, 0.5 * math.exp(0.2) / 32], [0] * 4, [0]]
    assert numbers.grad_logprobs == [pytest.approx(row) for row in gradient]


@pytest.mark.parametrize("name", ["grpo", "dr_grpo", "dapo", "rloo", "reinforce", "reinforce_pp", "gspo", "cispo"])
def test_results_have_the_shapes_of_the_input_and_nothing_outside_the_mask(name: str) -> None:
    numbers = result(name)
    for values in (numbers.advantages, numbers.weights, numbers.grad_logprobs):
        assert [len(row) for row in values] == [3, 2, 4, 1]
        assert values[0][1] == 0


def test_it_is_the_trainers_own_code() -> None:
    algorithm = build("grpo")
    mask = torch.tensor([[True, True], [True, False]])
    logprobs = torch.tensor([[-1.0, -2.0], [-0.5, 0.0]], dtype=torch.float64, requires_grad=True)
    index = torch.arange(2)
    rewards = torch.tensor([1.0, 0.0], dtype=torch.float64)
    prepared = prepare(algorithm, rewards=rewards, group_index=0 * index, rollout_index=index, mask=mask)
    loss = token_losses(
        algorithm,
        logprobs=logprobs,
        advantages=prepared.advantages,
        weights=prepared.weights,
        mask=mask,
        rollout_index=index,
    ).loss
    toy = {"logprobs": [[-1, -2], [-0.5]], "mask": [[1, 1], [1]], "rewards": [1, 0], "groups": [0, 0]}
    numbers = result("grpo", toy)
    assert numbers.loss == loss.item()
    assert numbers.grad_logprobs[0] == torch.autograd.grad(loss, logprobs)[0][0].tolist()


def test_groups_without_signal_are_reported_and_still_computed() -> None:
    assert result("dapo").dropped_groups == [3]
    assert result("grpo").dropped_groups == []
    assert result("dapo").weights[2] == [1 / 9] * 4


def test_rewards_are_final_and_the_result_says_what_was_left_out() -> None:
    numbers = result("dapo")
    assert numbers.advantages[0][0] == result("grpo").advantages[0][0]
    assert [note.split(":")[0] for note in numbers.notes] == [
        "training would drop and refill groups without signal",
        "rewards are taken as final",
    ]
    assert result("grpo").notes == []


def test_labels_of_different_kinds_are_different_groups() -> None:
    batch = BATCH | {"groups": [1, "1", None, True]}
    assert ToyBatch.parse(batch).group_index.tolist() == [0, 1, 2, 3]


def test_max_tokens_of_the_batch_is_the_runs_and_an_argument_wins() -> None:
    assert result("dr_grpo").weights[3] == [1 / 32]
    assert result("dr_grpo", max_tokens=16).weights[3] == [1 / 64]
    without = {key: value for key, value in BATCH.items() if key != "max_tokens"}
    with pytest.raises(ConfigError, match="max_tokens is not set"):
        result("dr_grpo", without)


def test_masked_values_may_be_anything() -> None:
    logprobs = [[-1.0, None, -2.0], *BATCH["logprobs"][1:]]
    for value in (None, math.nan, math.inf):
        logprobs[0][1] = value
        assert result("grpo", BATCH | {"logprobs": logprobs}) == result("grpo")


def test_a_rollout_may_have_no_tokens() -> None:
    batch = {"logprobs": [[], [-1.0]], "mask": [[], [1]], "rewards": [1, 0], "groups": [0, 0]}
    assert result("grpo", batch).grad_logprobs == [[], [pytest.approx(0.5 * 0.70700679)]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rewards": None}, "lacks rewards"),
        ({"reward": [1]}, "unknown keys 'reward'"),
        ({"rewards": [1, 0]}, "rewards has 2 entries, but logprobs has 4 rows"),
        ({"rewards": [1, 0, "x", 1]}, r"rewards\[2\] = 'x'"),
        ({"rewards": [1, 0, math.nan, 1]}, r"rewards\[2\] = nan"),
        ({"groups": "aabb"}, "groups is str; give a list"),
        ({"groups": []}, "groups is empty"),
        ({"logprobs": [1, 2]}, r"logprobs\[0\] is int; give a list of lists"),
        ({"logprobs": [[-1.0, -0.5, math.nan], *BATCH["logprobs"][1:]]}, r"logprobs\[0\]\[2\] = nan"),
        ({"mask": [[1, 0, 2], [1, 1], [1] * 4, [1]]}, r"mask\[0\]\[2\] = 2"),
        ({"mask": [[1, 0, 1], [1, 1], [1] * 4]}, "mask has 3 rows, but logprobs has 4"),
        ({"old_logprobs": [[0.0], [0.0] * 2, [0.0] * 4, [0.0]]}, r"old_logprobs\[0\] has 1 values, but logprobs\[0\] has 3"),
        ({"max_tokens": 2.5}, "max_tokens = 2.5"),
        ({"max_tokens": True}, "max_tokens = True"),
    ],
)
def test_a_wrong_batch_says_where(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ToyBatch.parse(BATCH | change)


def test_a_batch_that_is_no_object_is_refused() -> None:
    with pytest.raises(ConfigError, match="give an object"):
        ToyBatch.parse([1])


@pytest.mark.parametrize(
    ("settings", "missing"),
    [({"kl_coef": 0.1}, "ref_logprobs"), ({"tis_cap": 2.0}, "sampling_logprobs"), ({"entropy_coef": 0.1}, "entropy")],
)
def test_an_input_that_the_algorithm_needs_is_named(settings: dict[str, Any], missing: str) -> None:
    with pytest.raises(ConfigError, match=f"batch.{missing} is missing, but 'grpo'"):
        result("grpo", **settings)
    assert math.isfinite(result("grpo", BATCH | {missing: BATCH["old_logprobs"]}, **settings).loss)


# The verb


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    code = main(["explain", *words])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_the_verb_computes_a_batch_as_json(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "batch.json"
    file.write_text(json.dumps(BATCH))
    code, out, _ = run(capsys, "cispo", "ratio_max=1.5", "--on", str(file), "--json")
    numbers = json.loads(out)
    assert code == 0
    assert set(numbers) >= {"advantages", "weights", "loss", "grad_logprobs", "dropped_groups"}
    assert numbers["loss"] == result("cispo", ratio_max=1.5).loss


def test_the_verb_reads_stdin(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    import io

    monkeypatch.setattr("sys.stdin", io.StringIO(json.dumps(BATCH)))
    code, out, _ = run(capsys, "dapo", "--on", "-")
    assert code == 0
    assert "drop and refill groups without signal: 3" in " ".join(out.split())


def test_the_verb_shows_formula_choices_and_warnings(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "cispo", "ratio_max=0.2")
    assert code == 0
    for fragment in ("J(θ) =", "clip(ρᵢₜ, 0, 0.2)", "× 0.2", "⚠"):
        assert fragment in out
    code, out, _ = run(capsys, "cispo", "ratio_max=0.2", "--json")
    assert json.loads(out)["gradient_multiplier"]["positive_advantage"] == pytest.approx(0.2)


def test_the_verb_lists_presets(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys)
    assert code == 0
    assert "reinforce_pp" in out
    code, out, _ = run(capsys, "--json")
    assert {row["name"] for row in json.loads(out)} >= {"grpo", "dapo"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["grpo", "clip_hgih=1"], "did you mean 'clip_high'"),
        (["nope"], "no algorithms plugin is named 'nope'"),
        (["grpo", "--on", "/does/not/exist.json"], "cannot be read"),
        (["--on", "x.json"], "--on needs an algorithm"),
    ],
)
def test_wrong_usage_is_exit_code_2(capsys: pytest.CaptureFixture[str], words: list[str], message: str) -> None:
    code, _, err = run(capsys, *words)
    assert code == 2
    assert message in err


def test_broken_json_is_named(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "batch.json"
    file.write_text('{"logprobs": [[')
    code, _, err = run(capsys, "grpo", "--on", str(file))
    assert code == 2
    assert "is not valid JSON" in err
