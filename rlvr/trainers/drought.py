"""When nothing was learned for many steps: say so, with the numbers, rather than going on for nothing."""

from __future__ import annotations

from dataclasses import dataclass

from rlvr.filtering.curriculum import StarvedError
from rlvr.trainers.rollouts import Collected


@dataclass(slots=True)
class Drought:
    """Counts the steps in a row in which no group had rollouts with different rewards. `steps` is its whole state."""

    patience: int
    steps: int = 0

    def check(self, found: Collected, step: int) -> None:
        """
        Raises:
            StarvedError: the drought has lasted `patience` steps.
        """
        has_signal = any(len({rollout.reward for rollout in group.rollouts}) > 1 for group in found.kept)
        self.steps = 0 if has_signal else self.steps + 1
        if self.steps < self.patience:
            return
        solved, failed, unscored = _counts(found)
        dropped = ", ".join(f"{count} by {name}" for name, count in sorted(found.drops.items())) or "none"
        is_solved = solved > failed
        raise StarvedError(
            f"step {step + 1}: for {self.steps} steps in a row no group had rollouts with different rewards, so nothing was "
            f"learned. Of the last {len(found.groups)} groups {solved} were all correct, {failed} all wrong, {unscored} "
            f"unscored; dropped: {dropped}. {_SOLVED if is_solved else _FAILED} rollout.patience = "
            f"{self.patience} decides how long that may last",
            is_solved=is_solved,
        )


_SOLVED = "There is nothing more to learn here: give it harder problems."
_FAILED = (
    "Give it easier problems (rlvr filter, then data.pass_rates), a warm start on demonstrations, a reward for parts of the "
    "answer, or larger groups (rollout.group_size)."
)


def _counts(found: Collected) -> tuple[int, int, int]:
    """How many groups are all correct, all wrong (or only partly right), and without a single verdict."""
    scored = [[rollout for rollout in group.rollouts if rollout.is_scored] for group in found.groups]
    solved = sum(bool(group) and all(rollout.is_correct for rollout in group) for group in scored)
    unscored = sum(not group for group in scored)
    return solved, len(scored) - solved - unscored, unscored
