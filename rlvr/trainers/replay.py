"""What would another verifier, shape, filter or algorithm have made of the rollouts that a run has stored?

Nothing is generated and nothing is trained: stored rollouts are graded again where the verifiers change, and the trainer's own
code computes rewards, drops groups and computes advantages. What flips is known before anyone trains again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rlvr.config import RunConfig, load_recipe
from rlvr.engines.subject import run_to_end
from rlvr.errors import ConfigError, EvaluationError, RlvrError
from rlvr.evaluation.ledger import StoredRollout
from rlvr.evaluation.run_folder import RunFolder, open_run
from rlvr.trainers.algorithms import Algorithm
from rlvr.trainers.batch import build_batch, fill_advantages, rollout_advantages
from rlvr.trainers.group_filters import GroupFilter, build_filters
from rlvr.trainers.plan import algorithm_of, sampling_of
from rlvr.trainers.rollouts import scored_group, shape_group
from rlvr.trainers.shaping.stages import at_stage
from rlvr.types import JSON, Group, Rollout
from rlvr.verifiers.compose import weighted_reward
from rlvr.verifiers.runner import Grader, WeightedVerifier

CHANGES = ("verifiers", "shapes", "filters", "algorithm")
_SMALL = 1e-6
_FAITHFUL = 1e-4


@dataclass(frozen=True, slots=True)
class Flip:
    """A rollout whose advantage changed its sign, or that is now learned from, or no more (None)."""

    step: int
    problem: str
    sample: int
    outcomes: tuple[str, str]
    rewards: tuple[float | None, float | None]
    advantages: tuple[float | None, float | None]
    response_end: str

    def to_json(self) -> dict[str, JSON]:
        pairs = {"outcome": self.outcomes, "reward": self.rewards, "advantage": self.advantages}
        shown = {name: {"before": pair[0], "after": pair[1]} for name, pair in pairs.items()}
        return {"step": self.step, "problem": self.problem, "sample": self.sample, **shown, "response_end": self.response_end}


@dataclass(slots=True)
class ReplayReport:
    """What changes. `signs` counts rollouts by the sign of their advantage before and after; `dropped` is a rollout that is not
    learned from. `reproduced` of `checked` stored advantages come out again under the run's own recipe: below all of them, the
    replay cannot see everything that the run did, and its numbers are to be doubted alike."""

    run: str
    changes: tuple[str, ...]
    rollouts: int = 0
    groups: int = 0
    outcomes: Counter[tuple[str, str]] = field(default_factory=Counter)
    rewards_changed: int = 0
    signs: Counter[tuple[str, str]] = field(default_factory=Counter)
    signal_gained: int = 0  # groups
    signal_lost: int = 0
    signal_kept: int = 0
    checked: int = 0
    reproduced: int = 0
    flips: list[Flip] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def outcomes_flipped(self) -> int:
        return sum(count for (old, new), count in self.outcomes.items() if old != new)

    @property
    def signs_flipped(self) -> int:
        return sum(count for (old, new), count in self.signs.items() if old != new)

    def to_json(self) -> dict[str, JSON]:
        def pairs(counts: Counter[tuple[str, str]]) -> list[dict[str, JSON]]:
            return [{"before": old, "after": new, "count": count} for (old, new), count in sorted(counts.items())]

        return {
            "run": self.run,
            "changes": list(self.changes),
            "rollouts": self.rollouts,
            "groups": self.groups,
            "outcomes_flipped": self.outcomes_flipped,
            "outcomes": pairs(self.outcomes),
            "rewards_changed": self.rewards_changed,
            "signs_flipped": self.signs_flipped,
            "signs": pairs(self.signs),
            "groups_with_signal": {"gained": self.signal_gained, "lost": self.signal_lost, "kept": self.signal_kept},
            "reproduced": {"advantages": self.reproduced, "of": self.checked},
            "flips": [flip.to_json() for flip in self.flips],
            "notes": list(self.notes),
        }


@dataclass(frozen=True, slots=True)
class _Setup:
    """One recipe's way from verdicts to advantages. `weights` are by verdict; `grader` is set where verdicts are made anew."""

    algorithm: Algorithm
    filters: dict[str, GroupFilter]
    group_size: int
    stage_of: dict[int, int]  # of a shape that goes by accuracy, by step
    weights: dict[str, float]
    grader: Grader | None = None


