"""Shapes by name: in recipes, one after the other, and in `rlvr explain`."""

from __future__ import annotations

import json
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from rlvr.cli.main import main
from rlvr.config import RunConfig, load_recipe, to_toml
from rlvr.envs.tasks import load_task
from rlvr.errors import ConfigError, PluginError
from rlvr.registry import names, resolve
from rlvr.trainers.algorithms import build, dapo, grpo
from rlvr.trainers.batch import build_batch, fill_advantages
from rlvr.trainers.explain.algorithm import explain, parse_settings, shapes_from
from rlvr.trainers.explain.toy_batch import ToyBatch, compute
from rlvr.trainers.plan import algorithm_of, training_problems
from rlvr.trainers.shaping.base import Identity, OverlongFilter, OverlongPenalty
from rlvr.trainers.shaping.length_penalties import KimiLength, TargetLength
from rlvr.trainers.shaping.sections import Shapes, build_shape, formulas, with_shapes
from rlvr.types import Completion, FinishReason, Group, Message, Problem, Rollout, Stop, Turn, Verdict


def recipe(*overrides: str, **settings: Any) -> RunConfig:
    found = load_recipe({"model": "m", "task": "chains", **settings}, overrides)
    assert isinstance(found, RunConfig)
    return found


def group(*attempts: tuple[int, bool], truncated: tuple[int, ...] = (), **metadata: Any) -> Group:
    """Rollouts of (tokens, is correct)."""
    problem = Problem("p", (), 1, metadata)

    def rollout(index: int, tokens: int, is_correct: bool) -> Rollout:
        turn = Turn((7,), Completion((1,) * tokens, (0.0,) * tokens, FinishReason.STOP), Message("assistant", ""))
        verdict = Verdict.correct() if is_correct else Verdict.incorrect()
        stop = Stop.LENGTH if index in truncated else Stop.STOP
        return Rollout(problem, index, [turn], stop, {"v": verdict}, verdict.score)

    return Group(problem, tuple(rollout(index, *attempt) for index, attempt in enumerate(attempts)))


def test_a_recipe_names_shapes_with_their_arguments_and_they_come_after_the_algorithms_own() -> None:
    shapes = [{"name": "kimi_length", "weight": 0.5, "warmup_steps": 3}, {"name": "overlong_filter"}]
    algorithm = algorithm_of(recipe(algorithm={"name": "dapo"}, shapes=shapes))
    assert algorithm is not None
    assert algorithm.shape == Shapes((OverlongPenalty(), KimiLength(0.5, 3), OverlongFilter()))
    assert algorithm.bind(max_tokens=10).shape == Shapes((OverlongPenalty(10), KimiLength(0.5, 3), OverlongFilter()))


@pytest.mark.parametrize(
    "override", ["shapes=kimi_length", 'shapes=["kimi_length"]', 'shapes=[{name="kimi_length"}]', 'shapes={name="kimi_length"}']
)
def test_an_override_may_be_a_name_a_table_or_a_list(override: str) -> None:
    algorithm = algorithm_of(recipe(override))
    assert algorithm is not None
    assert algorithm.shape == KimiLength()


def test_without_shapes_the_algorithm_is_its_presets() -> None:
    assert algorithm_of(recipe()) == build("grpo")


def test_a_recipe_with_shapes_survives_being_written_and_read() -> None:
    asked = recipe(shapes=[{"name": "cosine_length", "correct": [1.0, 0.5]}, "overlong_filter"])
    assert load_recipe(tomllib.loads(to_toml(asked.model_dump()))) == asked


@pytest.mark.parametrize(
    ("shapes", "kind", "wrong"),
    [
        ("kimi_lenght", PluginError, "did you mean 'kimi_length'"),
        (
            [{"name": "kimi_length", "wieght": 1}],
            ConfigError,
            "shape 'kimi_length' has no argument 'wieght'; did you mean 'weight'",
        ),
        ([{"name": "kimi_length", "weight": "x"}], ConfigError, "shapes.kimi_length.weight = 'x'"),
        ([{"name": "kimi_length", "weight": -1}], ConfigError, "kimi_length.weight = -1"),
        ([{"name": "kimi_length", "warmup_steps": -1}], ConfigError, "kimi_length.warmup_steps = -1"),
        ([{"name": "overlong_filter", "baseline": "off"}], ConfigError, "shapes.overlong_filter.baseline = 'off'"),
    ],
)
def test_wrong_shapes_are_refused_before_anything_runs(shapes: Any, kind: type[Exception], wrong: str) -> None:
    with pytest.raises(kind, match=wrong):
        algorithm_of(recipe(shapes=shapes))


