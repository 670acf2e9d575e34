"""`compute_score` as verl calls it: by its own loader and reward manager where verl is installed."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from rlvr.errors import ConfigError, VerifierError
from rlvr.integrations.verl import compute_score


@pytest.mark.parametrize(("response", "score"), [("<answer>72</answer>", 1.0), ("<answer>71</answer>", 0.0), ("none", 0.0)])
def test_the_score_is_the_verifier_s(response: str, score: float) -> None:
    found = compute_score("gsm8k", response, "72", {"index": 3}, verifier="number")
    assert (found["score"], found["acc"]) == (score, score)
    assert {"correct": 1.0}.get(str(found["outcome"]), 0.0) == score


def test_all_rows_have_the_same_keys_because_verl_stacks_them() -> None:
    keys = {tuple(compute_score("s", text, "72", verifier="number")) for text in ("<answer>72</answer>", "nothing", "")}
    assert keys == {("score", "acc", "pred", "outcome")}


def test_a_row_s_own_verifier_wins_over_the_arguments_and_they_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RLVR_VERIFIER", "exact")
    monkeypatch.setenv("RLVR_VERIFIER_SETTINGS", json.dumps({}))
    response = "<answer>72.0</answer>"
    assert compute_score("s", response, "72")["score"] == 0.0
    assert compute_score("s", response, "72", verifier="number")["score"] == 1.0
    assert compute_score("s", response, "72", {"verifier": "exact"}, verifier="number")["score"] == 0.0
    boxed = {"verifier": "number", "verifier_settings": '{"extract": "boxed"}'}
    assert compute_score("s", response, "72", boxed)["score"] == 0.0


def test_our_failure_stops_the_run_unless_a_number_was_chosen() -> None:
    with pytest.raises(VerifierError, match="gsm8k row 7 could not be graded: gold answer"):
        compute_score("gsm8k", "72", "no number", {"index": 7}, verifier="number")
    found = compute_score("gsm8k", "72", "no number", {"index": 7}, verifier="number", unscored=-1.0)
    assert (found["score"], found["outcome"]) == (-1.0, "verifier_error")


def test_without_a_verifier_or_with_broken_settings_the_error_says_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RLVR_VERIFIER", raising=False)
    with pytest.raises(ConfigError, match=r"reward_kwargs\.verifier"):
        compute_score("s", "72", "72")
    with pytest.raises(ConfigError, match="not JSON"):
        compute_score("s", "72", "72", {"verifier_settings": "{"}, verifier="number")
    with pytest.raises(ConfigError, match="not an object"):
        compute_score("s", "72", "72", {"verifier_settings": "[1]"}, verifier="number")


def test_numpy_values_of_a_parquet_row_are_plain_for_the_verifier() -> None:
    import numpy as np

    assert (
        compute_score("s", "<answer>72</answer>", np.int64(72), {"numbers": np.array([1, 2])}, verifier="number")["score"] == 1.0
    )


def test_verl_itself_loads_and_calls_it() -> None:
    reason = "the package 'verl' is not installed"
    manager = pytest.importorskip("verl.experimental.reward_loop.reward_manager.naive", reason=reason)
    reward = pytest.importorskip("verl.trainer.ppo.reward", reason=reason)
    omegaconf = pytest.importorskip("omegaconf", reason=reason)
    own = {"path": "pkg://rlvr.integrations.verl", "name": "compute_score", "reward_kwargs": {"verifier": "number"}}
    function = reward.get_custom_reward_fn(omegaconf.OmegaConf.create({"reward": {"custom_reward_function": own}}))

    async def graded(text: str) -> Any:
        return await manager.NaiveRewardManager(None, Tokenizer(), function).run_single(data_proto(text))

    assert asyncio.run(graded("<answer>72</answer>"))["reward_score"] == 1.0
    wrong = asyncio.run(graded("<answer>71</answer>"))
    assert wrong["reward_score"] == 0.0
    assert wrong["reward_extra_info"]["outcome"] == "incorrect"


class Tokenizer:
    """One token for each character."""

    def decode(self, ids: Any, *, skip_special_tokens: bool) -> str:
        assert skip_special_tokens
        return "".join(map(chr, ids.tolist()))


def data_proto(text: str) -> Any:
    import numpy as np
    import torch
    from verl import DataProto

    responses = torch.tensor([[ord(character) for character in text]])
    return DataProto.from_dict(
        tensors={"responses": responses, "attention_mask": torch.ones_like(responses)},
        non_tensors={
            "data_source": np.array(["gsm8k"], dtype=object),
            "reward_model": np.array([{"ground_truth": "72"}], dtype=object),
            "extra_info": np.array([{"index": 0}], dtype=object),
        },
    )
