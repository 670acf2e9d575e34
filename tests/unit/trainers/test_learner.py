"""One step of learning, from rollouts made by hand to parameters."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import pytest
import torch
from torch import Tensor

from rlvr.config import load_recipe
from rlvr.engines.load import LoadedModel
from rlvr.envs.tasks import TinyModel
from rlvr.errors import TrainingError
from rlvr.evaluation.observer import SilentObserver
from rlvr.trainers.algorithms import build
from rlvr.trainers.batch import build_batch, minibatches, rollout_advantages
from rlvr.trainers.learner import Learner, Reference
from rlvr.trainers.model.distributed import World
from rlvr.trainers.model.tiny import tiny_model
from rlvr.trainers.run.rundir import RunFolder
from rlvr.trainers.run.session import Session
from rlvr.types import Completion, FinishReason, Group, Message, Problem, Rollout, Turn

SPEC = TinyModel(alphabet="0123456789", hidden=32, layers=2, heads=2, kv_heads=1, head_dim=16, intermediate=48)
PRESETS = ("grpo", "dr_grpo", "dapo", "rloo", "reinforce", "reinforce_pp", "gspo", "cispo")


def rollout_of(problem: Problem, index: int, turns: Sequence[tuple[Sequence[int], Sequence[int]]], reward: float) -> Rollout:
    """Turns are (prompt_ids, sampled ids)."""
    made = [Turn(tuple(p), Completion(tuple(s), (-2.0,) * len(s), FinishReason.STOP), Message("assistant", "")) for p, s in turns]
    return Rollout(problem, index, made, reward=reward)


def group_of(name: str, rewards: Sequence[float], lengths: Sequence[int] = (3, 7, 2, 5)) -> Group:
    problem = Problem(name, (Message("user", name),), "0")
    start = 2 + len(name) % 3
    rollouts = [
        rollout_of(problem, i, [((2, 3, start), [(start + 3 * i + j) % 9 + 2 for j in range(lengths[i])])], reward)
        for i, reward in enumerate(rewards)
    ]
    return Group(problem, tuple(rollouts))


GROUPS = (group_of("a", (1, 0, 0, 1)), group_of("bb", (0, 1, 0, 0), (6, 1, 9, 4)), group_of("ccc", (0.5, 1, 0, 0.25)))


def session_of(**settings: Any) -> Session:
    model, tokenizer = tiny_model(SPEC)
    defaults = {"model": "new:tiny", "task": "chains", "optim": {"lr": 1e-2}, "rollout": {"temperature": 0.9}}
    recipe = load_recipe({**defaults, **settings})
    loaded = LoadedModel(model, tokenizer, "new:tiny", torch.device("cpu"), "fp32")
    return Session(recipe, RunFolder(Path("unused")), loaded, World(), SilentObserver())


def learner_of(session: Session, algorithm: str, *, reference: Any = None, **arguments: Any) -> Learner:
    built = build(algorithm, arguments).bind(max_tokens=16)
    made = Reference(session.policy, reference) if built.needs_reference else None
    return Learner(session, session.recipe, built, made)  # type: ignore[arg-type]


def step(
    algorithm: str, groups: Sequence[Group] = GROUPS, *, optim: dict[str, Any] | None = None, **arguments: Any
) -> tuple[Session, dict[str, float]]:
    """The session after one step; its gradients are those that no clipping has touched."""
    session = session_of(optim={"lr": 1e-2, "grad_clip": 0.0, **(optim or {})})
    watch_gradients(session)
    reference = tiny_model(SPEC, seed=1)[0] if arguments.get("kl_coef") else None
    learner = learner_of(session, algorithm, reference=reference, **arguments)
    return session, learner.learn(learner.prepare(groups))


def weights_of(session: Session) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in session.loaded.model.named_parameters()}


GRADIENTS: WeakKeyDictionary[Session, dict[str, Tensor]] = WeakKeyDictionary()


def watch_gradients(session: Session) -> None:
    """Keep what has been added up after each micro-batch: an update gives its gradients back."""
    kept = GRADIENTS[session] = {}

    def watch(name: str, parameter: torch.nn.Parameter) -> None:
        def keep(accumulated: Tensor) -> None:
            assert accumulated.grad is not None
            kept[name] = accumulated.grad.clone()

        parameter.register_post_accumulate_grad_hook(keep)

    for name, parameter in session.loaded.model.named_parameters():
        watch(name, parameter)


def gradients_of(session: Session) -> dict[str, Tensor]:
    return GRADIENTS[session]


def test_an_update_leaves_no_gradients_behind() -> None:
    session, metrics = step("grpo")
    assert metrics["grad_norm"] > 0
    assert all(parameter.grad is None for parameter in session.loaded.model.parameters())


def relative_gap(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    first, second = (torch.cat([values[name].flatten() for name in one]) for values in (one, other))
    return float((first - second).norm() / second.norm())


@pytest.mark.parametrize("algorithm", PRESETS)
def test_any_split_into_microbatches_gives_the_same_gradient(algorithm: str) -> None:
    whole, _ = step(algorithm, optim={"tokens_per_microbatch": 10_000})
    for tokens in (1, 30):
        parts, _ = step(algorithm, optim={"tokens_per_microbatch": tokens})
        assert relative_gap(gradients_of(parts), gradients_of(whole)) < 2e-6


@pytest.mark.parametrize("in_reward", [False, True])
def test_any_split_gives_the_same_gradient_with_kl_and_entropy_too(in_reward: bool) -> None:
    extras = {"kl_coef": 0.1, "kl_in_reward": in_reward, "entropy_coef": 0.01, "tis_cap": 2.0}
    whole, _ = step("grpo", optim={"tokens_per_microbatch": 10_000}, **extras)
    parts, _ = step("grpo", optim={"tokens_per_microbatch": 5}, **extras)
    assert relative_gap(gradients_of(parts), gradients_of(whole)) < 2e-6


@pytest.mark.parametrize("algorithm", ["grpo", "gspo", "rloo", "reinforce_pp"])
def test_a_rollout_in_two_segments_counts_once(algorithm: str) -> None:
    """The same tokens in one row, and in two rows whose second context equals the first's: same weights and gradient."""
    problem = Problem("p", (Message("user", "p"),), "0")
    other = rollout_of(problem, 1, [((2, 3), (5, 6, 7))], 0.0)
    rewritten = rollout_of(problem, 0, [((2, 3), (4, 5)), ((2, 9), (6,))], 1.0)
    batch = build_batch([Group(problem, (rewritten, other))])
    assert batch.rollout_index.tolist() == [0, 0, 1]
    session = session_of()
    learner = learner_of(session, algorithm)
    prepared = learner.prepare([Group(problem, (rewritten, other))])
    sums = torch.zeros(2).index_add(0, prepared.rollout_index, prepared.weights.sum(1))
    if algorithm in ("grpo", "gspo"):
        torch.testing.assert_close(sums, torch.tensor([0.5, 0.5]))
    advantages = prepared.advantages[prepared.loss_mask]
    whole = learner.prepare([Group(problem, (rollout_of(problem, 0, [((2, 3), (4, 5, 6))], 1.0), other))])
    torch.testing.assert_close(advantages, whole.advantages[whole.loss_mask])
    torch.testing.assert_close(prepared.weights[prepared.loss_mask], whole.weights[whole.loss_mask])
    assert rollout_advantages(prepared) == pytest.approx(rollout_advantages(whole))


