"""Run folders as training leaves them, hostile and damaged ones too."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from rlvr.evaluation.ledger import rollout_to_json, write_rollouts
from rlvr.types import CallStatus, Completion, FinishReason, Message, Problem, Rollout, Stop, ToolCall, Turn, Verdict

HOSTILE = (
    "<script>document.title='pwned'</script><img src=x onerror=\"document.title='pwned'\"></pre>"
    "<a href='javascript:alert(1)'>x</a>"
    " \x1b[2J \x00 \x9b \u202etxt.exe\u202c \u200b \ud800 {{7*7}} ${7*7}"
)

RolloutMaker = Callable[..., Rollout]


def make_rollout(
    id: str = "p1",
    sample: int = 0,
    verdict: Verdict | None = None,
    text: str = "it is 4",
    *,
    stop: Stop = Stop.STOP,
    error: str | None = None,
    prompt: str = "what is 2+2?",
    tokens: int = 2,
    calls: Sequence[ToolCall] = (),
    reply: str | None = None,
) -> Rollout:
    verdict = verdict or Verdict.correct("4", "right")
    ids = tuple(range(5, 5 + tokens))
    completion = Completion(ids, tuple(-0.1 * (index + 1) for index in range(tokens)), FinishReason.STOP, 3)
    replies = () if reply is None else (Message("tool", reply),)
    turn = Turn((1, 2), completion, Message("assistant", text), replies, None, tuple(calls))
    problem = Problem(id, (Message("user", prompt),), 4, {"source": "tests"})
    return Rollout(problem, sample, [turn], stop, {"exact": verdict}, verdict.score, error)


def write_step(run: Path, step: int, rollouts: Sequence[Rollout], **provenance: float) -> Path:
    path = run / "rollouts" / f"step-{step:06d}.jsonl.gz"
    write_rollouts(path, [rollout_to_json(one, step=step, group=0, **provenance) for one in rollouts])
    return path


def step_of(step: int) -> list[Rollout]:
    """Two groups of a run that gets better: more tokens, a tool in the second."""
    called = ToolCall("calculator", {"expression": "2+2"}, CallStatus.FAILED, 0.25)
    return [
        make_rollout("task/p9", 0, tokens=step),
        make_rollout("task/p9", 1, Verdict.incorrect("5", "not 4"), "It Is FIVE", tokens=step + 10),
        make_rollout("task/p10", 0, Verdict.unparsed("no answer"), "y" * 300, stop=Stop.LENGTH, tokens=step + 20),
        make_rollout("task/p10", 1, Verdict.partial(0.5, "4?"), "I ask", calls=[called], reply="no such tool", tokens=step + 30),
        make_rollout("task/p10", 2, Verdict.error("hung"), "4", stop=Stop.ERROR, error="engine died", tokens=1),
    ]


def write_run(folder: Path) -> Path:
    """A run of three steps that still trains."""
    folder.mkdir()
    (folder / "config.toml").write_text('model = "base"\ntask = "sums"\nsteps = 5\n[algorithm]\nname = "grpo"\n')
    rows = [{"step": step, "reward_mean": step / 4, "groups": 4, "groups_without_signal": step} for step in (1, 2, 3)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for step in (1, 2, 3):
        write_step(folder, step, step_of(step), advantage=0.5 * step)
    return folder


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_run(tmp_path / "run")
