"""Which groups are left out of the update, beside those that the algorithm leaves out. A filter looks at one whole group."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from rlvr.config import FilterConfig
from rlvr.errors import ConfigError
from rlvr.trainers.arguments import checked_arguments
from rlvr.types import Group


class GroupFilter(Protocol):
    """Says which groups it takes out; the group is as it was sampled, unscored rollouts included."""

    @property
    def words(self) -> str: ...

    def drops(self, group: Group) -> bool: ...


@dataclass(frozen=True, slots=True)
class ZeroVariance:
    """Groups in which all scored rollouts have the same reward: they have no gradient."""

    def drops(self, group: Group) -> bool:
        return len({rollout.reward for rollout in group.rollouts if rollout.reward is not None}) < 2

    @property
    def words(self) -> str:
        return "groups in which all rewards are equal are left out"


@dataclass(frozen=True, slots=True)
class TooEasy:
    """Groups solved more often than `above`."""

    above: float = 0.9

    def __post_init__(self) -> None:
        _check_share("above", self.above)

    def drops(self, group: Group) -> bool:
        rate = _solve_rate(group)
        return rate is not None and rate > self.above

    @property
    def words(self) -> str:
        return f"groups of which more than {self.above:.0%} are correct are left out"


@dataclass(frozen=True, slots=True)
class TooHard:
    """Groups solved less often than `below`."""

    below: float = 0.1

    def __post_init__(self) -> None:
        _check_share("below", self.below)

    def drops(self, group: Group) -> bool:
        rate = _solve_rate(group)
        return rate is not None and rate < self.below

    @property
    def words(self) -> str:
        return f"groups of which less than {self.below:.0%} are correct are left out"


@dataclass(frozen=True, slots=True)
class TooLong:
    """Groups of which more than a share `truncated` ran into the limit of tokens."""

    truncated: float = 0.5

    def __post_init__(self) -> None:
        _check_share("truncated", self.truncated)

    def drops(self, group: Group) -> bool:
        return sum(rollout.is_truncated for rollout in group.rollouts) > self.truncated * len(group.rollouts)

    @property
    def words(self) -> str:
        return f"groups of which more than {self.truncated:.0%} were cut at the limit of tokens are left out"


@dataclass(frozen=True, slots=True)
class Unscored:
    """Groups of which more than a share `share` has no verdict: what is left of them is not a fair sample."""

    share: float = 0.0

    def __post_init__(self) -> None:
        _check_share("share", self.share)

    def drops(self, group: Group) -> bool:
        unscored = sum(rollout.error is not None or rollout.reward is None for rollout in group.rollouts)
        return unscored > self.share * len(group.rollouts)

    @property
    def words(self) -> str:
        return f"groups of which more than {self.share:.0%} could not be scored are left out"


FILTERS: Mapping[str, type[GroupFilter]] = {
    "zero_variance": ZeroVariance,
    "too_easy": TooEasy,
    "too_hard": TooHard,
    "too_long": TooLong,
    "unscored": Unscored,
}


def build_filters(configs: Sequence[FilterConfig]) -> dict[str, GroupFilter]:
    """The filters of a recipe by name, in order: the first that drops a group is the one that is counted.

    Raises:
        ConfigError: no such filter, one that is named twice, or an argument that it does not take.
    """
    found: dict[str, GroupFilter] = {}
    for config in configs:
        if config.name not in FILTERS:
            raise ConfigError(f"filters name {config.name!r}; choose from {', '.join(FILTERS)}")
        if config.name in found:
            raise ConfigError(f"filters name {config.name!r} twice; give it once, with one set of arguments")
        kind: Any = FILTERS[config.name]
        what = f"filter {config.name!r}"
        found[config.name] = kind(**checked_arguments(what, kind, config.arguments, section=f"filters.{config.name}"))
    return found


def _solve_rate(group: Group) -> float | None:
    scored = [rollout for rollout in group.rollouts if rollout.is_scored]
    return sum(rollout.is_correct for rollout in scored) / len(scored) if scored else None


def _check_share(name: str, value: float) -> None:
    if not 0.0 <= value <= 1.0:
        raise ConfigError(f"{name} = {value}; give a share between 0 and 1")