def test_tool_output_and_prompt_tokens_get_no_gradient() -> None:
    """Two rollouts that differ in the tokens after the last sampled one, and in nothing else, teach the same."""
    problem = Problem("p", (Message("user", "p"),), "0")
    bad = rollout_of(problem, 1, [((2, 3), (8,))], 0.0)

    def gradient(tool_output: Sequence[int], sampled: bool) -> dict[str, Tensor]:
        turns = [((2, 3), (4, 5))] + ([((2, 3, 4, 5, *tool_output), (6,))] if sampled else [])
        session = session_of(optim={"lr": 1e-2, "grad_clip": 0.0})
        watch_gradients(session)
        learner = learner_of(session, "rloo")
        batch = learner.prepare([Group(problem, (rollout_of(problem, 0, turns, 1.0), bad))])
        if sampled:
            assert batch.loss_mask[0].tolist() == [False, False, True, True, *[False] * len(tool_output), True]
            batch.loss_mask[0, -1] = False  # leave only what was sampled before the tool spoke
        learner.learn(batch)
        return gradients_of(session)

    without = gradient((), sampled=False)
    for output in ((7, 7), (9, 3, 10)):
        assert relative_gap(gradient(output, sampled=True), without) < 1e-5


@pytest.mark.parametrize("algorithm", PRESETS[:5] + PRESETS[6:])
def test_groups_without_variance_cause_no_update_at_all(algorithm: str) -> None:
    session = session_of(optim={"lr": 1e-2, "weight_decay": 0.1})
    before = weights_of(session)
    learner = learner_of(session, algorithm)
    same = [group_of("a", (1, 1, 1, 1)), group_of("bb", (1, 1, 1, 1))]
    assert learner.learn(learner.prepare(same)) == {}
    for name, value in weights_of(session).items():
        assert torch.equal(value, before[name]), name