def replay(run: str | Path, changes: Sequence[str], *, steps: Sequence[int] = (), examples: int = 10) -> ReplayReport:
    """Replay a run's stored steps (all, or `steps`) under `changes`: recipe overrides such as `algorithm=rloo`,
    `shapes=kimi_length` or `verifiers=[{name = "math"}]`; `verifier=math` is short for one verifier alone.

    A step that cannot be read is left out, and the notes say so.

    Raises:
        ConfigError, PluginError: nothing changes, the change is of something else, or the algorithm needs what is not stored.
        EvaluationError: no step can be read.
    """
    folder = open_run(run)
    overrides = [_long(change) for change in changes]
    if not overrides:
        raise ConfigError("nothing changes: give what would be different, e.g. verifier=math, shapes=kimi_length, algorithm=rloo")
    for change in overrides:
        if change.partition("=")[0].partition(".")[0] not in CHANGES:
            raise ConfigError(f"{change}: stored rollouts stay as they are under it; a replay changes {', '.join(CHANGES)}")
    old, new = (_recipe(folder, some) for some in ((), overrides))
    regrades = old.verifiers != new.verifiers
    stages = {int(row["step"]): int(row["shape_stage"]) for row in folder.metrics() if "shape_stage" in row}
    before, after = _setup(old, stages, regrades=False), _setup(new, stages, regrades=regrades)
    chosen = list(steps) or folder.steps()
    if not chosen:
        raise EvaluationError(f"{folder.path} holds no rollouts of training steps to replay")
    report = ReplayReport(str(folder.path), tuple(changes))

    async def main() -> None:
        if after.grader is None:
            await _all_steps(folder, chosen, before, after, report, examples)
        else:
            async with after.grader:
                await _all_steps(folder, chosen, before, after, report, examples)

    run_to_end(main)
    if not report.rollouts:
        raise EvaluationError("; ".join(report.notes) or f"{folder.path} holds no rollouts")
    if report.reproduced < report.checked:
        report.notes.append(
            f"{report.checked - report.reproduced} of {report.checked} stored advantages do not come out again under the run's "
            "own recipe: the run used something that is not stored, or another version of rlvr"
        )
    return report


async def _all_steps(
    folder: RunFolder, steps: Sequence[int], before: _Setup, after: _Setup, report: ReplayReport, examples: int
) -> None:
    for step in steps:
        try:
            stored = list(folder.rollouts(step))
        except ConfigError:
            raise
        except RlvrError as error:
            report.notes.append(f"step {step} was left out: {error}")
            continue
        await _one_step(step, stored, before, after, report, examples)


async def _one_step(
    step: int, stored: Sequence[StoredRollout], before: _Setup, after: _Setup, report: ReplayReport, examples: int
) -> None:
    again = _advantages(_grouped(stored, before.weights), before, step)
    regraded = _grouped(stored, before.weights if after.grader is not None else after.weights)
    if after.grader is not None:
        for group in regraded:
            for rollout in group.rollouts:
                rollout.verdicts, rollout.reward = {}, None
                await after.grader.grade(rollout)
    changed = _advantages(regraded, after, step)
    places = [one for _, group in _by_group(stored) for one in group]
    report.groups += len(regraded)
    signals: dict[int, list[bool]] = {}
    flat = [rollout for group in regraded for rollout in group.rollouts]
    owner = [index for index, group in enumerate(regraded) for _ in group.rollouts]
    for one, rollout, index, same, now in zip(places, flat, owner, again, changed, strict=True):
        was = one.provenance.get("advantage")
        report.rollouts += 1
        report.checked += 1
        report.reproduced += (was is None and same is None) or (
            was is not None and same is not None and abs(was - same) <= _FAITHFUL * max(1.0, abs(was))
        )
        outcomes = (_outcome(one.rollout), _outcome(rollout))
        report.outcomes[outcomes] += 1
        report.rewards_changed += _differs(one.rollout.reward, rollout.reward)
        signs = (_sign(was), _sign(now))
        report.signs[signs] += 1
        has = signals.setdefault(index, [False, False])
        has[0] |= signs[0] in "+-"
        has[1] |= signs[1] in "+-"
        if signs[0] != signs[1] and len(report.flips) < examples:
            rewards, end = (one.rollout.reward, rollout.reward), one.rollout.response[-200:]
            flip = Flip(step, rollout.problem.id, rollout.sample_index, outcomes, rewards, (was, now), end)
            report.flips.append(flip)
    for had, has_now in signals.values():
        report.signal_gained += has_now and not had
        report.signal_lost += had and not has_now
        report.signal_kept += had and has_now