def test_a_shape_without_a_name_is_refused_by_the_recipe() -> None:
    with pytest.raises(ConfigError, match=r"shapes\.0\.name is missing"):
        recipe(shapes=[{"weight": 1}])


def test_what_makes_no_shape_is_a_plugin_error(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "constant = 3\ndef make():\n    return 3\ndef twice():\n    return lambda g: [2 * r.reward for r in g.rollouts]\n"
    )
    with pytest.raises(PluginError, match="is 3, but a class or function"):
        build_shape(f"{file}:constant")
    with pytest.raises(PluginError, match="made 3, but a shape is called"):
        build_shape(f"{file}:make")
    assert build_shape(f"{file}:twice")(group((1, True), (2, False))) == [2, 0]


def test_each_shape_reads_the_reward_of_the_one_before_it_and_leaves_the_rollouts_alone() -> None:
    def halved(found: Group) -> list[float | None]:
        return [None if r.reward is None else r.reward / 2 for r in found.rollouts]

    found = group((10, True), (20, False), target_tokens=20)
    assert Shapes((halved, TargetLength(0.01)))(found) == pytest.approx([0.5 - 0.1, 0.0])
    assert Shapes((TargetLength(0.01), halved))(found) == pytest.approx([(1 - 0.1) / 2, 0.0])
    assert [rollout.reward for rollout in found.rollouts] == [1, 0]


def test_the_warm_up_is_a_function_of_the_step_alone() -> None:
    algorithm = with_shapes(grpo(), recipe(shapes=[{"name": "kimi_length", "warmup_steps": 5}]).shapes)
    found = group((10, True), (20, True))
    assert algorithm.at_step(4).shape(found) == Identity()(found) == [1, 1]
    assert algorithm.at_step(5).shape(found) == KimiLength()(found) == [1.5, 0.5]
    assert algorithm.at_step(5).at_step(99) == algorithm
    chained = with_shapes(dapo(max_tokens=20), recipe(shapes=[{"name": "kimi_length", "warmup_steps": 5}]).shapes)
    assert chained.at_step(0).shape(found) == OverlongPenalty(20)(found)
    assert chained.at_step(5).shape(found) == [1.5, -0.5]


def test_truncated_rollouts_get_no_gradient_and_stay_in_the_baseline_or_leave_it() -> None:
    found = group((3, True), (4, False), (5, False), truncated=(2,))
    for rollout in found.rollouts:
        rollout.reward = float(rollout.is_correct)
    algorithm = replace(grpo(normalize="none"), shape=OverlongFilter())
    batch = build_batch([found], algorithm.in_loss)
    fill_advantages(batch, algorithm)
    assert batch.loss_mask.sum(1).tolist() == [3, 4, 0]
    assert batch.advantages[:, 1].tolist() == pytest.approx([2 / 3, -1 / 3, 0])  # the mean is over all three
    assert torch.all(batch.weights[2] == 0)
    assert OverlongFilter("out")(found) == [1, 0, None]
    assert OverlongFilter("out").in_loss(found.rollouts[0])
    assert not Shapes((KimiLength(), OverlongFilter())).in_loss(found.rollouts[2])


@pytest.mark.parametrize("aggregate", ["sequence_mean", "token_mean", "sequence_sum", "token_sum_over"])
def test_a_step_in_which_every_rollout_is_truncated_has_no_gradient_and_no_nan(aggregate: str) -> None:
    found = group((3, True), (4, False), truncated=(0, 1))
    algorithm = replace(build("grpo", {"aggregate": aggregate, "max_tokens": 8}), shape=OverlongFilter())
    batch = build_batch([found], algorithm.in_loss)
    fill_advantages(batch, algorithm)
    assert torch.all(batch.weights == 0)
    assert torch.all(batch.advantages == 0)


def test_a_target_that_no_prompt_asks_for_is_missed_before_the_run() -> None:
    plain = recipe("shapes=lcpo_exact", data={"problems": 5})
    with pytest.raises(ConfigError, match=r"metadata target_tokens = None.*length_target:NAME"):
        training_problems(plain, load_task("chains"))
    asked = load_task("length_target:chains")
    assert len(training_problems(plain, asked)) == 5
    with pytest.raises(ConfigError, match="target_tokens = None"):
        training_problems(recipe('shapes=["kimi_length", "lcpo_max"]'), load_task("chains"))


@pytest.mark.parametrize(
    ("algorithm", "shapes", "warning"),
    [
        ("grpo", ["kimi_length", "cosine_length"], "the shapes before it have no effect"),
        ("dapo", "overlong_penalty", "taken twice"),
        ("dapo", "kimi_length", None),
        ("grpo", ["cosine_length", "kimi_length"], None),
    ],
)
def test_shapes_that_work_against_each_other_are_named(algorithm: str, shapes: Any, warning: str | None) -> None:
    found = explain(algorithm, {}, shapes_from({"shapes": shapes})).warnings
    assert (warning is None and not found) or any(warning is not None and warning in text for text in found)