def test_a_group_without_variance_adds_nothing_to_the_others_gradient() -> None:
    mixed, _ = step("dr_grpo", [GROUPS[0]])
    with_flat, _ = step("dr_grpo", [GROUPS[0], group_of("bb", (1, 1, 1, 1))])
    halved = {name: value / 2 for name, value in gradients_of(mixed).items()}  # of twice as many rollouts
    assert relative_gap(gradients_of(with_flat), halved) < 2e-6


def test_no_copy_of_the_model_is_made_without_kl(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: Any) -> None:
        raise AssertionError("the model was copied")

    session = session_of()
    monkeypatch.setattr(copy, "deepcopy", refuse)
    learner = learner_of(session, "grpo", kl_coef=0.0)
    metrics = learner.learn(learner.prepare(GROUPS))
    assert "ref_kl" not in metrics


def test_kl_in_the_loss_pulls_towards_the_reference() -> None:
    """With rewards that teach nothing, KL alone moves the policy, and falls."""
    session = session_of(optim={"lr": 3e-3})
    learner = learner_of(session, "grpo", reference=tiny_model(SPEC, seed=1)[0], kl_coef=1.0, kl="k2")
    flat = [group_of("a", (1, 1, 1, 1)), group_of("bb", (1, 1, 1, 1))]
    found = [learner.learn(learner.prepare(flat))["ref_kl"] for _ in range(10)]
    assert found[-1] < 0.5 * found[0]


def test_kl_in_the_reward_is_part_of_the_advantages() -> None:
    session = session_of()
    learner = learner_of(session, "reinforce", reference=tiny_model(SPEC, seed=1)[0], kl_coef=0.5, kl_in_reward=True)
    batch = learner.prepare(GROUPS)
    plain = learner_of(session, "reinforce").prepare(GROUPS)
    assert batch.old_logprobs is not None
    assert batch.ref_logprobs is not None
    assert not torch.allclose(batch.advantages, plain.advantages)
    assert learner.learn(batch)["ref_kl"] != 0


def test_a_reference_stays_while_the_policy_moves_until_it_is_refreshed() -> None:
    session = session_of()
    reference = Reference(session.policy)
    learner = learner_of(session, "grpo")
    batch = learner.prepare(GROUPS)
    rows = torch.arange(len(batch.lengths))
    before = reference.score(batch, rows, 0.9)
    learner.learn(batch)
    torch.testing.assert_close(reference.score(batch, rows, 0.9), before, rtol=0, atol=0)
    reference.refresh()
    now = session.policy.score(batch.input_ids, batch.lengths, batch.loss_mask, temperature=0.9).logprobs
    torch.testing.assert_close(reference.score(batch, rows, 0.9), now.detach())


@pytest.mark.parametrize("optim", [{"epochs": 3}, {"minibatches": 3}, {"epochs": 2, "minibatches": 2}])
def test_several_updates_measure_against_the_policy_before_the_first(optim: dict[str, Any]) -> None:
    session = session_of(optim={"lr": 3e-2, **optim})
    learner = learner_of(session, "grpo", clip_low=0.05, clip_high=0.05)
    batch = learner.prepare(GROUPS)
    assert batch.old_logprobs is not None
    expected = session.policy.score(batch.input_ids, batch.lengths, batch.loss_mask, temperature=0.9).logprobs.detach()
    torch.testing.assert_close(batch.old_logprobs, expected)
    metrics = learner.learn(batch)
    assert metrics["policy_kl"] > 0
    assert metrics["clip_share"] > 0
    assert metrics["ratio_max"] > 1.05