def _advantages(groups: Sequence[Group], setup: _Setup, step: int) -> list[float | None]:
    """Of every rollout in order; None where it is not learned from. Shapes the rewards in place, as the trainer does."""
    algorithm = at_stage(setup.algorithm, setup.stage_of.get(step, 0)).at_step(step - 1)
    kept = [scored_group(group) for group in groups if shape_group(group, algorithm, setup.filters, setup.group_size) is None]
    kept = [group for group in kept if group.rollouts]
    found: dict[int, float] = {}
    if kept:
        batch = build_batch(kept, algorithm.in_loss)
        fill_advantages(batch, algorithm)
        trained = [rollout for group in kept for rollout in group.rollouts]
        found = {id(rollout): value for rollout, value in zip(trained, rollout_advantages(batch), strict=True)}
    return [found.get(id(rollout)) for group in groups for rollout in group.rollouts]


def _grouped(stored: Sequence[StoredRollout], weights: dict[str, float]) -> list[Group]:
    """Copies of the stored rollouts with the reward that their verdicts give before any shaping."""
    groups = []
    for _, members in _by_group(stored):
        rollouts = []
        for one in members:
            old = one.rollout
            reward = None if old.error is not None or not old.verdicts else weighted_reward(old.verdicts, weights)
            rollouts.append(Rollout(old.problem, old.sample_index, old.turns, old.stop, dict(old.verdicts), reward, old.error))
        groups.append(Group(rollouts[0].problem, tuple(rollouts)))
    return groups


def _by_group(stored: Sequence[StoredRollout]) -> Iterator[tuple[Any, list[StoredRollout]]]:
    groups: dict[Any, list[StoredRollout]] = {}
    for one in stored:
        groups.setdefault(one.provenance.get("group", one.rollout.problem.id), []).append(one)
    yield from groups.items()


def _recipe(folder: RunFolder, overrides: Sequence[str]) -> RunConfig:
    path = folder.path / "config.toml"
    if not path.is_file():
        raise ConfigError(f"{folder.path} has no config.toml, so that its rewards and advantages cannot be computed again")
    recipe = load_recipe(path, overrides)
    if not isinstance(recipe, RunConfig):
        raise ConfigError(f"{folder.path} is a supervised run: it has no rewards to replay")
    return recipe


def _setup(recipe: RunConfig, stages: dict[int, int], *, regrades: bool) -> _Setup:
    algorithm = algorithm_of(recipe)
    assert algorithm is not None, "a recipe of reinforcement learning has an algorithm"
    if algorithm.needs_policy_logprobs or algorithm.critic:
        what = "the KL in its reward" if algorithm.needs_policy_logprobs else "a critic"
        raise ConfigError(
            f"algorithm {algorithm.name!r} needs {what}, which is not stored; a replay cannot compute its advantages"
        )
    algorithm = algorithm.bind(max_tokens=sampling_of(recipe).max_tokens)
    algorithm.check_group_size(recipe.rollout.group_size)
    grader = Grader([WeightedVerifier(one.name, one.weight, one.args) for one in recipe.verifiers or ()])
    weights = {name: float(one["weight"]) for name, one in grader.provenance().items()}
    if regrades:
        grader.prepare()
    return _Setup(
        algorithm, build_filters(recipe.filters), recipe.rollout.group_size, stages, weights, grader if regrades else None
    )


def _long(change: str) -> str:
    key, equals, value = change.partition("=")
    return f'verifiers=[{{name = "{value}"}}]' if key == "verifier" and equals else change


def _outcome(rollout: Rollout) -> str:
    if rollout.error is not None or rollout.verdict is None:
        return "failed"
    return rollout.verdict.outcome.value


def _sign(advantage: float | None) -> str:
    if advantage is None:
        return "dropped"
    return "0" if abs(advantage) < _SMALL else "+" if advantage > 0 else "-"


def _differs(old: float | None, new: float | None) -> bool:
    if old is None or new is None:
        return old is not new
    return abs(old - new) > _SMALL
