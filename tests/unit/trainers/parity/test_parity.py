"""Our loss and gradients beside other packages' own code, where they are installed; and that a difference is found."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace

import pytest
from torch import Tensor

from rlvr.cli.main import main
from rlvr.errors import ConfigError
from rlvr.trainers.parity.comparison import Peer, Setting, TheirBatch, compare
from rlvr.trainers.parity.peers import PEERS, load_peer


@dataclass(frozen=True, slots=True)
class ByHand:
    """REINFORCE with the mean of the other rollouts as a baseline, summed over tokens and divided by the rollouts: RLOO."""

    name: str = "by hand"
    version: str = "0"
    settings: Sequence[Setting] = (Setting("rloo", {}),)
    factor: float = 1.0

    def loss(self, batch: TheirBatch, setting: Setting) -> Tensor:
        grouped = batch.rewards.view(-1, batch.group_size)
        others = (grouped.sum(1, keepdim=True) - grouped) / (batch.group_size - 1)
        advantages = (grouped - others).flatten()[:, None]
        return -self.factor * (advantages * batch.logprobs * batch.mask).sum() / len(batch.rewards)


def test_a_loss_written_by_hand_agrees_to_rounding() -> None:
    found = compare(ByHand(), Setting("rloo", {}))
    assert found.is_equal
    assert found.loss_gap < 1e-14
    assert {p.name for p in found.parameters} >= {"model.embed_tokens.weight", "model.norm.weight"}
    assert max(p.largest for p in found.parameters) > 1e-3


@pytest.mark.parametrize(
    "wrong",
    [Setting("rloo", {"aggregate": "token_mean"}), Setting("grpo", {}), Setting("reinforce", {})],
    ids=lambda setting: setting.name,
)
def test_another_aggregation_baseline_or_scale_is_found(wrong: Setting) -> None:
    found = compare(ByHand(), wrong)
    assert not found.is_equal
    assert found.gradient_gap > 1e-3


def test_a_factor_of_one_in_a_thousand_is_found() -> None:
    assert not compare(ByHand(factor=1.001), Setting("rloo", {})).is_equal


def peer_of(name: str) -> Peer:
    try:
        return load_peer(name)
    except ConfigError as missing:
        pytest.skip(str(missing))


@pytest.mark.parametrize("name", PEERS)
def test_every_setting_agrees_with_the_real_package(name: str) -> None:
    peer = peer_of(name)
    found = [compare(peer, setting) for setting in peer.settings]
    assert [one.setting for one in found if not one.is_equal] == []
    assert len(found) >= 7


@pytest.mark.parametrize("name", PEERS)
def test_the_old_and_the_reference_policy_count(name: str) -> None:
    """Otherwise the comparison would say nothing about ratios, clips and KL."""
    peer = peer_of(name)
    clipped = compare(peer, replace(peer.settings[0], arguments={**peer.settings[0].arguments, "clip_high": 0.01}))
    with_kl = compare(peer, replace(peer.settings[0], arguments={**peer.settings[0].arguments, "kl_coef": 0.1}))
    assert not clipped.is_equal
    assert not with_kl.is_equal


def test_the_verb_prints_json_and_its_exit_code_tells(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("rlvr.trainers.parity.peers.PEERS", {"trl": ByHand})
    assert main(["parity", "--against", "trl", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert [row["is_equal"] for row in said["settings"]] == [True]
    monkeypatch.setattr("rlvr.trainers.parity.peers.PEERS", {"trl": lambda: ByHand(factor=2.0)})
    assert main(["parity", "--against", "trl", "--parameters"]) == 1
    text = capsys.readouterr().out
    assert "differs" in text
    assert "model.norm.weight" in text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--against", "openrlhf"], "choose from trl, verl"),
        (["--against", "trl", "--algorithm", "ppo"], "is compared for rloo"),
    ],
)
def test_wrong_words_are_named(
    words: list[str], message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("rlvr.trainers.parity.peers.PEERS", {"trl": ByHand, "verl": ByHand})
    assert main(["parity", *words]) == 2
    assert message in " ".join(capsys.readouterr().err.split())
