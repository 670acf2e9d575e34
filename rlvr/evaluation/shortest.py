"""Shortest correct responses: from stored rollouts to demonstrations, for a supervised stage that makes answers concise.

Source: "shortest rejection sampling", Kimi k1.5, arXiv:2501.12599, section 2.4.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from rlvr.errors import EvaluationError, boundary
from rlvr.types import JSON, Rollout


@dataclass(frozen=True, slots=True)
class Selection:
    """What was kept of the rollouts that were read. Tokens are means over solved problems: of all their correct rollouts, and of
    the kept ones."""

    chosen: tuple[Rollout, ...]
    problems: int
    rollouts: int
    unsolved: int  # problems without a correct rollout
    several_turns: int  # correct rollouts that a pair of prompt and response cannot hold
    tokens_correct: float
    tokens_chosen: float

    def to_json(self) -> dict[str, JSON]:
        return {
            "demonstrations": len(self.chosen),
            "problems": self.problems,
            "rollouts": self.rollouts,
            "unsolved": self.unsolved,
            "several_turns": self.several_turns,
            "tokens_correct": self.tokens_correct,
            "tokens_chosen": self.tokens_chosen,
        }


def shortest_correct(rollouts: Iterable[Rollout]) -> Selection:
    """Of each problem the correct rollout with the fewest sampled tokens, the first of equals; in the order of the problems.

    Truncated rollouts and those of several turns are left out.
    """
    best: dict[str, Rollout | None] = {}
    read = several = 0
    tokens: dict[str, list[int]] = {}
    for rollout in rollouts:
        read += 1
        current = best.setdefault(rollout.problem.id, None)
        if not rollout.is_correct or rollout.is_truncated:
            continue
        if len(rollout.turns) != 1:
            several += 1
            continue
        tokens.setdefault(rollout.problem.id, []).append(rollout.completion_tokens)
        if current is None or rollout.completion_tokens < current.completion_tokens:
            best[rollout.problem.id] = rollout
    chosen = tuple(rollout for rollout in best.values() if rollout is not None)
    kept = [rollout.completion_tokens for rollout in chosen]
    return Selection(
        chosen,
        len(best),
        read,
        len(best) - len(chosen),
        several,
        fmean(map(fmean, tokens.values())) if chosen else 0.0,
        fmean(kept) if chosen else 0.0,
    )


def write_demonstrations(path: Path, chosen: Iterable[Rollout]) -> None:
    """One JSON line of `prompt` (messages) and `response` for each, as a supervised recipe reads it; whole or not at all.

    Raises:
        EvaluationError: the disk refuses.
    """
    draft = path.with_name(path.name + ".tmp")
    with boundary(EvaluationError, f"{path} cannot be written"):
        path.parent.mkdir(parents=True, exist_ok=True)
        with draft.open("w", encoding="utf-8") as file:
            file.writelines(json.dumps(_pair(rollout)) + "\n" for rollout in chosen)
        os.replace(draft, path)


def _pair(rollout: Rollout) -> dict[str, JSON]:
    prompt = [{"role": message.role, "content": message.content} for message in rollout.problem.prompt]
    return {"id": rollout.problem.id, "prompt": prompt, "response": rollout.response}
