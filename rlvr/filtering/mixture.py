"""Curricula around others: a mixture of sources, and the retirement of problems that are solved."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np

from rlvr.errors import ConfigError
from rlvr.filtering.beta import beta_cdf
from rlvr.filtering.curriculum import Course, StarvedError, nested
from rlvr.seeding import rng
from rlvr.types import Group, Problem

_FAST, _SLOW = 0.3, 0.05  # how much a step's solve rate moves the two averages whose distance is progress
_GROUP = 0.05  # how much one group moves what is believed of its source's learnability, at least
_PRIOR_GROUPS, _PRIOR_VARIANCE = 2, 0.125  # before any: as much as two groups, of p (1 - p) where p is Beta(1/2, 1/2)
Adaptive = Literal["progress", "learnability", "learnability_per_token"]
_ADAPTIVE = {
    "progress": "the faster a source's solve rate changes",
    "learnability": "the more outcomes vary inside its groups",
    "learnability_per_token": "the more outcomes vary inside its groups, for each token of a response",
}


class Mixture:
    """Draws from several sources: problems that have the same value of `by` in their metadata.

    `weights` gives each source its share, in any unit (sources that are not named get nothing). `weights="progress"` is a
    bandit: a source is drawn in proportion to how fast its solve rate changes, up or down, and `explore` of the draws are even.
    `weights="learnability"` is another: in proportion to the variance of outcomes inside its groups, which is p (1 - p) of their
    problems, so that sources that are always or never solved are left alone. It knows as much of an endless task as of a finite
    one, for it learns about sources and not about problems. `weights="learnability_per_token"` divides that by the mean length of
    a source's responses, so that what costs most has to teach most. `sharpness` is the power that either is raised to: where
    hopeless sources are many and each is solved by luck now and then, 2 leaves less to all of them together.
    Inside a source `within` chooses, the name of a curriculum or a table with its arguments.

    Source of the bandit: Matiisen et al., "Teacher-Student Curriculum Learning", arXiv:1707.00183 (the absolute slope of the
    learning curve; here the distance of a fast and a slow average). p (1 - p): Foster and Foerster, arXiv:2502.12272, who have it
    for problems; its average over a source is ours.
    """

    def __init__(
        self,
        course: Course,
        by: str,
        weights: Mapping[str, float] | Adaptive | Literal["even"] = "even",
        within: str | Mapping[str, Any] = "uniform",
        explore: float = 0.2,
        sharpness: float = 1.0,
    ) -> None:
        if not 0.0 < explore <= 1.0:
            raise ConfigError(f"explore = {explore}; give the share of the draws that are even, above 0 and up to 1")
        if not (math.isfinite(sharpness) and sharpness > 0):
            raise ConfigError(f"sharpness = {sharpness}; give a number above 0: 1 draws in proportion to what is learned")
        sources = _sources(course.problems, by)
        self._course, self._by, self._explore, self._sharpness = course, by, explore, sharpness
        self._follows = weights if isinstance(weights, str) and weights in _ADAPTIVE else None
        self._weights = _fixed_weights(sources, weights, by)
        self._names = [name for name in sources if self._weights[name] > 0]
        self._inner = {name: nested(replace(course, problems=sources[name]), within) for name in self._names}
        self._source_of = {problem.id: name for name in self._names for problem in sources[name]}
        self._averages: dict[str, tuple[float, float]] = {}  # fast and slow
        self._tried: dict[str, _Tried] = {}
        self._step, self._calls = -1, 0

    def next(self, count: int, step: int) -> list[Problem]:
        if step != self._step:
            self._step, self._calls = step, 0
        random = rng("mixture", self._course.seed, step, self._calls)
        self._calls += 1
        shares = self._source_shares()
        wanted = Counter(random.choices(self._names, [shares[name] for name in self._names], k=count))
        drawn = [problem for name in self._names if wanted[name] for problem in self._inner[name].next(wanted[name], step)]
        random.shuffle(drawn)
        return drawn

    def shares(self, step: int) -> list[float]:
        of_source = self._source_shares()
        found = {
            problem.id: of_source[name] * share
            for name in self._names
            for problem, share in zip(self._problems_of(name), self._inner[name].shares(step), strict=True)
        }
        return [found.get(problem.id, 0.0) for problem in self._course.problems]

    def observe(self, groups: Sequence[Group], step: int) -> None:
        for name in self._names:
            mine = [group for group in groups if self._source_of.get(group.problem.id) == name]
            self._inner[name].observe(mine, step)
            outcomes = [[rollout.is_correct for rollout in group.rollouts if rollout.is_scored] for group in mine]
            scored, correct = sum(map(len, outcomes)), sum(map(sum, outcomes))
            if not scored:
                continue
            rate = correct / scored
            fast, slow = self._averages.get(name, (rate, rate))
            self._averages[name] = (fast + _FAST * (rate - fast), slow + _SLOW * (rate - slow))
            for group in mine:
                if sum(rollout.is_scored for rollout in group.rollouts) > 1:
                    self._tried.setdefault(name, _Tried()).add(group)

    def metrics(self, step: int) -> dict[str, float]:
        return {f"curriculum_share_{name}": share for name, share in self._source_shares().items()}

    @property
    def words(self) -> str:
        inside = next(iter(self._inner.values())).words
        if self._follows is not None:
            power = "" if self._sharpness == 1 else f" (to the power of {self._sharpness:g})"
            return (
                f"sources by {self._by} ({', '.join(self._names)}): {_ADAPTIVE[self._follows]}, the more of it{power}; "
                f"{self._explore:.0%} of the draws are even. Inside a source {inside}"
            )
        shares = ", ".join(f"{name} {share:.0%}" for name, share in self._source_shares().items())
        return f"sources by {self._by}: {shares}. Inside a source {inside}"

    def state_dict(self) -> dict[str, Any]:
        inner = {name: curriculum.state_dict() for name, curriculum in self._inner.items()}
        averages = {name: list(pair) for name, pair in self._averages.items()}
        return {"inner": inner, "averages": averages, "tried": {name: asdict(tried) for name, tried in self._tried.items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        for name, curriculum in self._inner.items():
            curriculum.load_state_dict(state["inner"][name])
        self._averages = {name: (pair[0], pair[1]) for name, pair in state["averages"].items()}
        self._tried = {name: _Tried(**tried) for name, tried in state.get("tried", {}).items()}

    def _problems_of(self, name: str) -> list[Problem]:
        return [problem for problem in self._course.problems if self._source_of.get(problem.id) == name]

    def _source_shares(self) -> dict[str, float]:
        total = math.fsum(self._weights[name] for name in self._names)
        fixed = {name: self._weights[name] / total for name in self._names}
        if self._follows is None:
            return fixed
        known = self._worth()
        most = max(known.values())
        worth = {name: (value / most) ** self._sharpness if most > 0 else 0.0 for name, value in known.items()}
        whole = math.fsum(worth.values())
        if not whole > 0:
            return fixed
        return {name: self._explore * fixed[name] + (1 - self._explore) * worth[name] / whole for name in self._names}

    def _worth(self) -> dict[str, float]:
        """What a draw from each source is worth, in any unit."""
        if self._follows == "progress":
            moved = {name: abs(fast - slow) for name, (fast, slow) in self._averages.items()}
            # A source that was never tried is worth as much as the best: it may be better.
            return {name: moved.get(name, max(moved.values(), default=0.0)) for name in self._names}
        tried = {name: self._tried.get(name, _Tried()) for name in self._names}
        if self._follows == "learnability":
            return {name: one.variance for name, one in tried.items()}
        lengths = [one.tokens for one in tried.values() if one.groups]
        usual = math.fsum(lengths) / len(lengths) if lengths else 1.0
        return {name: one.variance / max(1.0, one.tokens if one.groups else usual) for name, one in tried.items()}


@dataclass(slots=True)
class _Tried:
    """What the groups of a source showed: means over them, in which those of long ago fade."""

    groups: int = 0
    variance: float = _PRIOR_VARIANCE  # of outcomes inside a group
    tokens: float = 0.0  # of a response

    def add(self, group: Group) -> None:
        outcomes = [rollout.is_correct for rollout in group.rollouts if rollout.is_scored]
        tokens = sum(rollout.completion_tokens for rollout in group.rollouts) / len(group.rollouts)
        self.groups += 1
        self.variance += max(_GROUP, 1.0 / (self.groups + _PRIOR_GROUPS)) * (_variance(outcomes) - self.variance)
        self.tokens += max(_GROUP, 1.0 / self.groups) * (tokens - self.tokens)


class Retire:
    """Leaves out problems that are solved, and tries some of them again.

    Retired is a problem whose solve rate is above `above` with probability `certainty`; `revisit` of the draws go to those. What
    is known of them fades, so they come back by themselves, too. The others are chosen by `within`.
    """

    def __init__(
        self,
        course: Course,
        within: str | Mapping[str, Any] = "uniform",
        above: float = 0.95,
        certainty: float = 0.9,
        revisit: float = 0.05,
    ) -> None:
        for name, value in (("above", above), ("certainty", certainty)):
            if not 0.0 < value < 1.0:
                raise ConfigError(f"{name} = {value}; give a share between 0 and 1")
        if not 0.0 <= revisit < 1.0:
            raise ConfigError(f"revisit = {revisit}; give the share of the draws for solved problems, 0 or more and below 1")
        self._course = course
        self._ids = [problem.id for problem in course.problems]
        self._inner = nested(course, within)
        self._above, self._certainty, self._revisit = above, certainty, revisit
        self._step, self._calls = -1, 0

    def next(self, count: int, step: int) -> list[Problem]:
        if step != self._step:
            self._step, self._calls = step, 0
        random = rng("retire", self._course.seed, step, self._calls)
        self._calls += 1
        retired = self._retired(step)
        again = min(sum(random.random() < self._revisit for _ in range(count)), len(retired))
        drawn = random.sample([problem for problem in self._course.problems if problem.id in retired], again)
        left = 2 * len(self._ids) + count  # draws after which every problem has come, whatever order `within` keeps
        while len(drawn) < count:
            if len(retired) == len(self._ids) or left <= 0:
                raise StarvedError(
                    f"the curriculum has nothing left to draw at step {step}: {len(retired)} of {len(self._ids)} problems are "
                    f"retired, because they are solved more than {self._above:.0%} of the time. Stop here, give it harder "
                    "problems, or raise curriculum.above or curriculum.revisit",
                    is_solved=True,
                )
            some = self._inner.next(count - len(drawn), step)
            left -= len(some)
            drawn += [problem for problem in some if problem.id not in retired]
        return drawn

    def shares(self, step: int) -> list[float]:
        retired = self._retired(step)
        inner = self._inner.shares(step)
        kept = math.fsum(share for id, share in zip(self._ids, inner, strict=True) if id not in retired)
        if not kept > 0:
            raise StarvedError(f"all problems that would be drawn at step {step} are retired", is_solved=True)
        again = self._revisit if retired else 0.0
        return [
            again / len(retired) if id in retired else (1.0 - again) * share / kept
            for id, share in zip(self._ids, inner, strict=True)
        ]

    def observe(self, groups: Sequence[Group], step: int) -> None:
        self._inner.observe(groups, step)

    def metrics(self, step: int) -> dict[str, float]:
        return {**self._inner.metrics(step), "curriculum_retired": float(len(self._retired(step)))}

    @property
    def words(self) -> str:
        return (
            f"problems that are solved more than {self._above:.0%} of the time ({self._certainty:.0%} sure) are retired, and "
            f"{self._revisit:.0%} of the draws go back to them. Of the others {self._inner.words}"
        )

    def state_dict(self) -> dict[str, Any]:
        return {"inner": self._inner.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._inner.load_state_dict(state["inner"])

    def _retired(self, step: int) -> set[str]:
        a, b = self._course.rates.beliefs(self._ids, step)
        likely = np.flatnonzero(a / (a + b) >= self._certainty * self._above)  # by Markov's inequality no others can be
        is_solved = 1.0 - beta_cdf(np.full(len(likely), self._above), a[likely], b[likely]) >= self._certainty
        return {self._ids[index] for index in likely[is_solved].tolist()}


def _variance(outcomes: Sequence[bool]) -> float:
    """p (1 - p) of a problem, without bias, from two or more samples."""
    count, correct = len(outcomes), sum(outcomes)
    return correct * (count - correct) / (count * (count - 1))


def _sources(problems: Sequence[Problem], by: str) -> dict[str, list[Problem]]:
    sources: dict[str, list[Problem]] = {}
    for problem in problems:
        if by not in problem.metadata:
            known = ", ".join(sorted(problem.metadata)) or "nothing"
            raise ConfigError(f"by = {by!r}, but the metadata of problem {problem.id!r} has {known}; name one of those")
        sources.setdefault(str(problem.metadata[by]), []).append(problem)
    return sources


def _fixed_weights(sources: Mapping[str, Any], weights: Mapping[str, float] | str, by: str) -> dict[str, float]:
    if isinstance(weights, str):
        if weights != "even" and weights not in _ADAPTIVE:
            known = ", ".join(f'"{name}"' for name in ("even", *_ADAPTIVE))
            raise ConfigError(f"weights = {weights!r}; give {known} or a table with the share of each {by}")
        return dict.fromkeys(sources, 1.0)
    unknown = sorted(set(weights) - set(sources))
    if unknown:
        raise ConfigError(f"weights name {unknown[0]!r}, but the problems' {by} is one of {', '.join(sources)}")
    found = {name: float(weights.get(name, 0.0)) for name in sources}
    if any(not (math.isfinite(weight) and weight >= 0) for weight in found.values()) or not math.fsum(found.values()) > 0:
        raise ConfigError(f"weights = {dict(weights)}; give numbers, 0 or more, not all of them 0")
    return found