def test_explain_shows_the_formula_and_the_words_of_every_shape() -> None:
    settings = parse_settings(["max_tokens=100", 'shapes=["kimi_length", {name="overlong_filter", baseline="out"}]'])
    explanation = explain("dapo", settings, shapes_from(settings))
    lines = [line for line in explanation.where if line.startswith("rᵢ")]
    assert lines == [
        "rᵢ = score − min(1, max(0, |oᵢ| − 80) / 20)",
        "rᵢ ← rᵢ + 1 · (λᵢ if correct else min(0, λᵢ)),  λᵢ = 0.5 − (|oᵢ| − min_g) / (max_g − min_g)",
        "rᵢ ← rᵢ, no rᵢ if truncated",
    ]
    assert [choice.words[:20] for choice in explanation.choices if choice.part == "shape"] == [
        "the reward falls lin",
        "within a group, shor",
        "truncated rollouts a",
    ]


@pytest.mark.parametrize("name", names("shapes"))
def test_every_built_in_shape_has_a_formula_words_and_a_source(name: str) -> None:
    shape: Any = build_shape(name)
    assert shape.formula.startswith("rᵢ")
    assert len(shape.words) > 15
    assert "Source:" in (resolve("shapes", name).target.__doc__ or "")
    assert formulas(Shapes((Identity(), shape)))[1].startswith("rᵢ ←")


def test_shapes_that_are_no_shapes_are_refused_by_explain() -> None:
    with pytest.raises(ConfigError, match="shapes = 3; give a name, or a list"):
        shapes_from({"shapes": 3})


BATCH = {
    "logprobs": [[-1.0] * 10, [-1.0] * 20, [-1.0] * 30],
    "mask": [[1] * 10, [1] * 20, [1] * 30],
    "rewards": [1, 1, 0],
    "groups": ["a", "a", "a"],
}


def toy(*words: str, **more: Any) -> Any:
    settings = parse_settings(words)
    shapes = shapes_from(settings)
    return compute(with_shapes(build("grpo", settings), shapes), ToyBatch.parse({**BATCH, **more}), are_scores=True)


def test_a_toy_batch_is_shaped_as_training_would() -> None:
    assert toy("shapes=kimi_length").rewards == pytest.approx([1.5, 1.0, -0.5])
    assert toy("shapes=kimi_length", correct=[True, False, False]).rewards == pytest.approx([1.5, 1.0, -0.5])
    assert toy('shapes=[{name="kimi_length", warmup_steps=3}]', step=2).rewards == [1, 1, 0]
    assert toy('shapes=[{name="lcpo_exact", alpha=0.01}]', target_tokens=20).rewards == pytest.approx([0.9, 1.0, -0.1])
    assert toy("shapes=overlong_penalty", max_tokens=30).rewards == pytest.approx([1, 1, -1])


def test_a_rollout_that_a_shape_leaves_out_has_no_part_in_the_toy_batch() -> None:
    found = toy('shapes=[{name="overlong_filter", baseline="out"}]', truncated=[False, True, False])
    assert found.rewards == [1, None, 0]
    assert found.advantages[1] == [0] * 20
    assert found.advantages[0][0] == -found.advantages[2][0] > 0
    assert any("rollouts 1 are left out" in note for note in found.notes)
    masked = toy("shapes=overlong_filter", truncated=[False, True, False])
    assert masked.rewards == [1, 1, 0]
    assert masked.grad_logprobs[1] == [0] * 20


@pytest.mark.parametrize(
    ("more", "wrong"),
    [
        ({"correct": [1, 0]}, "batch.correct"),
        ({"target_tokens": [1, 2, 2]}, "differs within group 'a'"),
        ({"target_tokens": [1, 2]}, "2 entries for 3 rollouts"),
        ({"step": -1}, "batch.step = -1"),
    ],
)
def test_wrong_inputs_for_shapes_are_named(more: dict[str, Any], wrong: str) -> None:
    with pytest.raises(ConfigError, match=wrong):
        ToyBatch.parse({**BATCH, **more})


def test_explain_computes_shapes_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "batch.json"
    file.write_text(json.dumps(BATCH))
    assert main(["explain", "grpo", "shapes=kimi_length", "--on", str(file), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["rewards"] == pytest.approx([1.5, 1.0, -0.5])
    assert main(["explain", "grpo", "shapes=kimi_length"]) == 0
    assert "λᵢ" in capsys.readouterr().out