def test_one_update_is_on_policy() -> None:
    session, metrics = step("grpo")
    assert (metrics["ratio_max"], metrics["clip_share"], metrics["policy_kl"]) == (1.0, 0.0, 0.0)
    assert session.updater.peak_lr == metrics["lr"]


def test_minibatches_hold_every_row_once_and_whole_groups() -> None:
    session = session_of(optim={"minibatches": 2})
    learner = learner_of(session, "grpo")
    batch = learner.prepare(GROUPS)
    parts = minibatches(batch, build("grpo"), 2)
    assert sum(len(part.lengths) for part in parts) == len(batch.lengths)
    assert [len(part.rewards) for part in parts] == [8, 4]
    for part in parts:
        torch.testing.assert_close(part.weights.sum(), torch.tensor(1.0))


def test_an_entropy_bonus_raises_entropy() -> None:
    session = session_of(optim={"lr": 3e-3})
    for parameter in session.loaded.model.parameters():
        if parameter.ndim > 1:
            parameter.data *= 4  # a fresh model's entropy is at its maximum
    learner = learner_of(session, "grpo", entropy_coef=1.0)
    flat = [group_of("a", (1, 1, 1, 1))]
    found = [learner.learn(learner.prepare(flat))["entropy"] for _ in range(10)]
    assert found[-1] > found[0] + 0.05


def test_a_broken_logprob_stops_the_run_and_leaves_the_weights() -> None:
    session = session_of()
    learner = learner_of(session, "grpo", tis_cap=2.0)
    batch = learner.prepare(GROUPS)
    before = weights_of(session)
    batch.sampling_logprobs[0, 4] = float("nan")
    with pytest.raises(TrainingError, match=r"step 1: loss nan.*the weights were not touched"):
        learner.learn(batch)
    for name, value in weights_of(session).items():
        assert torch.equal(value, before[name]), name
    assert all(parameter.grad is None for parameter in session.loaded.model.parameters())
    assert not session.updater.state_dict()["state"]


def test_rewards_that_are_not_numbers_are_refused() -> None:
    session = session_of()
    with pytest.raises(TrainingError, match="not finite"):
        learner_of(session, "grpo").prepare([group_of("a", (1, float("nan"), 0, 0))])


def test_rewarded_answers_become_likelier() -> None:
    session = session_of(optim={"lr": 1e-3})
    learner = learner_of(session, "grpo")
    batch = learner.prepare([GROUPS[0]])
    before = session.policy.score(batch.input_ids, batch.lengths, batch.loss_mask).logprobs.sum(1).detach()
    learner.learn(batch)
    after = session.policy.score(batch.input_ids, batch.lengths, batch.loss_mask).logprobs.sum(1).detach()
    is_good = batch.rewards > 0
    assert (after > before)[is_good].all()
    assert (after < before)[~is_good].all()


def test_rollouts_that_waited_are_compared_with_the_policy_that_sampled_them() -> None:
    session = session_of()
    session.step = 1
    old, fresh = GROUPS[0], GROUPS[1]
    for rollout in fresh.rollouts:
        turn = rollout.turns[0]
        rollout.turns[0] = replace(turn, completion=replace(turn.completion, policy_version=1))
    batch = learner_of(session, "grpo").prepare([old, fresh])
    assert batch.old_logprobs is not None
    is_old = batch.group_index[batch.rollout_index] == 0
    mask = batch.loss_mask
    assert torch.equal(batch.old_logprobs[is_old][mask[is_old]], batch.sampling_logprobs[is_old][mask[is_old]])
    own = session.policy.score(batch.input_ids, batch.lengths, mask, temperature=0.9).logprobs.detach()
    torch.testing.assert_close(batch.old_logprobs[~is_old][mask[~is_old]], own[~is_old][mask[~is_old]])
    for rollout in fresh.rollouts:  # the groups are shared by all tests
        turn = rollout.turns[0]
        rollout.turns[0] = replace(turn, completion=replace(turn.completion, policy_version=0))
