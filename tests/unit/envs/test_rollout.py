"""The one rollout loop, with engines and environments made for the test."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from rlvr.envs.base import Opening, Reply
from rlvr.envs.renderer import Renderer
from rlvr.envs.rollout import RolloutLimits, RolloutRunner
from rlvr.envs.single_turn import SingleTurn
from rlvr.errors import ContextFullError, EngineError, ToolError
from rlvr.testing import ScriptedEngine
from rlvr.types import Completion, FinishReason, Group, Message, Problem, Rollout, Sampling, Stop, Verdict

END = 10
PROBLEM = Problem("p1", (Message("user", "12"),), "3")


class Digits:
    """A tokenizer of digits and line breaks, END ends a sequence."""

    chat_template = None
    eos_token_id = END

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        return [11 if c == "\n" else int(c) for c in text.replace("$", "")] + [END] * text.count("$")

    def decode(self, token_ids: Sequence[int], *, skip_special_tokens: bool = False) -> str:
        return "".join("$" if t == END else "\n" if t == 11 else str(t) for t in token_ids)

    def apply_chat_template(self, conversation: Any, **settings: Any) -> Any:
        raise AssertionError("there is no template")


class Grader:
    """Correct if the last message is the answer; failed rollouts stay unscored."""

    async def grade(self, rollout: Rollout) -> None:
        if rollout.error is None:
            is_right = rollout.response == rollout.problem.answer
            rollout.verdicts = {"exact": Verdict.correct() if is_right else Verdict.incorrect()}
            rollout.reward = float(is_right)
        else:
            rollout.verdicts = {"exact": Verdict.error(rollout.error)}


class Echo:
    """Answers `45` to everything but the message `3`; counts its calls."""

    def __init__(self, log: list[str], *, failing: str = "") -> None:
        self._log, self._failing = log, failing

    async def start(self, problem: Problem, seed: int) -> Opening:
        self._log.append("start")
        if self._failing == "start":
            raise ToolError("no sandbox")
        return Opening(problem.prompt)

    async def reply(self, messages: Sequence[Message]) -> Reply:
        self._log.append("reply")
        if self._failing == "reply":
            raise ToolError("the tool server is gone")
        return Reply() if messages[-1].content == "3" else Reply((Message("tool", "45"),))

    async def close(self) -> None:
        self._log.append("close")


Script = Callable[[tuple[int, ...], Sampling], Sequence[int]]


def run(script: Script, env: Callable[[], Any] = SingleTurn, *, max_tokens: int = 8, n: int = 1, **settings: Any) -> Group:
    runner = RolloutRunner(ScriptedEngine(script), Renderer(Digits()), env, Grader(), **settings)
    return asyncio.run(runner.run_group(PROBLEM, n, Sampling(max_tokens=max_tokens), "seed", 0))


def one(script: Script, env: Callable[[], Any] = SingleTurn, **settings: Any) -> Rollout:
    [rollout] = run(script, env, **settings).rollouts
    return rollout


def test_a_single_turn_is_prompt_answer_verdict() -> None:
    rollout = one(lambda prompt, sampling: (3, END))
    [turn] = rollout.turns
    assert turn.prompt_ids == (1, 2, 11)
    assert (turn.message, turn.replies) == (Message("assistant", "3"), ())
    assert (rollout.stop, rollout.reward, rollout.is_correct, rollout.error) == (Stop.STOP, 1.0, True, None)


def test_a_second_turn_goes_on_from_the_very_tokens_of_the_first() -> None:
    log: list[str] = []
    rollout = one(lambda prompt, sampling: (3, END) if 4 in prompt else (7, END), lambda: Echo(log))
    first, second = rollout.turns
    assert second.prompt_ids == (1, 2, 11, 7, END, 11, 4, 5, 11)
    assert first.replies == (Message("tool", "45"),)
    assert log == ["start", "reply", "reply", "close"]
    [segment] = rollout.segments()
    assert segment.token_ids == (*second.prompt_ids, 3, END)
    assert [t for t, m in zip(segment.token_ids, segment.loss_mask, strict=True) if m] == [7, END, 3, END]
    for turn in rollout.turns:
        assert segment.token_ids[: len(turn.prompt_ids)] == turn.prompt_ids


def test_max_tokens_bounds_the_sampled_tokens_of_all_turns() -> None:
    asked: list[int] = []

    def script(prompt: tuple[int, ...], sampling: Sampling) -> tuple[int, ...]:
        asked.append(sampling.max_tokens)
        return (7, 7, END)

    rollout = one(script, lambda: Echo([]), max_tokens=7)
    assert asked == [7, 4, 1]
    assert (rollout.stop, rollout.completion_tokens) == (Stop.LENGTH, 7)
    rollout = one(script, lambda: Echo([]), max_tokens=6)
    assert (rollout.stop, rollout.completion_tokens, len(rollout.turns)) == (Stop.LENGTH, 6, 2)


def test_an_answer_that_was_cut_off_gets_no_reply() -> None:
    log: list[str] = []
    rollout = one(lambda prompt, sampling: (7,) * 9, lambda: Echo(log))
    assert (rollout.stop, rollout.is_truncated, rollout.completion_tokens) == (Stop.LENGTH, True, 8)
    assert log == ["start", "close"]
    assert rollout.is_scored


def test_turns_are_bounded() -> None:
    rollout = one(lambda prompt, sampling: (7, END), lambda: Echo([]), limits=RolloutLimits(turns=3), max_tokens=100)
    assert (rollout.stop, len(rollout.turns)) == (Stop.MAX_TURNS, 3)
    assert rollout.is_scored


def test_every_sample_and_every_turn_has_a_seed_of_its_own() -> None:
    seeds: list[int] = []

    def script(prompt: tuple[int, ...], sampling: Sampling) -> tuple[int, ...]:
        seeds.append(sampling.seed)
        return (7, END)

    run(script, lambda: Echo([]), n=4, limits=RolloutLimits(turns=2), max_tokens=100)
    assert len(set(seeds)) == 8
    again, seeds = seeds, []
    run(script, lambda: Echo([]), n=4, limits=RolloutLimits(turns=2), max_tokens=100)
    assert sorted(again) == sorted(seeds)


def test_an_engine_that_fails_once_fails_one_rollout_and_its_siblings_go_on() -> None:
    calls = 0

    def script(prompt: tuple[int, ...], sampling: Sampling) -> tuple[int, ...]:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise EngineError("out of memory")
        return (3, END)

    log: list[str] = []
    rollouts = run(script, lambda: Echo(log), n=3).rollouts
    assert [r.error is None for r in rollouts] == [True, False, True]
    assert [r.sample_index for r in rollouts] == [0, 1, 2]
    broken = rollouts[1]
    assert broken.error is not None
    assert "out of memory" in broken.error
    assert (broken.stop, broken.reward, broken.is_scored) == (Stop.ERROR, None, False)
    assert [r.is_correct for r in rollouts] == [True, False, True]
    assert log.count("close") == 3


@pytest.mark.parametrize("last_turn", [1, 2])
def test_a_conversation_that_outgrows_the_context_is_truncated_but_a_first_prompt_that_does_is_our_fault(last_turn: int) -> None:
    asked = 0

    def script(prompt: tuple[int, ...], sampling: Sampling) -> tuple[int, ...]:
        nonlocal asked
        asked += 1
        if asked == last_turn:
            raise ContextFullError("the prompt has 129 tokens, but the context holds 128")
        return (7, END)

    log: list[str] = []
    rollout = one(script, lambda: Echo(log))
    assert log[-1] == "close"
    if last_turn == 1:
        assert (rollout.stop, rollout.reward) == (Stop.ERROR, None)
        assert "context holds 128" in str(rollout.error)
    else:
        assert (rollout.stop, rollout.error, len(rollout.turns)) == (Stop.LENGTH, None, 1)
        assert rollout.turns[0].replies
        assert rollout.is_scored


def test_an_abort_of_the_engine_is_our_fault_not_the_models() -> None:
    class Aborting:
        async def generate(self, prompt_ids: Sequence[int], sampling: Sampling) -> Completion:
            return Completion((7,), (0.0,), FinishReason.ABORT)

    runner = RolloutRunner(Aborting(), Renderer(Digits()), SingleTurn, Grader())
    rollout = asyncio.run(runner.run(PROBLEM, 0, Sampling(max_tokens=4)))
    assert rollout.error is not None
    assert "aborted turn 1" in rollout.error
    assert rollout.reward is None


@pytest.mark.parametrize("failing", ["start", "reply"])
def test_an_environment_that_fails_is_closed_and_recorded(failing: str) -> None:
    log: list[str] = []
    rollout = one(lambda prompt, sampling: (7, END), lambda: Echo(log, failing=failing))
    assert rollout.stop is Stop.ERROR
    assert rollout.error is not None
    assert log.count("close") == 1
    assert len(rollout.turns) == (0 if failing == "start" else 1)  # what was sampled is kept


def test_foreign_exceptions_of_an_environment_name_the_rollout() -> None:
    class Buggy(SingleTurn):
        async def reply(self, messages: Sequence[Message]) -> tuple[Message, ...]:
            raise KeyError("state")

    rollout = one(lambda prompt, sampling: (7, END), Buggy)
    assert rollout.error == "rollout 0 of problem p1: KeyError: 'state'"


def test_an_environment_that_cannot_be_made_fails_one_rollout() -> None:
    made = 0

    def env() -> SingleTurn:
        nonlocal made
        made += 1
        if made == 1:
            raise OSError("no port left")
        return SingleTurn()

    rollouts = run(lambda prompt, sampling: (3, END), env, n=2).rollouts
    assert [r.stop for r in rollouts] == [Stop.ERROR, Stop.STOP]


def test_cancelling_closes_the_environment() -> None:
    log: list[str] = []

    class Waiting:
        async def generate(self, prompt_ids: Sequence[int], sampling: Sampling) -> Completion:
            await asyncio.Event().wait()
            raise AssertionError("nobody sets it")

    async def main() -> None:
        runner = RolloutRunner(Waiting(), Renderer(Digits()), lambda: Echo(log), Grader())
        task = asyncio.create_task(runner.run(PROBLEM, 0, Sampling(max_tokens=4)))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert log == ["start", "close"]
